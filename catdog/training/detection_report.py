"""What a detector finds and misses, for people: tables, precision-recall curves, and sheets of its worst photos."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from catdog.boxes import Box
from catdog.colours import ORANGE
from catdog.contact_sheet import MOST, Cell, contact_sheet, thumbnail
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split
from catdog.detection.decoding import DetectedObject
from catdog.drawing import draw_boxes
from catdog.errors import SettingsError
from catdog.files import write_csv, write_text
from catdog.image import open_photo
from catdog.training import charts
from catdog.training.data import Prepared
from catdog.training.detection import (
    Model,
    Objects,
    count_at,
    find_in_photos,
    fit_box_threshold,
    judge_class,
    match_boxes,
    measure_boxes,
)
from catdog.training.detector import DetectionModel
from catdog.training.evaluation import PREDICTIONS_NAME, ChosenPhotos, describe_evaluation
from catdog.training.history import say
from catdog.training.settings import Settings
from catdog.training.tasks import find_task

CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_SHOWN_OVERLAPS: Final = {0.5: 0, 0.75: 5}  # with their places in OVERLAPS


def measure_detector(
    prepared: Prepared, settings: Settings, reports: Path, device: str
) -> tuple[Contract, dict[str, Any]]:
    """Fit the threshold on validation photos; return the contract with it, and the splits' numbers; draw the charts."""
    manifest, contract, model = prepared.manifest, prepared.contract, prepared.model
    assert isinstance(model, DetectionModel)
    model = model.to(device).eval()
    metrics: dict[str, Any] = {}
    splits: tuple[Split, ...] = ("val", "test")
    for split in splits:
        photos = find_task(settings).choose_photos(manifest, split)
        if not any(photo.boxes for photo in photos):
            continue
        found = find_in_photos(model, [manifest.root / photo.path for photo in photos])
        if split == "val":
            contract = contract.with_(threshold=fit_box_threshold(found, photos))
        metrics[split] = measure_boxes(found, photos, contract.class_names, contract.threshold)
        say(format_boxes(split, metrics[split]))
        draw_boxes_found(found, photos, manifest, contract, split, reports, f"_{split}")
    model.to("cpu")
    return contract, metrics


def evaluate_detector(
    name: str, model: Model, chosen: ChosenPhotos, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, Any], list[Objects]]:
    """Return what ``metrics.json`` holds of the detector that the user calls ``name``, and the boxes that it found."""
    contract, photos = model.contract, chosen.photos
    found = find_in_photos(model, [chosen.manifest.root / photo.path for photo in photos], progress)
    about = describe_evaluation(name, contract, chosen) | {"task": contract.task}
    return about | measure_boxes(found, photos, contract.class_names, contract.threshold), found


def write_detection(
    metrics: dict[str, Any], found: Sequence[Objects], contract: Contract, chosen: ChosenPhotos, out: Path
) -> None:
    """Write metrics.json, predictions.csv (a row a found box), the curves and the sheets. Raises SettingsError."""
    rows = [
        [photo.path, photo.label, each.label, each.confidence, *each.box.corners]
        for photo, objects in zip(chosen.photos, found, strict=True)
        for each in objects
    ]
    try:
        write_csv(out / PREDICTIONS_NAME, ["path", "truth", "label", "confidence", *CORNERS], rows)
        write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        title = f"{metrics['photos']} photos ({chosen.part})"
        draw_boxes_found(found, chosen.photos, chosen.manifest, contract, title, out)
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error


