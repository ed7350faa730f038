"""python -m catdog"""

from catdog.edge import start

if __name__ == "__main__":
    start()
