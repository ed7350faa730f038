"""What a worker does: inputs to rows, with one model and one core.

    bytes -> sha256 -> pixels -> model, eight photos at once -> Row

Every engine, here and on Ray, calls this and nothing else, so the rows don't depend on who made them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

from catdog.contract import Task
from catdog.detection.detector import Detector
from catdog.detection.models import Model, load_model
from catdog.errors import DataError, ImageError, ModelError
from catdog.image import Pixels, Size, load_sized_pixels, out_of_memory
from catdog.score.rows import Row
from catdog.score.sorting import Sorter
from catdog.sources import Input
from catdog.sources.contents import File

BATCH: Final = 8  # photos a model call: past it no faster, but with more memory (benchmarks/execution.py)
READ_AHEAD_BYTES: Final = 8 * 2**20  # larger photos are read when their turn comes, so that few wait in memory
_PILLOW_BLOCKS: Final = 4  # of 16 MiB at most, that Pillow keeps for its next image instead of giving them back

Read = Callable[[], bytes]
"""The bytes of an input; raises ImageError."""


@dataclass(frozen=True)
class Job:
    """What the rows depend on, besides the inputs; small, and sent to every worker."""

    model: str | None
    """An ONNX file; None is the embedded one."""
    model_sha256: str
    """Of that file: workers refuse another one."""
    threshold: float | None = None
    """Confidence under which the answer is "unsure", or a head is not given, [0, 1]; None is the contract's."""
    provider: str | None = None
    """ONNX Runtime's execution provider; None is the CPU's."""
    sorter: Sorter | None = None
    """Puts each answered photo into the folder of its label."""
    task: Task = "classify"
    """What the model is for."""
    fast: bool = False
    """Whether photos are answered at the contract's smaller size where that is sure."""


class Seconds(NamedTuple):
    """What a worker's time went into."""

    reading: float = 0.0
    """Waiting for bytes."""
    decoding: float = 0.0
    model: float = 0.0

    def plus(self, other: Seconds) -> Seconds:
        """Both together."""
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))


class Answer(NamedTuple):
    """A task's rows, one for each of its inputs in their order."""

    rows: list[Row]
    seconds: Seconds


class Scorer:
    """A loaded model that answers tasks. Raises ModelError or ContractError when it can't be loaded."""

    def __init__(self, job: Job) -> None:
        self.model = open_model(job)
        self._threshold = job.threshold
        self._sorter = job.sorter
        Image.core.set_blocks_max(_PILLOW_BLOCKS)  # type: ignore[attr-defined]

    def __call__(self, inputs: Sequence[Input], reads: Sequence[Read] | None = None) -> Answer:
        """Rows for ``inputs``; ``reads``: where their bytes come from, when somebody reads ahead.

        What is wrong with one photo is in its row. Raises DataError for what is wrong with all (credentials, a full
        disk).
        """
        reads = reads or [partial(item.content.read, item.source) for item in inputs]
        rows: list[Row] = []
        spent = Seconds()
        for start in range(0, len(inputs), BATCH):
            some, seconds = self._score_batch(inputs[start : start + BATCH], reads[start : start + BATCH])
            rows += some
            spent = spent.plus(seconds)
        return Answer(rows, spent)

    def _score_batch(self, inputs: Sequence[Input], reads: Sequence[Read]) -> tuple[list[Row], Seconds]:
        opened, spent = [], Seconds()
        for item, read in zip(inputs, reads, strict=True):
            photo, seconds = self._decode_photo(item, read)
            opened.append(photo)
            spent = spent.plus(seconds)
        begin = time.perf_counter()
        answers = iter(self._answer_photos([photo for photo in opened if isinstance(photo, _Photo)]))
        rows = [photo if isinstance(photo, Row) else next(answers) for photo in opened]
        spent = spent.plus(Seconds(model=time.perf_counter() - begin))
        if self._sorter:
            for item, photo, row in zip(inputs, opened, rows, strict=True):
                if isinstance(photo, _Photo) and row.label is not None:
                    self._sorter.place(row.label, item.source, photo.original or _read_again(item))
        return rows, spent

    def _decode_photo(self, item: Input, read: Read) -> tuple[_Photo | Row, Seconds]:
        begin = read_at = time.perf_counter()
        sha256 = None
        try:
            data = read()
            read_at = time.perf_counter()
            sha256 = hashlib.sha256(data).hexdigest()
            pixels, size = load_sized_pixels(data, self.model.contract, item.source)
            photo: _Photo | Row = _Photo(sha256, pixels, size, self._choose_original(item, data))
        except ImageError as error:
            photo = Row.failed(error, sha256)
        except MemoryError:
            photo = Row.failed(out_of_memory(item.source), sha256)
        return photo, Seconds(reading=read_at - begin, decoding=time.perf_counter() - read_at)

    def _choose_original(self, item: Input, data: bytes) -> Path | bytes | None:
        """Return what is sorted into a folder; None where nothing is, or where it is too large to wait in memory."""
        if self._sorter is None:
            return None
        if isinstance(item.content, File):
            return Path(item.content.path)
        return data if len(data) <= READ_AHEAD_BYTES else None

    def _answer_photos(self, photos: Sequence[_Photo]) -> list[Row]:
        if not photos:
            return []
        if isinstance(self.model, Detector):
            found = self.model.answer_batch([("", (photo.pixels, photo.size)) for photo in photos], self._threshold)
            return [
                Row("ok", None, None, (), *photo.size, photo.sha256, heads=answer.objects or ())
                for photo, answer in zip(photos, found, strict=True)
            ]
        answers = self.model.answer_batch([("", photo.pixels) for photo in photos], self._threshold)
        return [
            Row("ok", answer.label, answer.confidence, tuple((answer.probabilities or {}).values()), *p.size, p.sha256)
            for p, answer in zip(photos, answers, strict=True)
        ]


class _Photo(NamedTuple):
    sha256: str
    pixels: Pixels
    size: Size
    original: Path | bytes | None


def _read_again(item: Input) -> bytes:
    try:
        return item.content.read(item.source)
    except ImageError as error:
        raise DataError(f"{error}; it can't be sorted into a folder") from error


def open_model(job: Job) -> Model:
    """The job's model on one thread; raises ModelError when it is not the file that the run began with."""
    model = load_model(job.model, job.task, threads=1, provider=job.provider, fast=job.fast)
    if model.sha256 != job.model_sha256:
        raise ModelError(f"{model.name}: the file was replaced during the run; give --restart to begin anew")
    return model


def read_ahead(item: Input) -> bytes | ImageError | None:
    """Read an input on another thread; return an error, or None when its bytes are too many to wait in memory."""
    if (item.content.size() or 0) > READ_AHEAD_BYTES:
        return None
    try:
        return item.content.read(item.source, READ_AHEAD_BYTES)
    except ImageError as error:
        return None if error.reason == "too_large" else error
