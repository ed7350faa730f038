"""Train a classifier: ``python train.py --data photos.zip --output runs/first``; ``--help`` tells the rest.

The same file runs on a laptop and as a SageMaker training job's entry point.
"""

from __future__ import annotations

if __name__ == "__main__":
    from catdog.start import start

    start("train")
