"""A loaded detector: photos in, boxes around pets' heads out, in batches. It needs onnxruntime and never torch.

from catdog import load_detector
load_detector("model.onnx").detect("photo.jpg").objects
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, ClassVar, Final, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from catdog.contract import Contract, Task
from catdog.detection.answers import Detection
from catdog.detection.decoding import find_objects
from catdog.errors import ImageError, ModelError
from catdog.image import Pixels, Size, describe, load_sized_pixels
from catdog.onnx_model import BATCH_SIZE, OnnxModel, find_model, is_one_photo

BOXES_NAME: Final = "boxes"  # float32 (N, K, 4), px of the input
SCORES_NAME: Final = "scores"  # float32 (N, K, C), [0, 1]


class Detector(OnnxModel):
    """An ONNX model that finds pets' heads.

    It is thread-safe, and can be pickled and copied. A photo that can't be read becomes an answer with ``error`` set.
    """

    task: ClassVar[Task] = "detect"
    answer_type: ClassVar[type[Detection]] = Detection

    def propose(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Answer uint8 (N, H, W, 3) of the contract's size with boxes (N, K, 4), px of it, and scores (N, K, C).

        Both are float32. ``catdog.detection.decoding.find_objects`` says which of them are heads. Raises ModelError.
        """
        boxes, scores = self._run(images, [BOXES_NAME, SCORES_NAME])
        places = boxes.shape[1] if boxes.ndim == 3 else -1
        expected = [(len(images), places, 4), (len(images), places, len(self.contract.class_names))]
        if [boxes.shape, scores.shape] != expected:  # a file may say one thing and do another
            raise ModelError(f"{self.name}: the model's outputs have the shapes {boxes.shape} and {scores.shape}")
        return boxes, scores

    @overload
    def detect(  # type: ignore[overload-overlap]  # a str and an array are iterables too
        self,
        photos: str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[Any] | None,
        *,
        threshold: float | None = None,
    ) -> Detection: ...
    @overload
    def detect(self, photos: Iterable[Any], *, threshold: float | None = None) -> list[Detection]: ...

    def detect(self, photos: Any, *, threshold: float | None = None) -> Detection | list[Detection]:
        """Return a Detection for one photo, or a list of them, in order, for an iterable of photos.

        ``photos`` are what ``Classifier.predict`` takes. A photo that can't be read never raises: its Detection has
        ``error`` set and ``objects`` None. Raises ModelError where the model answers with NaN.
        """
        if is_one_photo(photos):
            return next(self.stream([photos], threshold=threshold))
        return list(self.stream(photos, threshold=threshold))

    def stream(
        self,
        photos: Iterable[Any],
        *,
        names: Iterable[str] | None = None,
        threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
        load_pixels: Callable[[Any, Contract, str], tuple[Pixels, Size]] = load_sized_pixels,
    ) -> Iterator[Detection]:
        """Yield Detections one by one, in order, for any number of photos with bounded memory.

        The arguments are those of ``Classifier.stream``; ``load_pixels`` replaces ``catdog.image.load_sized_pixels``.
        """
        named = ((photo, describe(photo)) for photo in photos) if names is None else zip(photos, names, strict=True)
        for batch in self.load_batches(named, load_pixels, batch_size):
            yield from self.answer_batch(batch, threshold)

    def answer_batch(
        self, batch: Sequence[tuple[str, tuple[Pixels, Size] | ImageError]], threshold: float | None = None
    ) -> list[Detection]:
        """Return the answers to photos, given by their names as ``load_sized_pixels`` gives them, or as why not."""
        threshold = self.threshold if threshold is None else threshold
        good = [loaded[0] for _, loaded in batch if not isinstance(loaded, ImageError)]
        outputs = zip(*self.propose(np.stack(good)), strict=True) if good else iter(())
        answers = []
        for name, loaded in batch:
            if isinstance(loaded, ImageError):
                answers.append(Detection.failed(name, loaded))
            else:
                _, size = loaded
                answers.append(Detection(name, *size, find_objects(*next(outputs), size, self.contract, threshold)))
        return answers

    def _fits(self, outputs: Sequence[Any]) -> bool:
        shapes = [output.shape for output in outputs]
        return (
            [(o.name, o.type) for o in outputs] == [(n, "tensor(float)") for n in (BOXES_NAME, SCORES_NAME)]
            and all(len(shape) == 3 and isinstance(shape[1], int) and shape[1] > 0 for shape in shapes)
            and shapes[0][1] == shapes[1][1]
            and [shape[2] for shape in shapes] == [4, len(self.contract.class_names)]
        )

    def _describe_outputs(self) -> str:
        classes = len(self.contract.class_names)
        return f"{BOXES_NAME} float32 (N, K, 4), {SCORES_NAME} float32 (N, K, {classes})"


def load_detector(
    model: bytes | str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    provider: str | None = None,
    threshold: float | None = None,
) -> Detector:
    """Return a detector; ``threshold`` replaces the contract's. Raises as ``Detector`` does.

    ``model``: the embedded one (the default, or the word "embedded"), an ONNX file or its bytes, a run folder, or the
    address of an ONNX file in an object store.
    """
    data, name = find_model(model, "heads.onnx", "the embedded detector")
    return Detector(data, threads, name, provider, threshold)
