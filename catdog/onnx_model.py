"""An ONNX file with its contract, opened: what classifiers and detectors have in common.

It needs onnxruntime and never torch.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from catdog.ahead import batches_ahead
from catdog.contract import METADATA_KEY, WEIGHTS_NAME, Contract, Task
from catdog.errors import ContractError, ImageError, ModelError
from catdog.image import describe, out_of_memory
from catdog.machine import usable_cores
from catdog.prediction import check_threshold
from catdog.sources.names import is_object_uri
from catdog.text import first_line

P = TypeVar("P")

INPUT_NAME: Final = "image"  # uint8 (N, H, W, 3)
CPU_PROVIDER: Final = "CPUExecutionProvider"
EMBEDDED: Final = "embedded"  # names the model that is inside catdog, wherever a model is named
EMBEDDED_NAME: Final = "the embedded model"
RUN_MODELS: Final = ("model-int8.onnx", "model.onnx")
"""A run folder's ONNX files; the first one that is there is loaded. int8 is two to three times as fast on a CPU."""
MAX_MODEL_BYTES: Final = 2**31  # an ONNX file is one protobuf message, which can't be larger
BATCH_SIZE: Final = 16  # photos a model call; past 8 the rate no longer rises on a CPU, memory does
_USES: Final[dict[Task, str]] = {
    "classify": "answers whole photos and finds no heads; use catdog predict",
    "detect": "finds heads and doesn't answer whole photos; use catdog detect",
}


class OtherTaskError(ModelError):
    """The model is for another task than the one that it was opened for."""


