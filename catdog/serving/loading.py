"""The folder of a packed model to a Classifier that is known to work, warm, on a GPU or a CPU.

    contract.json, model.onnx, golden.json (and model.safetensors for a GPU) -> load_model -> Classifier

Whatever is wrong with the folder is a CatdogError with one sentence, and nothing is served.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import numpy as np

from catdog.classifier import BATCH_SIZE, Classifier
from catdog.contract import Contract
from catdog.errors import ContractError, ModelError, SettingsError
from catdog.serving import golden
from catdog.serving.requests import ALLOWED_S3, allowed_prefixes

WEIGHTS_NAME: Final = "model.safetensors"
CONTRACT_NAME: Final = "contract.json"
ONNX_NAME: Final = "model.onnx"
GOLDEN_NAME: Final = "golden.json"
THREADS: Final = "CATDOG_THREADS"
DEFAULT_THREADS: Final = 1
"""Of one model call. A server has a worker a core; with more threads each, they would only wait for one another."""
TORCH_TOLERANCE: Final = 0.25
"""Between an int8 file's answers and the float weights' own, on pictures that are no photos of anything. The weights
are proven to be the right ones by their fingerprint; this finds a GPU that computes nonsense."""

_log = logging.getLogger(__name__)


def load_model(folder: Path, device: str | None = None) -> Classifier:
    """The packed model, checked and warm. ``device``: torch's name of a GPU, None for ONNX Runtime on the CPU.

    Raises CatdogError: something is missing, damaged or doesn't fit, or the golden photos get other answers.
    """
    allowed_prefixes(os.environ.get(ALLOWED_S3, ""))  # a typo ends the start, not a request
    threads = _threads(os.environ.get(THREADS, ""))
    contract = Contract.read(folder / CONTRACT_NAME)
    classifier = Classifier(folder / ONNX_NAME, threads)
    check_same(contract, classifier)
    try:
        text = (folder / GOLDEN_NAME).read_bytes()
    except OSError as error:
        raise ModelError(f"{folder / GOLDEN_NAME}: can't be read ({error.strerror}); pack the model again") from error
    photos, backend = golden.check(classifier, text), f"ONNX Runtime on the CPU, {threads} thread(s)"
    if device is not None and not (folder / WEIGHTS_NAME).is_file():
        _log.warning("catdog: %s is not used: the model was packed without %s", device, WEIGHTS_NAME)
    elif device is not None:
        from catdog.serving.torch_classifier import TorchClassifier

        classifier, backend = TorchClassifier(folder, device, threads), f"torch on {device}"
        golden.check(classifier, text, TORCH_TOLERANCE)
    _warm_up(classifier)
    _log.info("catdog: model %s on %s, %d golden photos answered", contract.model_fingerprint[:12], backend, photos)
    return classifier


def gpu(index: object) -> str | None:
    """torch's name of the GPU of this worker, None where torch is not installed or sees none."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return f"cuda:{index}" if isinstance(index, int) and index >= 0 else "cuda:0"


def check_same(contract: Contract, classifier: Classifier) -> None:
    """Raise ContractError where contract.json and the ONNX file's own differ in more than measured quality."""
    if contract.with_(quality={}) != classifier.contract.with_(quality={}):
        raise ContractError(
            f"{classifier.name}: its contract is not that of the {CONTRACT_NAME} beside it; export the model again"
        )


def _threads(text: str) -> int:
    if not text:
        return DEFAULT_THREADS
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise SettingsError(f"{THREADS}: must be a number of threads, 1 to 256, not {text!r}")
    return int(text)


def _warm_up(classifier: Classifier) -> None:
    """The first call of each size allocates, and on a GPU chooses its kernels; no caller should wait for that."""
    size = classifier.contract.input_size
    for count in (BATCH_SIZE, 1):
        classifier.probabilities(np.zeros((count, size, size, 3), np.uint8))
