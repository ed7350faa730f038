"""Labels of a dataset that are likely wrong: confident learning (Northcutt et al. 2021, sections 3 and 4).

DIR/suspects.csv      a row a suspect, the likeliest first; a person keeps the lines that are really wrong
DIR/suspects-01.png   contact sheets of them, in the same order
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catdog.classifier import Classifier
from catdog.colours import ORANGE
from catdog.contact_sheet import MOST, Cell, contact_sheet
from catdog.contract import NEITHER, Contract
from catdog.dataset.exclusions import HASH_COLUMN, LABEL_COLUMN
from catdog.dataset.manifest import Manifest, Photo
from catdog.errors import DataError, SettingsError
from catdog.files import check_output_folder, write_csv

SUSPECTS_NAME: Final = "suspects.csv"
SHEET_NAME: Final = "suspects-{:02}.png"
MOST_SHEETS: Final = 10
COLUMNS: Final = (
    *("path", "label", "suggested", LABEL_COLUMN, "margin", "label_probability", "suggested_probability"),
    *("split", "was_trained_on", HASH_COLUMN),
)

Progress = Callable[[int, int], None]
"""Called with (photos done, photos in all) after each photo."""


@dataclass(frozen=True)
class Suspect:
    """A photo whose label is likely wrong."""

    photo: Photo
    suggested: str
    """The class that the model holds more likely, and likely enough."""
    margin: float
    """The probability of the photo's label minus the largest one of another class, [-1, 1]; the lowest is the worst."""
    label_probability: float
    suggested_probability: float
    was_trained_on: bool | None
    """Whether the model has learnt this label; None where that is not known."""


@dataclass(frozen=True)
class Suspicion:
    """What a model has to say of a dataset's labels."""

    suspects: Sequence[Suspect]
    """The likeliest first."""
    thresholds: Mapping[str, float]
    """By class: the probability from which on a photo counts as one of it, [0, 1]."""
    answered: int
    """Photos that the model was asked about."""
    passed_over: int
    """Photos of classes that the model doesn't know."""
    trained_on: int | None
    """How many of the answered ones the model was trained on; None where that is not known."""


def find_suspects(manifest: Manifest, model: Classifier, progress: Progress | None = None) -> Suspicion:
    """Ask a model about every photo of a class that it knows, and return whose labels it doubts.

    A class's threshold is the mean probability that its own photos get for it: of those that the model has not been
    trained on, where it is known and there are some. Raises DataError where it knows none of the classes or a photo
    can't be read, and ModelError for answers that are no numbers.
    """
    contract = model.contract
    names = contract.class_names
    photos = [photo for photo in manifest.photos if photo.label in names]
    if not photos:
        theirs, ours = (", ".join(classes) for classes in (manifest.class_names, names))
        raise DataError(
            f"{manifest.root}: no photo of a class that the model knows (photos of {theirs}; it knows {ours})"
        )
    probabilities = _answer_photos(manifest, photos, model, progress)
    labels = np.array([names.index(photo.label) for photo in photos])
    is_known = contract.data_fingerprint == manifest.fingerprint
    learnt = np.array([is_known and photo.split == "train" for photo in photos])
    thresholds = find_thresholds(probabilities, labels, learnt, contract)
    suspects = [
        Suspect(
            photos[i],
            names[other],
            margin,
            float(probabilities[i, labels[i]]),
            float(probabilities[i, other]),
            bool(learnt[i]) if is_known else None,
        )
        for i, other, margin in rank_suspects(probabilities, labels, thresholds)
    ]
    return Suspicion(
        suspects,
        dict(zip(names, thresholds.tolist(), strict=True)),
        len(photos),
        len(manifest.photos) - len(photos),
        int(learnt.sum()) if is_known else None,
    )


def find_thresholds(
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    learnt: npt.NDArray[np.bool_],
    contract: Contract,
) -> npt.NDArray[np.float64]:
    """Return for each class the mean probability of it among photos with its label, float64 (C,).

    ``probabilities`` (N, C), ``labels`` (N,), ``learnt`` (N,): photos that the model was trained on, of which it is
    surer than it can be of others; they count where a class has no other. One without any photo has no mean, and gets
    the threshold at which the model would answer with it.
    """
    thresholds = []
    for c, name in enumerate(contract.class_names):
        own = labels == c
        fresh = own & ~learnt
        if own.any():
            thresholds.append(probabilities[fresh if fresh.any() else own, c].mean())
        else:
            thresholds.append(contract.neither_threshold if name == NEITHER else contract.threshold)
    return np.array(thresholds, np.float64)


