"""python -m catdog.score"""

if __name__ == "__main__":  # worker processes import this file, and need no command line
    from catdog.start import start

    start("score")