def format_boxes(name: str, values: dict[str, Any]) -> str:
    """Return what ``measure_boxes`` gave as a plain-text table."""
    at = values["at_threshold"]
    intervals = {key: " to ".join(f"{bound:.3f}" for bound in pair) for key, pair in values["intervals"].items()}
    shown = {"ap50": "AP50", "ap75": "AP75", "ap": "AP"}
    lines = [f"{name}: {values['photos']} photos, {values['boxes']} heads, {at['empty_photos']} photos without one"]
    lines += [f"  {label:<5} {values[key]:.3f}  (95% {intervals[key]})" for key, label in shown.items()]
    by = {**values["ap_by_species"], **{k: v for k, v in values["ap_by_size"].items() if v is not None}}
    lines.append("  AP of " + ", ".join(f"{key} {value:.3f}" for key, value in by.items()))
    found = f"{at['found_heads']} of {at['heads']} heads found, {at['wrong_species']} of them as the other species"
    false = (
        f"{at['false_boxes']} false boxes, in {at['empty_with_boxes']} of the {at['empty_photos']} photos without a pet"
    )
    lines.append(f"  from {at['threshold']:g} on: {found}; {false}")
    return "\n".join(lines)


def draw_boxes_found(
    found: Sequence[Objects],
    photos: Sequence[Photo],
    manifest: Manifest,
    contract: Contract,
    title: str,
    folder: Path,
    suffix: str = "",
) -> None:
    """Write the precision-recall curves and the sheets of missed heads and false boxes. Raises OSError."""
    lines = []
    for name in contract.class_names:
        judged = judge_class(found, photos, name)
        precision, recall = judged.curves()
        if judged.true.sum():
            lines += [
                (f"{name}, overlap {overlap}", recall[k].tolist(), precision[k].tolist())
                for overlap, k in _SHOWN_OVERLAPS.items()
            ]
    at = count_at(found, photos, contract.threshold)
    given = at["found_heads"] + at["false_boxes"]
    own = (at["recall"], at["found_heads"] / given if given else 1.0)
    charts.draw_found_boxes(lines, own, f"Boxes found, {title}", folder / f"precision_recall{suffix}.png")
    missed, false = [], []
    for objects, photo in zip(found, photos, strict=True):
        sure = [each for each in objects if each.confidence >= contract.threshold]
        pairs = match_boxes(sure, photo.boxes or ())
        lost = [box for j, box in enumerate(photo.boxes or ()) if j not in pairs.values()]
        wrong = [each for i, each in enumerate(sure) if i not in pairs]
        if lost:
            near = max((each.confidence for each in objects), default=0.0)
            missed.append((near, photo, lost, sure))
        if wrong:
            false.append((-wrong[0].confidence, photo, wrong))
    for entries in (missed, false):
        entries.sort(key=lambda entry: entry[0])
    cells = [_show_missed(manifest, *entry[1:]) for entry in missed[:MOST]]
    contact_sheet(cells, _name_sheet("heads missed", len(missed), title), folder / f"missed{suffix}.png")
    cells = [_show_false(manifest, *entry[1:]) for entry in false[:MOST]]
    contact_sheet(cells, _name_sheet("false boxes", len(false), title), folder / f"false_boxes{suffix}.png")


def _name_sheet(what: str, count: int, title: str) -> str:
    return f"Photos with {what}: {f'the worst {MOST} of ' if count > MOST else ''}{count} in {title}"


def _show_missed(manifest: Manifest, photo: Photo, lost: Sequence[Box], sure: Sequence[DetectedObject]) -> Cell:
    boxes = [*lost, *(each.box for each in sure)]
    captions = [*(f"missed {box.label}" for box in lost), *(f"{each.label} {each.confidence:.0%}" for each in sure)]
    return Cell(_draw(manifest, photo, boxes, captions), f"{len(lost)} missed", photo.path, ORANGE)


def _show_false(manifest: Manifest, photo: Photo, wrong: Sequence[DetectedObject]) -> Cell:
    captions = [f"{each.label} {each.confidence:.0%}" for each in wrong]
    about = f"{photo.label}, and a box of {wrong[0].confidence:.1%}"
    return Cell(_draw(manifest, photo, [each.box for each in wrong], captions), about, photo.path, ORANGE)


def _draw(manifest: Manifest, photo: Photo, boxes: Sequence[Box], captions: Sequence[str]) -> Image.Image:
    return thumbnail(draw_boxes(open_photo(manifest.root / photo.path), boxes, captions))
