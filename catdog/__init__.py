"""catdog: tell cats from dogs in photos.

    from catdog import load
    load().predict("photo.jpg")         # Prediction(source='photo.jpg', label='cat', confidence=0.99..., ...)

    from catdog import load_detector
    load_detector("heads.onnx").detect("photo.jpg").objects     # a box around each head

A name is imported when it is first used: onnxruntime and numpy take most of a start's time.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing has it, whose import takes longer than all that comes before catdog.start
if TYPE_CHECKING:
    from typing import Any

    from catdog.classifier import Classifier, load
    from catdog.contract import Contract
    from catdog.detection.answers import Detection
    from catdog.detection.detector import Detector, load_detector
    from catdog.errors import CatdogError
    from catdog.prediction import Prediction

__all__ = [
    "CatdogError",
    "Classifier",
    "Contract",
    "Detection",
    "Detector",
    "Prediction",
    "__version__",
    "load",
    "load_detector",
]
__version__ = "0.1.0"
_HOMES = {
    "CatdogError": "errors",
    "Classifier": "classifier",
    "Contract": "contract",
    "Detection": "detection.answers",
    "Detector": "detection.detector",
    "Prediction": "prediction",
    "load": "classifier",
    "load_detector": "detection.detector",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"catdog.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'catdog' has no attribute {name!r}")
