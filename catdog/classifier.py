"""A loaded classifier: photos in, Predictions out, in batches.

from catdog import load
load().predict("photo.jpg").label
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, ClassVar, Final, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from catdog.contract import Contract, Task
from catdog.errors import ImageError, ModelError
from catdog.image import Pixels, describe, load_pixels, shrink
from catdog.onnx_model import BATCH_SIZE, EMBEDDED_NAME, OnnxModel, find_model, is_one_photo
from catdog.prediction import Prediction, decide

OUTPUT_NAME: Final = "probabilities"  # float32 (N, C)
EVIDENCE_NAME: Final = "evidence"  # float32 (N, C, h, w), of a model that can say where it looked


class Classifier(OnnxModel):
    """An ONNX model that answers whole photos.

    It is thread-safe, and can be pickled and copied. A photo that can't be read becomes an answer with ``error`` set.
    """

    task: ClassVar[Task] = "classify"
    answer_type: ClassVar[type[Prediction]] = Prediction

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Answer uint8 (N, H, W, 3) of the contract's size with float32 (N, C), each row summing to 1."""
        size, bound = self.contract.fast_size, self.contract.fast_bound
        if not self.fast or size is None or bound is None:
            (result,) = self._run(images, [OUTPUT_NAME])
            return result
        self._check_images(images)
        result = self.answer_small(images, size)
        is_left = ~is_sure(result, bound)
        (result[is_left],) = self._run(images[is_left], [OUTPUT_NAME])
        return result

    def answer_small(self, images: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.float32]:
        """Answer as ``probabilities`` does, but look at a smaller picture of each photo, (size, size)."""
        (result,) = self._run(shrink(images, size), [OUTPUT_NAME], size)
        return result

    def evidence(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Answer at the contract's size, and return what each place says for each class, float32 (N, C, h, w).

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
        load_pixels: Callable[[Any, Contract, str], Pixels] = load_pixels,
    ) -> Iterator[Prediction]:
        """Yield Predictions one by one, in order, for any number of photos with bounded memory.

        While the model works on one batch, threads decode the next. ``names`` replaces the photos' own as ``source``.
        An item may also be an ImageError, which becomes its answer, or a function without arguments that returns the
        encoded bytes or raises one (a download, say): it is called on one of the decoding threads.
        ``load_pixels`` replaces ``catdog.image.load_pixels``, and must give the same pixels or raise ImageError.
        """
        named = ((photo, describe(photo)) for photo in photos) if names is None else zip(photos, names, strict=True)
        for batch in self.load_batches(named, load_pixels, batch_size):
            yield from self.answer_batch(batch, threshold)

    def answer_batch(
        self, batch: Sequence[tuple[str, Pixels | ImageError]], threshold: float | None = None
    ) -> list[Prediction]:
        """Return the answers to photos, given by their names as pixels (H, W, 3) or as why there are none."""
        threshold = self.threshold if threshold is None else threshold
        good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, ImageError)]
        answers: Iterator[Prediction] = iter(())
        if good:
            rows = self.probabilities(np.stack([pixels for _, pixels in good]))
            answers = iter(decide([name for name, _ in good], rows, self.contract, threshold))
        return [Prediction.failed(n, p) if isinstance(p, ImageError) else next(answers) for n, p in batch]

    def _fits(self, outputs: Sequence[Any]) -> bool:
        classes = len(self.contract.class_names)
        self.has_evidence = len(outputs) == 2
        return (
            [(o.name, o.type) for o in outputs[:1]] == [(OUTPUT_NAME, "tensor(float)")]
            and outputs[0].shape[1:] == [classes]
            and [(o.name, o.type) for o in outputs[1:]] in ([], [(EVIDENCE_NAME, "tensor(float)")])
            and all(o.shape[1:2] == [classes] and _are_sides(o.shape[2:]) for o in outputs[1:])
        )

    def _describe_outputs(self) -> str:
        return f"{OUTPUT_NAME} float32 (N, {len(self.contract.class_names)})"


def is_sure(probabilities: npt.NDArray[np.floating], bound: float) -> npt.NDArray[np.bool_]:
    """Return, (N,), whether each row of a smaller picture's probabilities, float (N, C), stands as the answer."""
    return np.asarray(probabilities.max(1).astype(np.float64) >= bound)  # which is false of NaN


def _are_sides(shape: list[object]) -> bool:
    return len(shape) == 2 and all(isinstance(side, str) or (isinstance(side, int) and side > 0) for side in shape)


def load(
    model: bytes | str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    provider: str | None = None,
    threshold: float | None = None,
    fast: bool = False,
) -> Classifier:
    """Return a classifier; ``threshold`` replaces the contract's. Raises as ``Classifier`` does.

    ``fast``: answer a photo at a smaller size first, and again at the whole one only where that is not sure: about
    twice as quick, and another answer for few photos. Raises ModelError where the model was not made for it.

    ``model``: the embedded one (the default, or the word "embedded"), an ONNX file or its bytes, a run folder, or the
    address of an ONNX file in an object store.
    """
    data, name = find_model(model, "catdog.onnx", EMBEDDED_NAME)
    return Classifier(data, threads, name, provider, threshold, fast)
