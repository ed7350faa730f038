"""Export a checkpoint as a proven ONNX file: every step of ``catdog export`` in its order.

    load -> float model -> [calibrate -> int8 model, with the float layers that it needs -> its fast pass]
         -> proof -> the file's name

All is written under temporary names; the file gets its own when no gate has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo
from catdog.errors import DataError, SettingsError
from catdog.export.detection import BoxProof, export_detector
from catdog.export.fast import choose_fast_pass
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.export.photos import Labelled, choose_stratified, make_awkward_photos
from catdog.export.proof import Engine, EngineKind, Gates, Proof, ProofError, prove
from catdog.export.quantize import Quantizer, choose_float_layers
from catdog.files import replace_file
from catdog.image import read_file
from catdog.training.detector import DetectionModel
from catdog.training.model import ImageModel, load_batches, load_checkpoint

FLOAT_PHOTOS: Final = 500  # a float export is compared on; it runs at the end of each training run
INT8_PHOTOS: Final = 5_000  # the most that an int8 export is compared on
MIN_PHOTOS: Final = 1_500  # an int8 export is compared on; 0.1 points of accuracy are 1.5 of these
CALIBRATION_PHOTOS: Final = 512
MIN_CALIBRATION_PHOTOS: Final = 256


def export(
    checkpoint: str | Path,
    out: str | Path,
    data: Manifest,
    *,
    int8: bool = False,
    min_photos: int = MIN_PHOTOS,
    gates: Gates | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Proof | BoxProof:
    """Write the checkpoint (a run folder or its model.safetensors) as an ONNX file to ``out``, proven on ``data``.

    ``int8``: quantize it, calibrated on training photos. ``min_photos``: fewest photos of the validation and test
    splits that an int8 proof accepts; under 256 it is also the fewest calibration photos. ``say`` gets a line a step.
    A detector's gates and numbers of photos are those of ``catdog.export.detection``.

    Raises ProofError, another ExportError, or for what was given SettingsError, ModelError, ContractError, DataError or
    ImageError; then ``out`` is as it was.
    """
    out, gates = Path(out), gates or Gates()
    if out.is_dir():
        raise SettingsError(f"--out {out}: is a folder; give the name of a file")
    if out.suffix != ".onnx":
        raise SettingsError(f"--out {out}: give a name that ends in .onnx")
    if out.exists() and out.samefile(checkpoint):
        raise SettingsError(f"--out {out}: is the checkpoint itself; give another name")
    model = load_checkpoint(checkpoint)
    contract = model.contract
    notes = []
    if contract.data_fingerprint and contract.data_fingerprint != data.fingerprint:
        notes.append("not the dataset that the model was trained on: some of these photos may have been learnt")
    try:
        if isinstance(model, DetectionModel):
            return export_detector(model, out, data, int8, notes, say)
        return _export_classifier(model, out, data, int8, min_photos, gates, notes, say)
    except OSError as error:
        raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error


def _export_classifier(
    model: ImageModel,
    out: Path,
    data: Manifest,
    int8: bool,
    min_photos: int,
    gates: Gates,
    notes: list[str],
    say: Callable[[str], None],
) -> Proof:
    contract = model.contract
    if tuple(data.class_names) != contract.class_names:
        raise DataError(f"{data.root}: classes {data.class_names}, but the model knows {contract.class_names}")
    proof_photos = _choose_proof_photos(data, int8, min_photos)
    labelled = Labelled.of(data, proof_photos)
    calibration = Labelled.of(data, _choose_calibration_photos(data, min_photos)) if int8 else None
    awkward = make_awkward_photos(read_file(labelled.paths[0]))

    with replace_file(out) as temporary, TemporaryDirectory(prefix="catdog-") as folder:
        float_path, int8_path = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        say("exporting")
        write_onnx(to_onnx(model), contract, float_path)
        engines = [Engine.of_checkpoint(model), Engine.of_file("float", float_path)]
        if calibration is not None:
            say(f"calibrating on {len(calibration.paths)} training photos")
            quantizer = Quantizer(float_path, list(load_batches(calibration.paths, contract)))
            validation = Labelled.of(data, choose_stratified(data.of("val"), INT8_PHOTOS))
            quantized, in_float = choose_float_layers(
                quantizer, engines[1], calibration, validation, gates.accuracy_loss, int8_path, say
            )
            say("choosing the fast pass")
            held_out = Labelled.of(data, [photo for photo in proof_photos if photo.split == "test"])
            contract, note = choose_fast_pass(Classifier(int8_path), validation, held_out)
            write_onnx(quantized, contract, int8_path)
            kinds: list[EngineKind] = ["int8", "fast"] if contract.fast_size else ["int8"]
            engines += [Engine.of_file(kind, int8_path) for kind in kinds]
            notes += [f"layers in float: {', '.join(in_float) or 'none'}", note]
        say(f"comparing on {len(labelled.paths)} photos and {len(awkward)} awkward ones")
        proof = prove(engines, labelled, awkward, gates, notes)
        if proof.failures:
            raise ProofError(proof)
        if int8:
            # Its accuracy joins the contract; the graph is the one that was proven.
            write_onnx(quantized, _add_quality(contract, proof), int8_path)
        temporary.write_bytes((int8_path if int8 else float_path).read_bytes())
    return proof


def _choose_proof_photos(data: Manifest, int8: bool, min_photos: int) -> list[Photo]:
    known = [*data.of("val"), *data.of("test")]
    if not known or (int8 and not data.of("val")):
        raise DataError(f"{data.root}: no photos in the validation split{'' if int8 else ' or the test split'}")
    if int8 and len(known) < min_photos:
        raise DataError(
            f"{data.root}: {len(known)} photos in the validation and test splits, but an int8 model is proven on "
            f"{min_photos} or more; give more photos with --data, or lower --min-photos for an experiment"
        )
    return choose_stratified(known, INT8_PHOTOS if int8 else FLOAT_PHOTOS)


def _choose_calibration_photos(data: Manifest, min_photos: int) -> list[Photo]:
    chosen = choose_stratified(data.of("train"), CALIBRATION_PHOTOS)
    if len(chosen) < (needed := min(MIN_CALIBRATION_PHOTOS, min_photos)):
        raise DataError(
            f"{data.root}: {len(chosen)} training photos, but an int8 model is calibrated on {needed} or more"
        )
    return chosen


def _add_quality(contract: Contract, proof: Proof) -> Contract:
    measured = dict(contract.quality)
    for row in proof.rows:
        for split, percent in row.accuracy.items() if row.kind in ("int8", "fast") else ():
            if split != "all":
                measured |= {
                    f"{row.kind}_{split}_accuracy": percent / 100,
                    f"{row.kind}_{split}_photos": proof.photos[split],
                }
    return contract.with_(quality=measured)
