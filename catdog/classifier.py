"""A loaded ONNX model: photos in, Predictions out, in batches. Needs onnxruntime, never torch.

from catdog import load
load().predict("photo.jpg").label
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from catdog.ahead import batches_ahead
from catdog.contract import METADATA_KEY, Contract
from catdog.errors import ContractError, ImageError, ModelError
from catdog.image import Pixels, describe, load_pixels
from catdog.machine import usable_cores
from catdog.prediction import Prediction, decide

INPUT_NAME: Final = "image"  # uint8 (N, H, W, 3)
OUTPUT_NAME: Final = "probabilities"  # float32 (N, C)
CPU_PROVIDER: Final = "CPUExecutionProvider"
BATCH_SIZE: Final = 16  # photos a model call; past 8 the rate no longer rises on a CPU, memory does


class Classifier:
    """An ONNX model with its contract. Thread-safe; photos that can't be read become answers with ``error`` set."""

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        threads: int | None = None,
        name: str = "",
        provider: str | None = None,
    ) -> None:
        """``model``: a path or the file's bytes. ``threads``: of ONNX Runtime, default the usable cores, at most 8.

        ``provider``: ONNX Runtime's execution provider, default its CPU one. Raises ModelError (no such file, no ONNX
        model, no such provider) or ContractError (no contract inside, or another version).
        """
        self.name = name or describe(model)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or min(usable_cores(), 8)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread sleeps
        options.log_severity_level = 4  # its errors come back as exceptions
        if provider not in (None, *ort.get_available_providers()):
            here = ", ".join(ort.get_available_providers())
            raise ModelError(f"execution provider {provider!r}: this onnxruntime has {here}")
        if hasattr(ort, "disable_telemetry_events"):
            ort.disable_telemetry_events()  # its wheels would report to Microsoft
        try:
            data = bytes(model) if isinstance(model, (bytes, bytearray)) else Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"{self.name}: the model can't be read ({error.strerror})") from error
        try:
            self._session = ort.InferenceSession(data, options, providers=[provider or CPU_PROVIDER])
        except Exception as error:  # its exceptions share no public base
            raise ModelError(f"{self.name}: not an ONNX model that ONNX Runtime {ort.__version__} can open") from error
        self.sha256 = hashlib.sha256(data).hexdigest()
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ContractError(f"{self.name}: the model carries no catdog contract; make it with python -m export")
        self.contract = Contract.from_json(text, self.name)
        self._check_signature()

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, 3) at the contract's size -> float32 (N, C), each row summing to 1."""
        size = self.contract.input_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ModelError(
                f"images must be uint8 (N, {size}, {size}, 3), these are {images.dtype} {tuple(images.shape)}"
            )
        if not len(images):
            return np.empty((0, len(self.contract.class_names)), np.float32)
        (result,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: images})
        return np.asarray(result, dtype=np.float32)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str and an array are iterables too
        self,
        photos: str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any],
        *,
        threshold: float | None = None,
    ) -> Prediction: ...
    @overload
    def predict(self, photos: Iterable[Any], *, threshold: float | None = None) -> list[Prediction]: ...

    def predict(self, photos: Any, *, threshold: float | None = None) -> Prediction | list[Prediction]:
        """One photo -> a Prediction; an iterable of photos -> a list of them, in its order.

        A photo is a path, encoded bytes, a PIL image, or a uint8 array (H, W, 3); an array (N, H, W, 3) is N photos.
        A photo that can't be read never raises: its Prediction has ``error`` set and ``label`` None.
        """
        if isinstance(photos, np.ndarray) and photos.ndim == 4:
            return list(self.stream(photos, threshold=threshold))
        if isinstance(photos, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)):
            return next(self.stream([photos], threshold=threshold))
        return list(self.stream(photos, threshold=threshold))

    def stream(
        self,
        photos: Iterable[Any],
        *,
        names: Iterable[str] | None = None,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Iterator[Prediction]:
        """Predictions one by one, in order, for any number of photos with bounded memory.

        While the model works on one batch, threads decode the next. ``names`` replaces the photos' own as ``source``.
        An item may also be an ImageError, which becomes its answer, or a function without arguments that gives the
        encoded bytes or raises one (a download, say): it is called on one of the decoding threads.
        """
        labelled = ((photo, describe(photo)) for photo in photos) if names is None else zip(photos, names, strict=True)
        for batch in batches_ahead(lambda item: (item[1], self._pixels(*item)), labelled, batch_size):
            yield from self._answer(batch, threshold)

    def _pixels(self, photo: Any, name: str) -> Pixels | ImageError:
        if isinstance(photo, ImageError):
            return photo
        try:
            return load_pixels(photo() if callable(photo) else photo, self.contract, name)
        except ImageError as error:
            return error

    def _answer(self, batch: list[tuple[str, Pixels | ImageError]], threshold: float | None) -> list[Prediction]:
        good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, ImageError)]
        answers: Iterator[Prediction] = iter(())
        if good:
            rows = self.probabilities(np.stack([pixels for _, pixels in good]))
            answers = iter(decide([name for name, _ in good], rows, self.contract, threshold))
        return [Prediction.failed(n, p) if isinstance(p, ImageError) else next(answers) for n, p in batch]

    def _check_signature(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        size, classes = self.contract.input_size, len(self.contract.class_names)
        fits = (
            len(inputs) == 1
            and (inputs[0].name, inputs[0].type) == (INPUT_NAME, "tensor(uint8)")
            and inputs[0].shape[1:] == [size, size, 3]
            and [(o.name, o.type) for o in outputs] == [(OUTPUT_NAME, "tensor(float)")]
            and outputs[0].shape[1:] == [classes]
        )
        if not fits:
            raise ModelError(
                f"{self.name}: the model's inputs and outputs don't fit its contract "
                f"({INPUT_NAME} uint8 (N, {size}, {size}, 3) -> {OUTPUT_NAME} float32 (N, {classes}))"
            )


def load(
    model: bytes | str | os.PathLike[str] | None = None, *, threads: int | None = None, provider: str | None = None
) -> Classifier:
    """A classifier from an ONNX file, by default the embedded cat-or-dog model; raises as ``Classifier`` does."""
    if model is not None:
        return Classifier(model, threads, provider=provider)
    try:
        embedded = files("catdog").joinpath("assets", "catdog.onnx").read_bytes()
    except OSError as error:
        raise ModelError("the embedded model is missing from this installation; name an ONNX file") from error
    return Classifier(embedded, threads, name="the embedded model", provider=provider)
