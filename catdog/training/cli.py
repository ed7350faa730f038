"""The command ``train.py``: it turns arguments into settings, and errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from catdog.errors import CatdogError, TrainingError, TrainingStopped
from catdog.training.settings import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return the exit code: 0 done, 1 training failed, 2 unusable settings or data, 130 Ctrl-C, 143 SIGTERM."""
    try:
        settings = parse(sys.argv[1:] if argv is None else argv)
        settings.check_paths()
        # Imported after the checks, since torch takes seconds, which --help and a typo need not wait for.
        from catdog.training.run import run_training

        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        run_training(settings)
    except TrainingStopped as stopped:
        sys.stderr.write(f"train.py: {stopped}\n")
        return 128 + stopped.signal  # as shells have it
    except CatdogError as error:
        # SageMaker's toolkit takes a failure's reason from where stderr first names one of Python's own exceptions.
        name = "Exception" if "TRAINING_JOB_NAME" in os.environ else "train.py: error"
        sys.stderr.write(f"{name}: {error}\n")
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        sys.stderr.write("train.py: interrupted; the same command goes on from the last checkpoint, if there is one\n")
        return 130
    return 0