def rank_suspects(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], thresholds: npt.NDArray[np.float64]
) -> list[tuple[int, int, float]]:
    """Return (photo, the class it seems to show, margin) for each suspect, by margin, the lowest first.

    A photo is one where another class reaches its threshold and is likelier than the photo's own label. The margin is
    the paper's normalised one. ``probabilities`` (N, C), ``labels`` (N,), ``thresholds`` (C,).
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -np.inf
    margins = own - others.max(1)
    others[(others < thresholds) | (others <= own[:, None])] = -np.inf
    found = np.flatnonzero(np.isfinite(others).any(1))
    order = found[np.argsort(margins[found], kind="stable")]
    return [(int(i), int(others[i].argmax()), float(margins[i])) for i in order]


def check_suspects_folder(out: Path, dataset: Path) -> None:
    """Raise SettingsError unless ``out`` can be written to, is new, empty or what a killed run left, and apart from the
    dataset, which holds nothing else.
    """
    if (out / SUSPECTS_NAME).exists():
        raise SettingsError(f"--out {out}: holds suspects already, which somebody may have reviewed; give a new folder")
    check_output_folder("--out", out, [SHEET_NAME.format(1)])
    if out.resolve().is_relative_to(dataset.resolve()):
        raise SettingsError(f"--out {out}: lies inside the dataset; give another folder")


def write_suspects(found: Suspicion, manifest: Manifest, out: Path) -> list[Path]:
    """Write the contact sheets and then the CSV, by which a finished list is known, into ``out``; return their paths.

    The CSV's comes first. Raises SettingsError.
    """
    suspects = found.suspects
    shown = suspects[: MOST * MOST_SHEETS]
    sheets = [out / SHEET_NAME.format(number) for number in range(1, max(1, -(-len(shown) // MOST)) + 1)]
    try:
        for number, path in enumerate(sheets):
            first = number * MOST
            cells = [_make_cell(manifest, suspected) for suspected in shown[first : first + MOST]]
            span = f"{first + 1} to {first + len(cells)} of {len(suspects)}" if cells else "none"
            contact_sheet(cells, f"Suspected labels of {found.answered} photos: {span}", path)
        for number in range(len(sheets) + 1, MOST_SHEETS + 1):  # of a killed run, which may have found more
            (out / SHEET_NAME.format(number)).unlink(missing_ok=True)
        write_csv(out / SUSPECTS_NAME, COLUMNS, map(_make_row, suspects))
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error
    return [out / SUSPECTS_NAME, *sheets]


def _answer_photos(
    manifest: Manifest, photos: Sequence[Photo], model: Classifier, progress: Progress | None
) -> npt.NDArray[np.float64]:
    """Return the model's probabilities, float64 (N, C), rounded as all answers are."""
    rows = np.empty((len(photos), len(model.contract.class_names)))
    paths = [manifest.root / photo.path for photo in photos]
    for i, answer in enumerate(model.stream(paths)):
        if answer.probabilities is None:
            raise DataError(f"{answer.error}; the dataset was changed since it was made, build it again")
        rows[i] = list(answer.probabilities.values())
        if progress:
            progress(i + 1, len(photos))
    return rows


def _make_row(suspected: Suspect) -> list[Any]:
    photo = suspected.photo
    numbers = (suspected.margin, suspected.label_probability, suspected.suggested_probability)
    learnt = {True: "yes", False: "no", None: "unknown"}[suspected.was_trained_on]
    texts = (photo.path, photo.label, suspected.suggested, "")
    return [*texts, *(f"{number:.6f}" for number in numbers), photo.split, learnt, photo.sha256]


def _make_cell(manifest: Manifest, suspected: Suspect) -> Cell:
    photo = suspected.photo
    learnt = ", trained on" if suspected.was_trained_on else ""
    verdict = f"{photo.label}? {suspected.suggested} {suspected.suggested_probability:.1%}{learnt}"
    return Cell(manifest.root / photo.path, verdict, photo.path, ORANGE)
