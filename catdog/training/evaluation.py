"""Measure a model on photos whose class is known: numbers, charts and contact sheets.

DIR/metrics.json       all numbers, and what was measured on what
DIR/predictions.csv    a row a photo
DIR/*.png              confusion, roc, pr, reliability, coverage; mistakes and least_sure are contact sheets
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet

from catdog.classifier import Classifier
from catdog.colours import BLUE, ORANGE
from catdog.contact_sheet import MOST, Cell, contact_sheet
from catdog.contract import NEITHER, WEIGHTS_NAME, Contract, Task
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.dataset.report import REPORT_NAME
from catdog.detection.models import load_model
from catdog.errors import DataError, ModelError, SettingsError
from catdog.explain import draw_heat, find_heat
from catdog.files import write_csv, write_text
from catdog.image import JPEG_MARGIN, open_sized_photo, resize
from catdog.onnx_model import EMBEDDED
from catdog.prediction import decide
from catdog.training import charts
from catdog.training.calibration import find_pets
from catdog.training.detection import Model as BoxModel
from catdog.training.metrics import (
    RESAMPLES,
    estimate_intervals,
    measure,
    measure_coverage,
    measure_groups,
    measure_refusal,
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

    def index_labels(self, class_names: Sequence[str]) -> Tensor:
        """Return the photos' classes as indices into ``class_names``, int64 (N,)."""
        return torch.tensor([class_names.index(photo.label) for photo in self.photos])


def open_model(name: str, task: Task | None = None, fast: bool = False) -> Model | BoxModel:
    """Open ``embedded``, an .onnx file, a run folder or its model.safetensors; raises ModelError or ContractError.

    Of a run folder, torch answers with the trained weights; without them ONNX Runtime does, as for ``catdog.load``.
    ``task``: which of the embedded models it is, by default the classifier; another model's own task has to be it.
    ``fast``: as for ``catdog.load``; raises SettingsError for trained weights and for a detector.
    """
    path = Path(name)
    if name == EMBEDDED or path.suffix == ".onnx" or (path.is_dir() and not (path / WEIGHTS_NAME).exists()):
        return load_model(name, task, fast=fast)
    if fast:
        raise SettingsError(f"{name}: its trained weights have no fast pass; name an ONNX file, or leave --fast out")
    model = load_checkpoint(name)
    if task not in (None, model.contract.task):
        raise ModelError(f"{name}: is a model for --task {model.contract.task}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def choose_photos(
    sources: Sequence[str | Path], part: Part | None, contract: Contract, scratch: Path, progress: Report | None = None
) -> ChosenPhotos:
    """Choose the photos of a dataset's split, by default ``test``, or raw photos, by default all of them.

    Raw photos become a dataset in ``scratch`` first. Raises DataError: nothing usable, no photo in the split, or other
    classes than the contract's (a model that knows "neither" can do without photos of it). A detector's photos are
    those whose boxes somebody marked, and those of "neither".
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
    given, known = set(manifest.class_names), set(contract.class_names)
    if contract.task == "detect":
        given -= {NEITHER}
    if given - known or known - given - {NEITHER}:
        theirs, ours = (", ".join(names) for names in (manifest.class_names, contract.class_names))
        raise DataError(f"{name}: photos of {theirs}, but the model answers {ours}; give photos of its classes")
    photos = manifest.photos if part == "all" else manifest.of(part)
    if not photos:
        raise DataError(f"{name}: no photo in the {part} split; choose another one with --split")
    if contract.task == "detect":
        photos = [photo for photo in photos if photo.is_marked]
        if not photos:
            raise DataError(f"{name}: nobody marked heads in the {part} split; give photos with their annotations")
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


def describe_evaluation(name: str, contract: Contract, chosen: ChosenPhotos) -> dict[str, Any]:
    """Return what was measured on what, of a model of any task; ``trained_on_some`` is None where nobody knows."""
    is_known = contract.data_fingerprint == chosen.manifest.fingerprint
    return {
        "model": name,
        "arch": contract.arch,
        "model_fingerprint": contract.model_fingerprint,
        "data": chosen.name,
        "data_fingerprint": chosen.manifest.fingerprint,
        "split": chosen.part,
        "left_out": chosen.left_out,
        "trained_on_some": any(photo.split == "train" for photo in chosen.photos) if is_known else None,
        "class_names": list(contract.class_names),
    }


def evaluate(
    name: str,
    contract: Contract,
    chosen: ChosenPhotos,
    probabilities: Tensor,
    *,
    resamples: int = RESAMPLES,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Return what ``metrics.json`` holds of the model that the user calls ``name``; ``progress`` counts resamples.

    ``trained_on_some`` is None where the model was trained on other data.
    """
    names, photos = contract.class_names, chosen.photos
    labels = chosen.index_labels(names)
    clusters = [photo.cluster for photo in photos]
    return {
        **describe_evaluation(name, contract, chosen),
        "temperature": contract.temperature,
        "threshold": contract.threshold,
        **measure(probabilities, labels, names, clusters),
        "intervals": estimate_intervals(probabilities, labels, names, clusters, resamples=resamples, progress=progress),
        **_measure_answers(contract, chosen, probabilities),
        "by_source": measure_groups(probabilities, labels, [photo.source for photo in photos], clusters),
        "reliability": measure_reliability(probabilities, labels, clusters),
    }


