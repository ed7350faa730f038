"""Train a classifier: ``python train.py --data photos.zip --output runs/first``; ``--help`` tells the rest.

The same file runs on a laptop and as a SageMaker training job's entry point.
"""

from __future__ import annotations

from catdog.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
