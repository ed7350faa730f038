"""A model and photos whose class is known -> numbers, charts and contact sheets.

DIR/metrics.json       all numbers, and what was measured on what
DIR/predictions.csv    a row a photo
DIR/*.png              confusion, roc, pr, reliability, coverage; mistakes and least_sure are contact sheets

Checkpoints and ONNX files are asked through the same function, uint8 pixels in, probabilities out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from catdog.ahead import batches_ahead
from catdog.classifier import BATCH_SIZE, load
from catdog.colours import BLUE, ORANGE
from catdog.contact_sheet import MOST, Cell, contact_sheet
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.dataset.building import Progress
from catdog.dataset.report import REPORT_NAME
from catdog.errors import DataError, ModelError, SettingsError
from catdog.files import replace_file
from catdog.image import load_pixels
from catdog.prediction import decide
from catdog.training import charts
from catdog.training.metrics import RESAMPLES, by_group, coverage, intervals, measure, reliability
from catdog.training.model import load_checkpoint

Part = Split | Literal["all"]

EMBEDDED: Final = "embedded"
THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Model:
    """Something that answers."""

    name: str
    contract: Contract
    answer: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
    """uint8 (N, H, W, 3) at the contract's size -> probabilities float32 (N, C)."""


@dataclass(frozen=True)
class Data:
    """The photos to answer, at least one."""

    name: str
    manifest: Manifest
    part: Part
    photos: Sequence[Photo]
    left_out: dict[str, int]
    """Of raw photos: how many could not be used, by reason."""


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to ``data.photos``, in that order."""

    model: Model
    data: Data
    probabilities: Tensor
    """float32 (N, C)."""
    labels: Tensor
    """int64 (N,), indices into the contract's class names."""
    metrics: dict[str, Any]
    """What ``metrics.json`` holds."""


def open_model(name: str) -> Model:
    """``embedded``, an .onnx file, a run folder or its model.safetensors; raises ModelError or ContractError."""
    if name == EMBEDDED or name.endswith(".onnx"):
        classifier = load(None if name == EMBEDDED else name)
        return Model(name, classifier.contract, classifier.probabilities)
    if not Path(name).exists():
        raise ModelError(f"{name}: no such run folder, model.safetensors or .onnx file")
    network, contract = load_checkpoint(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device)

    def ask(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            answers: npt.NDArray[np.float32] = network(torch.from_numpy(images).to(device)).cpu().numpy()
        return answers

    return Model(name, contract, ask)


def open_data(
    sources: Sequence[Path], part: Part | None, contract: Contract, scratch: Path, progress: Progress | None = None
) -> Data:
    """A dataset folder's split, by default ``test``, or raw photos (built in ``scratch``), by default all of them.

    Raises DataError: nothing usable, no photo in the split, or other classes than the contract's.
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
    return Data(name, manifest, part, photos, left_out)


def answer(model: Model, data: Data, progress: Progress | None = None) -> Tensor:
    """Probabilities float32 (N, C) of the photos, in their order; threads decode one batch ahead of the model.

    Raises ImageError for a photo that can't be read, and ModelError for answers that are no numbers.
    """
    answers, done = [], 0
    paths = [data.manifest.root / photo.path for photo in data.photos]
    for batch in batches_ahead(lambda path: load_pixels(path, model.contract), paths, BATCH_SIZE):
        answers.append(torch.from_numpy(model.answer(np.stack(batch))))
        done += len(batch)
        if progress:
            progress(done, len(paths))
    probabilities = torch.cat(answers)
    if not probabilities.isfinite().all():
        raise ModelError(f"{model.name}: answers that are no numbers (NaN or infinite); its training diverged")
    return probabilities


def evaluate(
    model: Model, data: Data, probabilities: Tensor, *, resamples: int = RESAMPLES, progress: Progress | None = None
) -> Evaluation:
    """Measure the answers; ``resamples`` of the bootstrap, which ``progress`` counts."""
    contract, names = model.contract, model.contract.class_names
    labels = torch.tensor([names.index(photo.label) for photo in data.photos])
    clusters = [photo.cluster for photo in data.photos]
    metrics = {
        "model": model.name,
        "arch": contract.arch,
        "model_fingerprint": contract.model_fingerprint,
        "data": data.name,
        "data_fingerprint": data.manifest.fingerprint,
        "split": data.part,
        "left_out": data.left_out,
        "trained_on_some": _trained_on_some(contract, data),
        "class_names": list(names),
        "temperature": contract.temperature,
        "threshold": contract.threshold,
        **measure(probabilities, labels, names),
        "intervals": intervals(probabilities, labels, names, clusters, resamples=resamples, progress=progress),
        "at_threshold": coverage(probabilities, labels, [contract.threshold])[0],
        "coverage": coverage(probabilities, labels, THRESHOLDS),
        "by_source": by_group(probabilities, labels, [photo.source for photo in data.photos]),
        "reliability": reliability(probabilities, labels),
    }
    return Evaluation(model, data, probabilities, labels, metrics)


def write(done: Evaluation, out: Path) -> None:
    """All files into the folder ``out``; those of an earlier evaluation are replaced. Raises SettingsError."""
    metrics, names, contract = done.metrics, done.model.contract.class_names, done.model.contract
    probabilities, labels = done.probabilities, done.labels
    title = f"{metrics['photos']} photos ({done.data.part})"
    marks = [*metrics["coverage"], metrics["at_threshold"]]
    try:
        with replace_file(out / "metrics.json") as path:
            path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        _write_predictions(done, out / "predictions.csv")
        charts.confusion_matrix(metrics["confusion_matrix"], names, title, out / "confusion.png")
        charts.roc(probabilities, labels, names, f"ROC, {title}", out / "roc.png")
        charts.precision_recall(probabilities, labels, names, f"Precision and recall, {title}", out / "pr.png")
        charts.reliability(
            metrics["reliability"], 1 / len(names), f"Confidence and accuracy, {title}", out / "reliability.png"
        )
        charts.coverage(probabilities, labels, marks, f"Coverage and error, {title}", out / "coverage.png")
        confidence, answers = probabilities.max(1)
        cells = [
            _cell(done.data.manifest.root, photo, names[answer], sure)
            for photo, answer, sure in zip(done.data.photos, answers.tolist(), confidence.tolist(), strict=True)
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
    """Blue where the answer is right, orange where it is wrong."""
    verdict = f"{photo.label}, answered {answer} {confidence:.1%}"
    return Cell(root / photo.path, verdict, photo.path, BLUE if answer == photo.label else ORANGE)


def _trained_on_some(contract: Contract, data: Data) -> bool | None:
    """Whether the model was trained on some of the photos; None where the data isn't what it was trained on."""
    if contract.data_fingerprint != data.manifest.fingerprint:
        return None
    return any(photo.split == "train" for photo in data.photos)


def _write_predictions(done: Evaluation, path: Path) -> None:
    """path, source, truth, label ("unsure" under the threshold), confidence, a column a class: as predict's CSV."""
    contract, photos = done.model.contract, done.data.photos
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