def _measure_answers(contract: Contract, chosen: ChosenPhotos, probabilities: Tensor) -> dict[str, Any]:
    """Return what the thresholds do: which photos are answered at which, and what becomes of those of "neither"."""
    names, clusters = contract.class_names, [photo.cluster for photo in chosen.photos]
    labels = chosen.index_labels(names)
    kept, refusal = find_pets(labels, names), None
    if NEITHER in names:
        verdicts = [p.label for p in decide([photo.path for photo in chosen.photos], probabilities.numpy(), contract)]
        refusal = measure_refusal(probabilities[:, names.index(NEITHER)], ~kept, verdicts, clusters)
    own = [cluster for cluster, is_kept in zip(clusters, kept.tolist(), strict=True) if is_kept]
    marks = [contract.threshold, *THRESHOLDS]
    at, *coverage = measure_coverage(probabilities[kept], labels[kept], contract, marks, own) if own else [None]
    return {"at_threshold": at, "coverage": coverage, "neither_threshold": contract.neither_threshold} | {
        "neither": refusal
    }


def check_evidence(name: str, model: Model) -> None:
    """Raise ModelError, with the user's ``name`` of the model, unless it says where it looked."""
    if isinstance(model, Classifier):
        model.check_evidence()
    elif not isinstance(model.network, ResNet):
        raise ModelError(f"{name}: a {model.contract.arch} can't show where it looked; a ResNet can")


def draw_evidence(model: Model, path: Path, shown: int) -> Image.Image:
    """Return a photo that is bright and coloured where the model saw evidence for class ``shown``."""
    image, size = open_sized_photo(path, at_least=JPEG_MARGIN * model.contract.resized)
    pixels = resize(image, model.contract, size)[np.newaxis]
    if isinstance(model, Classifier):
        _, evidence = model.evidence(pixels)
    else:
        with torch.inference_mode():
            evidence = model.evidence(torch.tensor(pixels, device=model.mean.device)).float().cpu().numpy()
    return draw_heat(image, find_heat(evidence[0], shown), model.contract)


def write_evaluation(
    metrics: dict[str, Any],
    contract: Contract,
    chosen: ChosenPhotos,
    probabilities: Tensor,
    out: Path,
    looking: Model | None = None,
) -> None:
    """Write all files into ``out``, over those of an earlier evaluation. Raises SettingsError.

    ``looking``: a model that ``check_evidence`` passes; the contact sheets then show where it looked.
    """
    names, labels = contract.class_names, chosen.index_labels(contract.class_names)
    title = f"{metrics['photos']} photos ({chosen.part})"
    try:
        _write_predictions(contract, chosen, probabilities, out / PREDICTIONS_NAME)
        write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        charts.draw_confusion_matrix(metrics["confusion_matrix"], names, title, out / "confusion.png")
        charts.draw_roc(probabilities, labels, names, f"ROC, {title}", out / "roc.png")
        charts.draw_precision_recall(probabilities, labels, names, f"Precision and recall, {title}", out / "pr.png")
        charts.draw_reliability(
            metrics["reliability"], 1 / len(names), f"Confidence and accuracy, {title}", out / "reliability.png"
        )
        if metrics["at_threshold"]:
            kept = find_pets(labels, names)
            marks = [*metrics["coverage"], metrics["at_threshold"]]
            charts.draw_coverage(
                probabilities[kept], labels[kept], contract, marks, f"Coverage and error, {title}", out / "coverage.png"
            )
        confidence, answers = (part.tolist() for part in probabilities.max(1))

        def make_cell(i: int) -> Cell:
            photo, answer = chosen.photos[i], names[answers[i]]
            path = chosen.manifest.root / photo.path
            shown = path if looking is None else draw_evidence(looking, path, answers[i])
            colour = BLUE if answer == photo.label else ORANGE
            return Cell(shown, f"{photo.label}, answered {answer} {confidence[i]:.1%}", photo.path, colour)

        order = sorted(range(len(confidence)), key=confidence.__getitem__)
        wrong = [i for i in reversed(order) if names[answers[i]] != chosen.photos[i].label]
        most = f"the {MOST} most confident of " if len(wrong) > MOST else ""
        heading = f"Mistakes: {most}{len(wrong)} in {title}"
        contact_sheet([make_cell(i) for i in wrong[:MOST]], heading, out / "mistakes.png")
        heading = f"The least sure answers in {title}, threshold {contract.threshold:g}"
        contact_sheet([make_cell(i) for i in order[:MOST]], heading, out / "least_sure.png")
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error


def _write_predictions(contract: Contract, chosen: ChosenPhotos, probabilities: Tensor, path: Path) -> None:
    """Write a row a photo, its answer with the same digits as in predict's CSV."""
    answers = decide([photo.path for photo in chosen.photos], probabilities.numpy(), contract)
    header = ["path", "source", "truth", "label", "confidence", *contract.class_names]
    rows = (
        [photo.path, photo.source, photo.label, answer.label, answer.confidence, *(answer.probabilities or {}).values()]
        for photo, answer in zip(chosen.photos, answers, strict=True)
    )
    write_csv(path, header, rows)
