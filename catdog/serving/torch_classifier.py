"""The same model on a GPU: torch and the float weights, instead of ONNX Runtime. Imported only where there is a GPU.

The one file of ``serving`` that needs more than the core: torch, which the endpoint's container brings, and the network
from ``catdog.training.model``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from catdog.classifier import Classifier
from catdog.training.model import load_checkpoint


class TorchClassifier(Classifier):
    """Answers with ``model.safetensors`` on ``device``; decoding, contract and verdict are Classifier's own."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        """``folder``: with model.onnx, model.safetensors and contract.json. ``threads``: of torch's work on the CPU.

        Raises ModelError or ContractError, also where the weights are not those that the contract was written for.
        """
        super().__init__(folder / "model.onnx", threads)
        torch.set_num_threads(threads)
        model, _ = load_checkpoint(folder)
        self._device = torch.device(device)
        self._model = model.to(self._device)

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, 3) at the contract's size -> float32 (N, C), each row summing to 1."""
        with torch.inference_mode():
            result = self._model(torch.tensor(images, device=self._device))  # a copy: photos are read-only arrays
        answers: npt.NDArray[np.float32] = result.float().cpu().numpy()
        return answers
