"""Load a packed model, prove that it works here, and warm it up, on a GPU or a CPU.

The folder holds contract.json, model.onnx, golden.json, and for a GPU model.safetensors. Whatever is wrong with it is
a CatdogError with one sentence, and nothing is served.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from catdog.classifier import Classifier
from catdog.contract import CONTRACT_NAME, WEIGHTS_NAME, Contract
from catdog.detection.detector import Detector
from catdog.detection.models import Model
from catdog.errors import ContractError, ModelError, SettingsError
from catdog.onnx_model import BATCH_SIZE
from catdog.serving import golden
from catdog.serving.requests import ALLOWED_S3, parse_prefixes

ONNX_NAME: Final = "model.onnx"
GOLDEN_NAME: Final = "golden.json"
THREADS: Final = "CATDOG_THREADS"
DEFAULT_THREADS: Final = 1
"""Threads of a model call. A server has a worker for each core; with more threads they would wait for one another."""
TORCH_TOLERANCE: Final = 0.25
"""The most that float weights may differ from the int8 file's golden answers, on pictures that show nothing. That the
weights are the right ones is known from their fingerprint; this finds a GPU that computes nonsense."""

_log = logging.getLogger(__name__)


def load_model(folder: Path, device: str | None = None, batches: Sequence[int] = (BATCH_SIZE, 1)) -> Model:
    """Return the packed model, checked and warm. ``device``: torch's name of a GPU; None: ONNX Runtime on the CPU.

    ``batches``: the sizes to warm up for.

    Raises CatdogError: something is missing, damaged or doesn't fit, or the golden photos get other answers.
    """
    parse_prefixes(os.environ.get(ALLOWED_S3, ""))  # a typo ends the start, not a request
    threads = _parse_threads(os.environ.get(THREADS, ""))
    contract = Contract.read(folder / CONTRACT_NAME)
    model: Model = (Detector if contract.task == "detect" else Classifier)(folder / ONNX_NAME, threads)
    check_same_contract(contract, model)
    try:
        text = (folder / GOLDEN_NAME).read_bytes()
    except OSError as error:
        raise ModelError(f"{folder / GOLDEN_NAME}: can't be read ({error.strerror}); pack the model again") from error
    photos, backend = golden.check_golden(model, text), f"ONNX Runtime on the CPU, {threads} thread(s)"
    if device is not None and isinstance(model, Detector):
        _log.warning("catdog: %s is not used: a detector runs on the CPU", device)
    elif device is not None and not (folder / WEIGHTS_NAME).is_file():
        _log.warning("catdog: %s is not used: the model was packed without %s", device, WEIGHTS_NAME)
    elif device is not None:
        from catdog.training.model import TorchClassifier

        model, backend = TorchClassifier(folder, device, threads), f"torch on {device}"
        golden.check_golden(model, text, TORCH_TOLERANCE)
    warm_up(model, batches)
    _log.info("catdog: model %s on %s, %d golden photos answered", contract.model_fingerprint[:12], backend, photos)
    return model


def find_gpu(index: object) -> str | None:
    """Return torch's name of this worker's GPU, None where torch is not installed or sees none."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return f"cuda:{index}" if isinstance(index, int) and index >= 0 else "cuda:0"


def check_same_contract(contract: Contract, model: Model) -> None:
    """Raise ContractError where contract.json and the one in the ONNX file differ in more than export adds to it."""
    ours, theirs = (one.with_(quality={}, fast_size=None, fast_bound=None) for one in (contract, model.contract))
    if ours != theirs:
        raise ContractError(
            f"{model.name}: its contract is not that of the {CONTRACT_NAME} beside it; export the model again"
        )


def _parse_threads(text: str) -> int:
    if not text:
        return DEFAULT_THREADS
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise SettingsError(f"{THREADS}: must be a number of threads, 1 to 256, not {text!r}")
    return int(text)


def warm_up(model: Model, batches: Sequence[int] = (BATCH_SIZE, 1)) -> None:
    """Make the first call of each size, which allocates memory and on a GPU chooses kernels, before a caller waits."""
    size = model.contract.input_size
    call = model.propose if isinstance(model, Detector) else model.probabilities
    for count in batches:
        call(np.zeros((count, size, size, 3), np.uint8))


def take_bodies_as_bytes() -> None:
    """Make SageMaker's serving toolkit pass on all bodies as bytes; does nothing where it isn't installed.

    It decodes those of the types in UTF8_TYPES itself, before any function of ours is called, and answers a body that
    isn't UTF-8 with 500 and a traceback (sagemaker-pytorch-inference 2.0.25, transformer.py). ``requests.parse`` says
    400 to that.
    """
    try:
        from sagemaker_inference import content_types
    except ImportError:
        return
    content_types.UTF8_TYPES = []
