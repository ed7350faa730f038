"""A model file opened as what it says it is: a classifier or a detector.

Both have ``stream`` and ``answer_batch``, and their answers a source, an error and a form as JSON.
"""

from __future__ import annotations

import os

from catdog.classifier import Classifier, load
from catdog.contract import Task
from catdog.detection.detector import Detector, load_detector
from catdog.errors import SettingsError
from catdog.onnx_model import OtherTaskError

Model = Classifier | Detector


def load_model(
    model: bytes | str | os.PathLike[str] | None = None,
    task: Task | None = None,
    *,
    threads: int | None = None,
    provider: str | None = None,
    threshold: float | None = None,
    fast: bool = False,
) -> Model:
    """Return the classifier or the detector that a model is; where it is ``task``'s, it has to be that.

    The other arguments are those of ``catdog.load``. The embedded model is the classifier, unless ``task`` says
    otherwise. Raises as ``catdog.load`` does, and SettingsError for a detector that is to be ``fast``.
    """
    if task != "detect":
        try:
            return load(model, threads=threads, provider=provider, threshold=threshold, fast=fast)
        except OtherTaskError:
            if task is not None:
                raise
    detector = load_detector(model, threads=threads, provider=provider, threshold=threshold)
    if fast:
        raise SettingsError(f"--fast: goes with a classifier; {detector.name} is a detector, which has no fast pass")
    return detector
