"""Measure a model on photos whose class is known: numbers, charts and contact sheets.

DIR/metrics.json       all numbers, and what was measured on what
DIR/predictions.csv    a row a photo
DIR/*.png              confusion, roc, pr, reliability, coverage; mistakes and least_sure are contact sheets
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from catdog.classifier import EMBEDDED, load
from catdog.colours import BLUE, ORANGE
from catdog.contact_sheet import MOST, Cell, contact_sheet
from catdog.contract import WEIGHTS_NAME, Contract
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.dataset.report import REPORT_NAME
from catdog.errors import DataError, ModelError, SettingsError
from catdog.files import replace_file
from catdog.prediction import decide
from catdog.training import charts
from catdog.training.metrics import (
    RESAMPLES,
    estimate_intervals,
    measure,
    measure_coverage,
    measure_groups,
    measure_reliability,
)
from catdog.training.model import Model, answer_photos, load_checkpoint

Part = Split | Literal["all"]
Report = Callable[[int, int], None]
"""Is told how many are done, and of how many."""

PREDICTIONS_NAME: Final = "predictions.csv"  # by which the folder of an evaluation is known
THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class ChosenPhotos:
    """The photos to answer, at least one."""

    name: str
    manifest: Manifest
    part: Part
    photos: Sequence[Photo]
    left_out: dict[str, int]
    """How many of the raw photos could not be used, by reason."""


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to ``chosen.photos``, in that order, and what they come to."""

    contract: Contract
    chosen: ChosenPhotos
    probabilities: Tensor
    """float32 (N, C)."""
    labels: Tensor
    """int64 (N,), indices into the contract's class names."""
    metrics: dict[str, Any]
    """What ``metrics.json`` holds."""


def open_model(name: str) -> Model:
    """Open ``embedded``, an .onnx file, a run folder or its model.safetensors; raises ModelError or ContractError.

    Of a run folder, torch answers with the trained weights; without them ONNX Runtime does, as for ``catdog.load``.
    """
    path = Path(name)
    if name == EMBEDDED or path.suffix == ".onnx" or (path.is_dir() and not (path / WEIGHTS_NAME).exists()):
        return load(name)
    return load_checkpoint(name).to("cuda" if torch.cuda.is_available() else "cpu")


def choose_photos(
    sources: Sequence[str | Path], part: Part | None, contract: Contract, scratch: Path, progress: Report | None = None
) -> ChosenPhotos:
    """Choose the photos of a dataset's split, by default ``test``, or raw photos, by default all of them.

    Raw photos become a dataset in ``scratch`` first. Raises DataError: nothing usable, no photo in the split, or other
    classes than the contract's.
    """
    left_out: dict[str, int] = {}
    if len(sources) == 1 and is_dataset(sources[0]):
        manifest = Manifest.read(sources[0])
        part = part or "test"
    else:
        if built := [source for source in sources if is_dataset(source)]:
            raise SettingsError(f"{built[0]}: is a dataset, which is evaluated alone; leave the other sources out")
        manifest = build(list(sources), scratch / "dataset", progress=progress)
        left_out = json.loads((manifest.root / REPORT_NAME).read_bytes())["reasons"]
        part = part or "all"
    name = ", ".join(map(str, sources))
    if set(manifest.class_names) != set(contract.class_names):
        theirs, ours = (", ".join(names) for names in (manifest.class_names, contract.class_names))
        raise DataError(f"{name}: photos of {theirs}, but the model answers {ours}; give photos of its classes")
    photos = manifest.photos if part == "all" else manifest.of(part)
    if not photos:
        raise DataError(f"{name}: no photo in the {part} split; choose another one with --split")
    return ChosenPhotos(name, manifest, part, photos, left_out)


def answer_chosen(name: str, model: Model, chosen: ChosenPhotos, progress: Report | None = None) -> Tensor:
    """Return the probabilities float32 (N, C) of the photos, in their order.

    Raises ImageError for a photo that can't be read, and ModelError, with the user's ``name`` of the model, for answers
    that are no numbers.
    """
    paths = [chosen.manifest.root / photo.path for photo in chosen.photos]
    probabilities = torch.from_numpy(answer_photos(model, paths, progress))
    if not probabilities.isfinite().all():
        raise ModelError(f"{name}: answers that are no numbers (NaN or infinite); its training diverged")
    return probabilities


