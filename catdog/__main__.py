"""python -m catdog"""

from catdog.start import start

if __name__ == "__main__":
    start()
