"""A loaded ONNX model: photos in, Predictions out, in batches. It needs onnxruntime and never torch.

from catdog import load
load().predict("photo.jpg").label
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Final, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from catdog.ahead import batches_ahead
from catdog.contract import METADATA_KEY, WEIGHTS_NAME, Contract
from catdog.errors import ContractError, ImageError, ModelError
from catdog.image import Pixels, describe, load_pixels, out_of_memory
from catdog.machine import usable_cores
from catdog.prediction import Prediction, check_threshold, decide
from catdog.sources.names import is_object_uri

INPUT_NAME: Final = "image"  # uint8 (N, H, W, 3)
OUTPUT_NAME: Final = "probabilities"  # float32 (N, C)
EVIDENCE_NAME: Final = "evidence"  # float32 (N, C, h, w), of a model that can say where it looked
CPU_PROVIDER: Final = "CPUExecutionProvider"
EMBEDDED: Final = "embedded"  # names the model that is inside catdog, wherever a model is named
RUN_MODELS: Final = ("model-int8.onnx", "model.onnx")
"""A run folder's ONNX files; the first one that is there is loaded. int8 is two to three times as fast on a CPU."""
MAX_MODEL_BYTES: Final = 2**31  # an ONNX file is one protobuf message, which can't be larger
BATCH_SIZE: Final = 16  # photos a model call; past 8 the rate no longer rises on a CPU, memory does


class Classifier:
    """An ONNX model with its contract.

    It is thread-safe, and can be pickled and copied. A photo that can't be read becomes an answer with ``error`` set.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        threads: int | None = None,
        name: str = "",
        provider: str | None = None,
        threshold: float | None = None,
    ) -> None:
        """Open ``model``, a path or the file's bytes.

        ``threads``: of ONNX Runtime, default the usable cores, at most 8. ``provider``: ONNX Runtime's execution
        provider, default its CPU one. ``threshold`` replaces the contract's. Raises ModelError (no such file, no ONNX
        model, no such provider), ContractError (no contract inside, or another version) or SettingsError.
        """
        self.name = name or describe(model)
        self.threshold = None if threshold is None else check_threshold(threshold)
        try:
            self._data = bytes(model) if isinstance(model, (bytes, bytearray)) else Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"{self.name}: the model can't be read ({error.strerror})") from error
        self._threads, self._provider = threads, provider
        self._session = self._open_session()
        self.sha256 = hashlib.sha256(self._data).hexdigest()
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ContractError(f"{self.name}: the model carries no catdog contract; make it with catdog export")
        self.contract = Contract.from_json(text, self.name)
        self._check_signature()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._data, self._threads, self.name, self._provider, self.threshold)

    @property
    def data(self) -> bytes:
        """The ONNX file."""
        return self._data

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Answer uint8 (N, H, W, 3) of the contract's size with float32 (N, C), each row summing to 1."""
        (result,) = self._run(images, [OUTPUT_NAME])
        return result

    def evidence(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Answer as ``probabilities`` does, and return what each place says for each class, float32 (N, C, h, w).

        The mean over a photo's places, divided by the contract's temperature, is its logits. Raises ModelError where
        the model has no such output.
        """
        self.check_evidence()
        probabilities, evidence = self._run(images, [OUTPUT_NAME, EVIDENCE_NAME])
        return probabilities, evidence

    def check_evidence(self) -> None:
        """Raise ModelError unless the model says where it looked."""
        if not self.has_evidence:
            raise ModelError(
                f"{self.name}: can't show where it looked; a ResNet's file can that this catdog's export wrote"
            )

    def _run(self, images: npt.NDArray[np.uint8], outputs: list[str]) -> list[npt.NDArray[np.float32]]:
        size = self.contract.input_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ModelError(
                f"images must be uint8 (N, {size}, {size}, 3), these are {images.dtype} {tuple(images.shape)}"
            )
        if not len(images):
            shapes = {o.name: [0, *o.shape[1:]] for o in self._session.get_outputs()}
            return [np.empty(shapes[name], np.float32) for name in outputs]
        return [np.asarray(result, np.float32) for result in self._session.run(outputs, {INPUT_NAME: images})]

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str and an array are iterables too
        self,
        photos: str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[Any] | None,
        *,
        threshold: float | None = None,
    ) -> Prediction: ...
    @overload
    def predict(self, photos: Iterable[Any], *, threshold: float | None = None) -> list[Prediction]: ...

    def predict(self, photos: Any, *, threshold: float | None = None) -> Prediction | list[Prediction]:
        """Return a Prediction for one photo, or a list of them, in order, for an iterable of photos.

        A photo is a path, encoded bytes, an open binary file, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4),
        uint8 or float in [0, 1]; an array (N, H, W, 3) is N photos. A photo that can't be read never raises: its
        Prediction has ``error`` set and ``label`` None. Raises ModelError where the model answers with NaN.
        """
        if _is_one_photo(photos):
            return next(self.stream([photos], threshold=threshold))
        return list(self.stream(photos, threshold=threshold))

    def stream(
        self,
        photos: Iterable[Any],
        *,
        names: Iterable[str] | None = None,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
        load_pixels: Callable[[Any, Contract, str], Pixels] = load_pixels,
    ) -> Iterator[Prediction]:
        """Yield Predictions one by one, in order, for any number of photos with bounded memory.

        While the model works on one batch, threads decode the next. ``names`` replaces the photos' own as ``source``.
        An item may also be an ImageError, which becomes its answer, or a function without arguments that returns the
        encoded bytes or raises one (a download, say): it is called on one of the decoding threads.
        ``load_pixels`` replaces ``catdog.image.load_pixels``, and must give the same pixels or raise ImageError.
        """
        named = ((photo, describe(photo)) for photo in photos) if names is None else zip(photos, names, strict=True)
        for batch in self.load_batches(named, batch_size, load_pixels):
            yield from self._decide(batch, self.threshold if threshold is None else threshold)

    def load_batches(
        self,
        named: Iterable[tuple[Any, str]],
        batch_size: int = BATCH_SIZE,
        load_pixels: Callable[[Any, Contract, str], Pixels] = load_pixels,
    ) -> Iterator[list[tuple[str, Pixels | ImageError]]]:
        """Yield what ``stream`` gives the model, in batches: photos' names, and their pixels or why there are none."""
        return batches_ahead(lambda item: (item[1], self._load(*item, load_pixels)), named, batch_size)

    def _load(self, photo: Any, name: str, load_pixels: Callable[[Any, Contract, str], Pixels]) -> Pixels | ImageError:
        if isinstance(photo, ImageError):
            return photo
        try:
            return load_pixels(photo() if callable(photo) else photo, self.contract, name)
        except ImageError as error:
            return error
        except MemoryError:
            return out_of_memory(name)

    def _decide(self, batch: list[tuple[str, Pixels | ImageError]], threshold: float | None) -> list[Prediction]:
        good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, ImageError)]
        answers: Iterator[Prediction] = iter(())
        if good:
            rows = self.probabilities(np.stack([pixels for _, pixels in good]))
            answers = iter(decide([name for name, _ in good], rows, self.contract, threshold))
        return [Prediction.failed(n, p) if isinstance(p, ImageError) else next(answers) for n, p in batch]

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
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        size, classes = self.contract.input_size, len(self.contract.class_names)
        fits = (
            len(inputs) == 1
            and (inputs[0].name, inputs[0].type) == (INPUT_NAME, "tensor(uint8)")
            and inputs[0].shape[1:] == [size, size, 3]
            and [(o.name, o.type) for o in outputs[:1]] == [(OUTPUT_NAME, "tensor(float)")]
            and outputs[0].shape[1:] == [classes]
            and [(o.name, o.type) for o in outputs[1:]] in ([], [(EVIDENCE_NAME, "tensor(float)")])
            and all(o.shape[1:2] == [classes] and _are_sides(o.shape[2:]) for o in outputs[1:])
        )
        self.has_evidence = len(outputs) == 2
        if not fits:
            raise ModelError(
                f"{self.name}: the model's inputs and outputs don't fit its contract "
                f"({INPUT_NAME} uint8 (N, {size}, {size}, 3) -> {OUTPUT_NAME} float32 (N, {classes}))"
            )