def evaluate(
    name: str,
    model: Model,
    chosen: ChosenPhotos,
    probabilities: Tensor,
    *,
    resamples: int = RESAMPLES,
    progress: Report | None = None,
) -> Evaluation:
    """Measure the answers of the model that the user calls ``name``; ``progress`` counts the bootstrap's resamples."""
    contract, names = model.contract, model.contract.class_names
    labels = torch.tensor([names.index(photo.label) for photo in chosen.photos])
    clusters = [photo.cluster for photo in chosen.photos]
    metrics = {
        "model": name,
        "arch": contract.arch,
        "model_fingerprint": contract.model_fingerprint,
        "data": chosen.name,
        "data_fingerprint": chosen.manifest.fingerprint,
        "split": chosen.part,
        "left_out": chosen.left_out,
        "trained_on_some": _trained_on_some(contract, chosen),
        "class_names": list(names),
        "temperature": contract.temperature,
        "threshold": contract.threshold,
        **measure(probabilities, labels, names, clusters),
        "intervals": estimate_intervals(probabilities, labels, names, clusters, resamples=resamples, progress=progress),
        "at_threshold": measure_coverage(probabilities, labels, [contract.threshold], clusters)[0],
        "coverage": measure_coverage(probabilities, labels, THRESHOLDS, clusters),
        "by_source": measure_groups(probabilities, labels, [photo.source for photo in chosen.photos], clusters),
        "reliability": measure_reliability(probabilities, labels, clusters),
    }
    return Evaluation(contract, chosen, probabilities, labels, metrics)


def write_evaluation(done: Evaluation, out: Path) -> None:
    """Write all files into ``out``, over those of an earlier evaluation. Raises SettingsError."""
    metrics, names, contract = done.metrics, done.contract.class_names, done.contract
    probabilities, labels = done.probabilities, done.labels
    title = f"{metrics['photos']} photos ({done.chosen.part})"
    marks = [*metrics["coverage"], metrics["at_threshold"]]
    try:
        _write_predictions(done, out / PREDICTIONS_NAME)
        with replace_file(out / "metrics.json") as path:
            path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        charts.draw_confusion_matrix(metrics["confusion_matrix"], names, title, out / "confusion.png")
        charts.draw_roc(probabilities, labels, names, f"ROC, {title}", out / "roc.png")
        charts.draw_precision_recall(probabilities, labels, names, f"Precision and recall, {title}", out / "pr.png")
        charts.draw_reliability(
            metrics["reliability"], 1 / len(names), f"Confidence and accuracy, {title}", out / "reliability.png"
        )
        charts.draw_coverage(probabilities, labels, marks, f"Coverage and error, {title}", out / "coverage.png")
        confidence, answers = probabilities.max(1)
        cells = [
            _cell(done.chosen.manifest.root, photo, names[answer], sure)
            for photo, answer, sure in zip(done.chosen.photos, answers.tolist(), confidence.tolist(), strict=True)
        ]
        order = confidence.argsort(stable=True).tolist()
        wrong = [cells[i] for i in reversed(order) if answers[i] != labels[i]]
        shown = f"the {MOST} most confident of " if len(wrong) > MOST else ""
        contact_sheet(wrong, f"Mistakes: {shown}{len(wrong)} in {title}", out / "mistakes.png")
        sure = f"threshold {contract.threshold:g}"
        contact_sheet([cells[i] for i in order], f"The least sure answers in {title}, {sure}", out / "least_sure.png")
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error


def _cell(root: Path, photo: Photo, answer: str, confidence: float) -> Cell:
    """Return a photo's cell: blue where the answer is right, orange where it is wrong."""
    verdict = f"{photo.label}, answered {answer} {confidence:.1%}"
    return Cell(root / photo.path, verdict, photo.path, BLUE if answer == photo.label else ORANGE)


def _trained_on_some(contract: Contract, chosen: ChosenPhotos) -> bool | None:
    """Return whether the model was trained on some of the photos; None where it was trained on other data."""
    if contract.data_fingerprint != chosen.manifest.fingerprint:
        return None
    return any(photo.split == "train" for photo in chosen.photos)


def _write_predictions(done: Evaluation, path: Path) -> None:
    """Write a row a photo, its answer with the same digits as in predict's CSV."""
    contract, photos = done.contract, done.chosen.photos
    answers = decide([photo.path for photo in photos], done.probabilities.numpy(), contract)
    # A file name need not be UTF-8.
    with (
        replace_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "source", "truth", "label", "confidence", *contract.class_names])
        for photo, answer in zip(photos, answers, strict=True):
            shares = (answer.probabilities or {}).values()
            writer.writerow([photo.path, photo.source, photo.label, answer.label, answer.confidence, *shares])
