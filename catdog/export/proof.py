"""The proof: the checkpoint and what was exported from it answer the same photos, and the answers are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from catdog.classifier import Classifier
from catdog.errors import ExportError
from catdog.export.photos import Labelled
from catdog.onnx_model import BATCH_SIZE
from catdog.prediction import decide
from catdog.training.model import ImageModel, Model, Probabilities, answer_photos, load_batches

EngineKind = Literal["torch", "float", "int8", "fast"]

TIMED_ROUNDS: Final = 7  # batches an engine, in turn with the others; the median counts


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The limits that an exported model must keep to, or no file is written."""

    difference: float = 1e-4
    """Largest |Δp| of the float model against torch, over all photos and classes."""
    flips: int = 0
    """Photos on which the float model's likeliest class, or its verdict at the threshold, is another than torch's."""
    accuracy_loss: float = 0.1
    """Percentage points of accuracy that the int8 model may lose against the float model."""


@dataclass(frozen=True)
class Engine:
    """A model to be compared, and how large it is."""

    kind: EngineKind
    model: Model
    size_bytes: int

    @classmethod
    def of_checkpoint(cls, model: ImageModel) -> Engine:
        """Take the trained model itself."""
        return cls("torch", model, sum(t.numel() * t.element_size() for t in model.network.state_dict().values()))

    @classmethod
    def of_file(cls, kind: EngineKind, path: Path) -> Engine:
        """Open an ONNX file as every consumer does, with the contract that is inside it."""
        return cls(kind, Classifier(path, fast=kind == "fast"), path.stat().st_size)

    def answer(self, photos: Sequence[Path | bytes]) -> Probabilities:
        """Answer encoded photos; raises ImageError."""
        return answer_photos(self.model, photos)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One engine's numbers. Where they compare, it is with torch, on the labelled and the awkward photos."""

    kind: EngineKind
    size_mb: float
    photos_per_s: float
    """Of the model alone, in batches of 16, on all usable cores."""
    difference: float
    """Largest |Δp|."""
    worst: str
    """The photo that has it."""
    flips: int
    """How many photos have another likeliest class."""
    verdicts: int
    """How many photos have another verdict, a class or "unsure"."""
    accuracy: Mapping[str, float]
    """Percent, by split and in "all"."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was measured, and which gates failed."""

    rows: tuple[Measured, ...]
    photos: Mapping[str, int]
    """How many labelled photos, by split and in "all"."""
    awkward: int
    """How many awkward photos beside those."""
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


class ProofError(ExportError):
    """A gate failed; ``proof`` has the numbers."""

    def __init__(self, proof: Proof) -> None:
        super().__init__("; ".join(proof.failures) + "; no file was written")
        self.proof = proof


def prove(
    engines: Sequence[Engine],
    labelled: Labelled,
    awkward: Mapping[str, bytes],
    gates: Gates,
    notes: Sequence[str] = (),
) -> Proof:
    """Compare ``engines``, torch's first, on all photos. Raises ImageError for a photo that can't be read."""
    photos: list[Path | bytes] = [*labelled.paths, *awkward.values()]
    names = [*map(str, labelled.paths), *awkward]
    speeds = measure_speed(engines, labelled.paths[:BATCH_SIZE])
    answers = [engine.answer(photos) for engine in engines]
    rows = tuple(
        _measure(engine, answer, answers[0], names, labelled, speed)
        for engine, answer, speed in zip(engines, answers, speeds, strict=True)
    )
    counts = {split: list(labelled.splits).count(split) for split in sorted(set(labelled.splits))}
    return Proof(
        rows=rows,
        photos=counts | {"all": len(labelled.paths)},
        awkward=len(awkward),
        failures=tuple(_find_failures(rows, gates)),
        notes=tuple(notes),
    )


def measure_speed(engines: Sequence[Engine], photos: Sequence[Path]) -> list[float]:
    """Return each engine's rate on one batch in memory: the median of rounds in which the engines take turns."""
    images = [next(load_batches(photos, engine.model.contract)) for engine in engines]
    seconds: list[list[float]] = [[] for _ in engines]
    for _ in range(TIMED_ROUNDS + 1):
        for engine, batch, times in zip(engines, images, seconds, strict=True):
            start = time.perf_counter()
            engine.model.probabilities(batch)
            times.append(time.perf_counter() - start)
    return [len(batch) / statistics.median(t[1:]) for batch, t in zip(images, seconds, strict=True)]  # t[0]: warm-up


def measure_accuracy(answers: Probabilities, labels: npt.NDArray[np.int64]) -> float:
    """Return the percentage of rows whose likeliest class is the label."""
    return float((answers.argmax(1) == labels).mean() * 100)


def _measure(
    engine: Engine, answers: Probabilities, reference: Probabilities, names: list[str], labelled: Labelled, speed: float
) -> Measured:
    if not np.isfinite(answers).all():
        raise ExportError(f"{engine.kind}: probabilities that are no numbers; no file was written")
    differences = np.abs(answers - reference).max(1)
    worst = int(differences.argmax())
    splits = np.array(labelled.splits)
    known = answers[: len(splits)]
    by_split = {
        s: measure_accuracy(known[splits == s], labelled.labels[splits == s]) for s in sorted(set(labelled.splits))
    }
    verdicts = [[p.label for p in decide(names, rows, engine.model.contract)] for rows in (answers, reference)]
    return Measured(
        kind=engine.kind,
        size_mb=engine.size_bytes / 1e6,
        photos_per_s=speed,
        difference=float(differences[worst]),
        worst=names[worst],
        flips=int((answers.argmax(1) != reference.argmax(1)).sum()),
        verdicts=sum(a != b for a, b in zip(*verdicts, strict=True)),
        accuracy=by_split | {"all": measure_accuracy(known, labelled.labels)},
    )


def _find_failures(rows: Sequence[Measured], gates: Gates) -> list[str]:
    by_kind = {row.kind: row for row in rows}
    failures = []
    exported = by_kind["float"]
    if exported.difference > gates.difference:
        failures.append(
            f"float: largest |Δp| is {exported.difference:.2g}, over {gates.difference:.2g} (on {exported.worst})"
        )
    if max(exported.flips, exported.verdicts) > gates.flips:
        failures.append(f"float: {exported.flips} labels and {exported.verdicts} verdicts flipped")
    if "int8" in by_kind:
        loss = exported.accuracy["all"] - by_kind["int8"].accuracy["all"]
        if loss > gates.accuracy_loss + 1e-9:  # of rounding
            failures.append(f"int8: accuracy is {loss:.2f} points under float, more than {gates.accuracy_loss:g}")
    return failures
