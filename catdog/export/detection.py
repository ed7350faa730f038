"""Export a detector: the float file is compared with torch place by place, the int8 file by what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import numpy as np
import onnx

from catdog.contract import Contract
from catdog.dataset import Manifest, Photo
from catdog.detection.detector import Detector
from catdog.errors import DataError, ExportError
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.export.photos import choose_stratified, make_awkward_photos
from catdog.export.quantize import DETECTOR_HEADS, DETECTOR_NECK, Quantizer
from catdog.files import replace_file
from catdog.image import read_file
from catdog.training.detection import KEYS, Model, find_in_photos, measure_boxes
from catdog.training.detector import DetectionModel
from catdog.training.model import Images, load_batches

MIN_BOXES: Final = 50  # of the validation and test splits, that an int8 export is proven on
CALIBRATION_PHOTOS: Final = 256
MIN_CALIBRATION_PHOTOS: Final = 64
FLOAT_BATCHES: Final = 4  # compared place by place, besides the awkward photos
SCORE_DIFFERENCE: Final = 1e-3
"""Largest |Δ score| of the float file against torch, of all places and classes."""
BOX_DIFFERENCE: Final = 0.1
"""Largest |Δ side| of the same, px of the input, where the score is 0.05 or more; elsewhere a box means nothing."""
AP_LOSS: Final = 0.005
"""How much average precision the int8 file may lose against the float file, on all boxes."""
IN_FLOAT: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("none", ()),
    ("heads", DETECTOR_HEADS),
    ("heads and neck", (*DETECTOR_HEADS, DETECTOR_NECK)),
)
"""What may stay in float, the least first, by the beginnings of layers' names."""


@dataclass(frozen=True, kw_only=True)
class BoxMeasures:
    """One engine's numbers."""

    kind: Literal["torch", "float", "int8"]
    size_mb: float
    score_difference: float | None
    """Largest |Δ score| to torch; None of the int8 file, which is judged by what it finds."""
    box_difference: float | None
    """Largest |Δ side| to torch, px of the input."""
    ap: Mapping[str, Mapping[str, float]]
    """The average precisions by split and in "all"."""


@dataclass(frozen=True, kw_only=True)
class BoxProof:
    """What was measured, and which gates failed."""

    rows: tuple[BoxMeasures, ...]
    photos: Mapping[str, int]
    boxes: Mapping[str, int]
    awkward: int
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


class BoxProofError(ExportError):
    """A gate failed; ``proof`` has the numbers."""

    def __init__(self, proof: BoxProof) -> None:
        super().__init__("; ".join(proof.failures) + "; no file was written")
        self.proof = proof


def export_detector(
    model: DetectionModel, out: Path, data: Manifest, int8: bool, notes: Sequence[str], say: Callable[[str], None]
) -> BoxProof:
    """Write the detector as an ONNX file to ``out``, proven on ``data``; see ``catdog.export.exporting.export``."""
    contract = model.contract
    photos = _choose_photos(data, int8)
    awkward = make_awkward_photos(read_file(data.root / photos[0].path))
    with replace_file(out) as temporary, TemporaryDirectory(prefix="catdog-") as folder:
        float_path, int8_path = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        say("exporting")
        write_onnx(to_onnx(model), contract, float_path)
        compared = load_batches([*(data.root / photo.path for photo in photos[: 16 * FLOAT_BATCHES])], contract)
        batches = [*compared, *load_batches(list(awkward.values()), contract)]
        float_model = Detector(float_path)
        say(f"comparing on {len(photos)} photos and {len(awkward)} awkward ones")
        differences = measure_differences(float_model, model, batches)
        rows = [_measure("torch", model, _count_bytes(model), photos, data, None)]
        rows.append(_measure("float", float_model, float_path.stat().st_size, photos, data, differences))
        if int8:
            quantized, in_float = _choose_float_parts(float_path, int8_path, data, contract, say)
            int8_model = Detector(int8_path)
            find_in_photos(int8_model, list(awkward.values()))  # answers them, whatever it finds
            rows.append(_measure("int8", int8_model, int8_path.stat().st_size, photos, data, None))
            notes = [*notes, f"in float: {in_float}"]
        counts = {split: [p for p in photos if split in (p.split, "all")] for split in ("test", "val", "all")}
        proof = BoxProof(
            rows=tuple(rows),
            photos={split: len(chosen) for split, chosen in counts.items()},
            boxes={split: sum(len(p.boxes or ()) for p in chosen) for split, chosen in counts.items()},
            awkward=len(awkward),
            failures=tuple(_find_failures(rows)),
            notes=tuple(notes),
        )
        if proof.failures:
            raise BoxProofError(proof)
        if int8:
            quality = dict(contract.quality)
            for split in ("val", "test"):
                quality |= {f"int8_{split}_{key}": value for key, value in rows[-1].ap.get(split, {}).items()}
            write_onnx(quantized, contract.with_(quality=quality), int8_path)
        temporary.write_bytes((int8_path if int8 else float_path).read_bytes())
    return proof


