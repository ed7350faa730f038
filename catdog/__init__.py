"""catdog: tell cats from dogs in photos.

    from catdog import load
    load().predict("photo.jpg")         # Prediction(source='photo.jpg', label='cat', confidence=0.99..., ...)

``load`` and ``Classifier`` import onnxruntime only when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catdog.contract import Contract
from catdog.errors import CatdogError
from catdog.prediction import Prediction

if TYPE_CHECKING:
    from catdog.classifier import Classifier, load

__all__ = ["CatdogError", "Classifier", "Contract", "Prediction", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # onnxruntime takes most of a start's time; whoever only reads a contract or a manifest need not pay for it.
    if name in ("Classifier", "load"):
        from catdog import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module 'catdog' has no attribute {name!r}")
