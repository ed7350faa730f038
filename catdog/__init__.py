"""catdog: tell cats from dogs in photos.

    from catdog import load
    load().predict("photo.jpg")         # Prediction(source='photo.jpg', label='cat', confidence=0.99..., ...)

A name is imported when it is first used: onnxruntime and numpy take most of a start's time.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing has it, whose import takes longer than all that comes before catdog.start
if TYPE_CHECKING:
    from typing import Any

    from catdog.classifier import Classifier, load
    from catdog.contract import Contract
    from catdog.errors import CatdogError
    from catdog.prediction import Prediction

__all__ = ["CatdogError", "Classifier", "Contract", "Prediction", "__version__", "load"]
__version__ = "0.1.0"
_HOMES = {
    "CatdogError": "errors",
    "Classifier": "classifier",
    "Contract": "contract",
    "Prediction": "prediction",
    "load": "classifier",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"catdog.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'catdog' has no attribute {name!r}")