def _choose_photos(data: Manifest, int8: bool) -> list[Photo]:
    known = [*data.of("val"), *data.of("test")]
    photos = [photo for photo in known if photo.is_marked]
    boxes = sum(len(photo.boxes or ()) for photo in photos)
    if boxes < (needed := MIN_BOXES if int8 else 1):
        raise DataError(
            f"{data.root}: {boxes} boxes in the validation and test splits, but a detector is proven on {needed} or "
            "more; give a dataset of photos with their annotations with --data"
        )
    return photos


def _choose_float_parts(
    float_path: Path, int8_path: Path, data: Manifest, contract: Contract, say: Callable[[str], None]
) -> tuple[onnx.ModelProto, str]:
    """Return the int8 model, also written to ``int8_path``, with no more in float than validation photos ask for."""
    train = [photo for photo in data.of("train") if photo.is_marked]
    calibration = choose_stratified(train, CALIBRATION_PHOTOS)
    if len(calibration) < MIN_CALIBRATION_PHOTOS:
        raise DataError(
            f"{data.root}: {len(calibration)} training photos, but an int8 model is calibrated on "
            f"{MIN_CALIBRATION_PHOTOS} or more"
        )
    say(f"calibrating on {len(calibration)} training photos")
    paths = [data.root / photo.path for photo in calibration]
    quantizer = Quantizer(float_path, list(load_batches(paths, contract)))
    validation = [photo for photo in data.of("val") if photo.is_marked]
    needed = _measure_ap(Detector(float_path), validation, data)["ap"] - AP_LOSS
    for named, beginnings in IN_FLOAT:
        in_float = [layer for layer in quantizer.layers if layer.startswith(beginnings)]
        quantized = quantizer.quantize(in_float)
        write_onnx(quantized, contract, int8_path)
        reached = _measure_ap(Detector(int8_path), validation, data)["ap"]
        say(f"in float: {named}: average precision {reached:.3f} on validation photos, {needed:.3f} needed")
        if reached >= needed:
            return quantized, named
    raise ExportError(
        f"int8: average precision {reached:.3f} on validation photos with heads and neck in float, {needed:.3f} "
        "needed; no file was written"
    )


def measure_differences(model: Model, reference: Model, batches: Sequence[Images]) -> tuple[float, float]:
    """Return the largest difference of scores, and of sides, px, where the reference's score is 0.05 or more."""
    of_scores, of_boxes = 0.0, 0.0
    for images in batches:
        (boxes, scores), (true_boxes, true_scores) = model.propose(images), reference.propose(images)
        of_scores = max(of_scores, float(np.abs(scores - true_scores).max()))
        told = true_scores.max(2) >= 0.05
        of_boxes = max(of_boxes, float(np.abs(boxes - true_boxes)[told].max(initial=0)))
    return of_scores, of_boxes


def _measure(
    kind: Literal["torch", "float", "int8"],
    model: Model,
    size_bytes: int,
    photos: Sequence[Photo],
    data: Manifest,
    differences: tuple[float, float] | None,
) -> BoxMeasures:
    found = find_in_photos(model, [data.root / photo.path for photo in photos])
    ap = {}
    for split in ("test", "val", "all"):
        chosen = [i for i, photo in enumerate(photos) if split in (photo.split, "all")]
        if any(photos[i].boxes for i in chosen):
            ap[split] = _measure_ap_of([found[i] for i in chosen], [photos[i] for i in chosen], model.contract)
    scores, boxes = differences or (None, None)
    return BoxMeasures(kind=kind, size_mb=size_bytes / 1e6, score_difference=scores, box_difference=boxes, ap=ap)


def _measure_ap(model: Model, photos: Sequence[Photo], data: Manifest) -> dict[str, float]:
    return _measure_ap_of(find_in_photos(model, [data.root / photo.path for photo in photos]), photos, model.contract)


def _measure_ap_of(found: Sequence[Any], photos: Sequence[Photo], contract: Contract) -> dict[str, float]:
    values = measure_boxes(found, photos, contract.class_names, contract.threshold, resamples=1)
    return {key: values[key] for key in KEYS}


def _count_bytes(model: DetectionModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.network.state_dict().values())


def _find_failures(rows: Sequence[BoxMeasures]) -> list[str]:
    by_kind = {row.kind: row for row in rows}
    exported, failures = by_kind["float"], []
    assert exported.score_difference is not None
    assert exported.box_difference is not None
    if exported.score_difference > SCORE_DIFFERENCE:
        failures.append(f"float: largest |Δ score| is {exported.score_difference:.2g}, over {SCORE_DIFFERENCE:g}")
    if exported.box_difference > BOX_DIFFERENCE:
        failures.append(f"float: largest |Δ side| is {exported.box_difference:.2g} px, over {BOX_DIFFERENCE:g}")
    if "int8" in by_kind:
        loss = exported.ap["all"]["ap"] - by_kind["int8"].ap["all"]["ap"]
        if loss > AP_LOSS:
            failures.append(f"int8: average precision is {loss:.3f} under float, more than {AP_LOSS:g}")
    return failures