def _are_sides(shape: list[object]) -> bool:
    return len(shape) == 2 and all(isinstance(side, int) and side > 0 for side in shape)


def find_embedded() -> Path:
    """Return the ONNX file of the model that is inside catdog, beside which its contract lies; raises ModelError."""
    path = Path(str(files("catdog"))) / "assets" / "catdog.onnx"
    if not path.is_file():
        raise ModelError("the embedded model is missing from this installation; name an ONNX file")
    return path


def load(
    model: bytes | str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    provider: str | None = None,
    threshold: float | None = None,
) -> Classifier:
    """Return a classifier; ``threshold`` replaces the contract's. Raises as ``Classifier`` does.

    ``model``: the embedded one (the default, or the word "embedded"), an ONNX file or its bytes, a run folder, or the
    address of an ONNX file in an object store.
    """
    name = ""
    if model is None or model in (EMBEDDED, Path(EMBEDDED)):
        name, model = "the embedded model", find_embedded()
    elif model == "":
        raise ModelError(f"'': names no model; give an ONNX file, a run folder, or {EMBEDDED}")
    elif isinstance(model, str) and is_object_uri(model):
        from catdog.sources.objects import read_whole  # whose library a run without object stores need not have

        name, model = model, read_whole(model, MAX_MODEL_BYTES)
    elif not isinstance(model, (bytes, bytearray)):
        model = find_onnx(Path(model))
    return Classifier(model, threads, name, provider, threshold)


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


def _is_one_photo(photos: Any) -> bool:
    if isinstance(photos, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)) or hasattr(photos, "read"):
        return True
    if hasattr(photos, "__array__"):  # four dimensions, or a column of paths, are several photos
        kind = getattr(getattr(photos, "dtype", None), "kind", "")
        return getattr(photos, "ndim", 0) != 4 and kind not in ("O", "U", "T")
    if isinstance(photos, (list, tuple)) and photos and isinstance(photos[0], (list, tuple)):
        return True  # rows of numbers, which are refused in one answer
    return not isinstance(photos, Iterable)
