"""The same model on a GPU, where torch answers with the float weights. Imported only where there is a GPU.

It is the one file of ``serving`` that needs more than the core: torch, which the endpoint's container brings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from catdog.classifier import Classifier
from catdog.training.model import load_checkpoint


class TorchClassifier(Classifier):
    """Answers with ``model.safetensors`` on a device; decoding, contract and verdict are Classifier's own."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        """``folder``: with model.onnx, model.safetensors and contract.json. ``threads``: of torch's work on the CPU.

        Raises ModelError or ContractError, also where the weights are not those that the contract was written for.
        """
        super().__init__(folder / "model.onnx", threads)
        torch.set_num_threads(threads)
        self._arguments = (folder, device, threads)
        self._model = load_checkpoint(folder).to(device)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Answer uint8 (N, H, W, 3) of the contract's size with float32 (N, C), each row summing to 1."""
        return self._model.probabilities(images)