class OnnxModel(ABC):
    """An ONNX model with its contract; a subclass knows what its outputs mean.

    It is thread-safe, and can be pickled and copied.
    """

    task: ClassVar[Task]

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        threads: int | None = None,
        name: str = "",
        provider: str | None = None,
        threshold: float | None = None,
        fast: bool = False,
    ) -> None:
        """Open ``model``, a path or the file's bytes.

        ``threads``: of ONNX Runtime, default the usable cores, at most 8. ``provider``: ONNX Runtime's execution
        provider, default its CPU one. ``threshold`` replaces the contract's. ``fast``: answer a photo at the contract's
        smaller size where that is sure. Raises ModelError (no such file, no ONNX model, one for another task, no such
        provider, no smaller size), ContractError (no contract inside, or another version) or SettingsError.
        """
        self.name = name or describe(model)
        self.threshold = None if threshold is None else check_threshold(threshold)
        try:
            self._data = bytes(model) if isinstance(model, (bytes, bytearray)) else Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"{self.name}: the model can't be read ({error.strerror})") from error
        self._threads, self._provider = threads, provider
        self._session = self._open_session()
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ContractError(f"{self.name}: the model carries no catdog contract; make it with catdog export")
        self.contract = Contract.from_json(text, self.name)
        if self.contract.task != self.task:
            raise OtherTaskError(f"{self.name}: {_USES[self.contract.task]}")
        self._check_signature()
        if fast and self.contract.fast_size is None:
            raise ModelError(
                f"{self.name}: has no fast pass; leave --fast out, or make the file anew with catdog export --int8"
            )
        self.fast = fast

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._data, self._threads, self.name, self._provider, self.threshold, self.fast)

    @property
    def data(self) -> bytes:
        """The ONNX file."""
        return self._data

    @cached_property  # since few need it, and it takes as long as a photo
    def sha256(self) -> str:
        """The file's checksum, in hexadecimal digits."""
        return hashlib.sha256(self._data).hexdigest()

    def load_batches(
        self, named: Iterable[tuple[Any, str]], load: Callable[[Any, Contract, str], P], batch_size: int = BATCH_SIZE
    ) -> Iterator[list[tuple[str, P | ImageError]]]:
        """Yield photos' names with what ``load`` makes of them, or why there is nothing, in batches and in order.

        Threads decode one batch ahead. A photo may also be an ImageError, or a function without arguments that returns
        the encoded bytes or raises one.
        """
        return batches_ahead(lambda item: (item[1], self._load(*item, load)), named, batch_size)

    def _load(self, photo: Any, name: str, load: Callable[[Any, Contract, str], P]) -> P | ImageError:
        if isinstance(photo, ImageError):
            return photo
        try:
            return load(photo() if callable(photo) else photo, self.contract, name)
        except ImageError as error:
            return error
        except MemoryError:
            return out_of_memory(name)

    def _run(
        self, images: npt.NDArray[np.uint8], outputs: list[str], size: int | None = None
    ) -> list[npt.NDArray[np.float32]]:
        self._check_images(images, size)
        if not len(images):
            shapes = {o.name: o.shape[1:] for o in self._session.get_outputs()}
            # Of no photos, a side that has a name instead of a number, since it depends on theirs, is 0.
            return [np.empty([0, *(n if isinstance(n, int) else 0 for n in shapes[o])], np.float32) for o in outputs]
        try:
            results = self._session.run(outputs, {INPUT_NAME: images})
        except Exception as error:  # its exceptions share no public base
            raise ModelError(f"{self.name}: the model fails on photos ({first_line(error)})") from error
        return [np.asarray(result, np.float32) for result in results]

    def _check_images(self, images: npt.NDArray[np.uint8], size: int | None = None) -> None:
        size = size or self.contract.input_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ModelError(
                f"images must be uint8 (N, {size}, {size}, 3), these are {images.dtype} {tuple(images.shape)}"
            )

    def _open_session(self) -> ort.InferenceSession:
        asked, here = self._provider or CPU_PROVIDER, ort.get_available_providers()
        if asked not in here:
            raise ModelError(f"execution provider {asked!r}: this onnxruntime has {', '.join(here)}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads or min(usable_cores(), 8)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread sleeps
        options.log_severity_level = 4  # its errors come back as exceptions
        if hasattr(ort, "disable_telemetry_events"):
            ort.disable_telemetry_events()  # its wheels would report to Microsoft
        try:
            session = ort.InferenceSession(self._data, options, providers=[asked])
        except Exception as error:  # its exceptions share no public base
            raise ModelError(f"{self.name}: not an ONNX model that ONNX Runtime {ort.__version__} can open") from error
        if asked not in session.get_providers():  # it falls back to the CPU where a provider's libraries are missing
            raise ModelError(
                f"execution provider {asked!r} could not be started on this machine; install what it needs (its driver "
                f"and libraries, in the versions of onnxruntime {ort.__version__}), or leave the provider out"
            )
        return session

    def _check_signature(self) -> None:
        inputs, size = self._session.get_inputs(), self.contract.input_size
        fits = (
            [(i.name, i.type) for i in inputs] == [(INPUT_NAME, "tensor(uint8)")]
            and len(inputs[0].shape) == 4
            and self._fits_photos(inputs[0].shape[1:])
            and self._fits(self._session.get_outputs())
        )
        if not fits:
            raise ModelError(
                f"{self.name}: the model's inputs and outputs don't fit its contract "
                f"({INPUT_NAME} uint8 (N, {size}, {size}, 3) -> {self._describe_outputs()})"
            )

    def _fits_photos(self, shape: list[object]) -> bool:
        """Whether a photo of the contract's size fits, and of its smaller one, where it names one."""
        *sides, colours = shape
        is_free = all(isinstance(side, str) for side in sides)  # a name: any number of px
        is_fixed = sides == [self.contract.input_size] * 2 and self.contract.fast_size is None
        return colours == 3 and (is_free or is_fixed)

    @abstractmethod
    def _fits(self, outputs: Sequence[Any]) -> bool:
        """Whether ONNX Runtime's description of the outputs, with name, type and shape each, is what is needed."""

    @abstractmethod
    def _describe_outputs(self) -> str:
        """Return the outputs that are needed, for an error message."""


def find_embedded(asset: str = "catdog.onnx", name: str = EMBEDDED_NAME) -> Path:
    """Return the ONNX file ``asset`` of a model that is inside catdog; raises ModelError, which calls it ``name``.

    By default the classifier's, beside which its contract lies.
    """
    path = Path(str(files("catdog"))) / "assets" / asset
    if not path.is_file():
        raise ModelError(f"{name} is missing from this installation; name an ONNX file: --model, or --detector")
    return path


def find_model(model: bytes | str | os.PathLike[str] | None, asset: str, name: str) -> tuple[bytes | Path, str]:
    """Return the ONNX file, or its bytes, that ``model`` stands for, and what it is called in messages.

    ``model``: None or the word "embedded" for the one inside catdog, the file ``asset`` called ``name``; an ONNX file
    or its bytes; a run folder; or the address of an ONNX file in an object store. Raises ModelError.
    """
    if model is None or model in (EMBEDDED, Path(EMBEDDED)):
        return find_embedded(asset, name), name
    if model == "":
        raise ModelError(f"'': names no model; give an ONNX file, a run folder, or {EMBEDDED}")
    if isinstance(model, str) and is_object_uri(model):
        from catdog.sources.objects import read_whole  # whose library a run without object stores need not have

        return read_whole(model, MAX_MODEL_BYTES), model
    if isinstance(model, (bytes, bytearray)):
        return bytes(model), describe(model)
    path = find_onnx(Path(model))
    return path, str(path)


def find_onnx(path: Path) -> Path:
    """Return the ONNX file that a path names: the file itself, or that of a run folder; raises ModelError."""
    if path.suffix == ".safetensors":
        raise ModelError(f"{path}: weights that only training and evaluation read; name the run folder or an ONNX file")
    if not path.is_dir():
        return path
    for name in RUN_MODELS:
        if (path / name).is_file():
            return path / name
    if (path / WEIGHTS_NAME).is_file():
        raise ModelError(
            f"{path}: no ONNX model in it yet; make one with: catdog export {path} --out {path}/model.onnx"
        )
    raise ModelError(f"{path}: holds no model; name an ONNX file, or a run folder of catdog train")


def is_one_photo(photos: Any) -> bool:
    """Whether this is a photo rather than several: a path, bytes, an open file, an image or an array of one."""
    if isinstance(photos, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(photos, "read"):
        return True
    if hasattr(photos, "__array__"):  # four dimensions, or a column of paths, are several photos
        kind = getattr(getattr(photos, "dtype", None), "kind", "")
        return getattr(photos, "ndim", 0) != 4 and kind not in ("O", "U", "T")
    if isinstance(photos, (list, tuple)) and photos and isinstance(photos[0], (list, tuple)):
        return True  # rows of numbers, which are refused in one answer
    return not isinstance(photos, Iterable)
