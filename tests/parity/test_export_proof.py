"""No proof, no file."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.errors import DataError, ModelError, SettingsError
from catdog.export import Gates, ProofError, export
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.export.photos import Labelled, choose_stratified, find_dataset, make_awkward_photos
from catdog.export.proof import Engine, Proof, prove
from catdog.export.quantize import keep_affordable
from catdog.image import load_pixels
from catdog.training.model import ImageModel, load_checkpoint, new_network, save_checkpoint


def test_the_proof_counts_what_it_compared(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    proof = export(run_folder, tmp_path / "model.onnx", dataset)
    assert isinstance(proof, Proof)
    assert proof.photos == {"val": 12, "test": 12, "all": 24}
    assert proof.awkward >= 30
    assert [row.kind for row in proof.rows] == ["torch", "float"]
    assert proof.rows[1].difference <= 1e-4
    assert proof.rows[1].flips == proof.rows[1].verdicts == 0
    assert proof.rows[0].accuracy == proof.rows[1].accuracy


@pytest.mark.parametrize("existing", [None, b"the model before"])
def test_a_failed_gate_leaves_the_disk_as_it_was(
    run_folder: Path, dataset: Manifest, tmp_path: Path, existing: bytes | None
) -> None:
    out = tmp_path / "model.onnx"
    if existing is not None:
        out.write_bytes(existing)
    with pytest.raises(ProofError, match=r"float: largest |Δp| is .*, over -1 .*no file was written") as caught:
        export(run_folder, out, dataset, gates=Gates(difference=-1))
    assert len(caught.value.proof.failures) == 1
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if existing is None else [existing])


def test_a_file_of_other_weights_fails(run_folder: Path, dataset: Manifest, model: ImageModel, tmp_path: Path) -> None:
    contract = load_checkpoint(run_folder).contract
    torch.manual_seed(1)
    other = ImageModel(new_network("resnet18", 2), contract).eval()
    write_onnx(to_onnx(other), contract, tmp_path / "other.onnx")
    engines = [Engine.of_checkpoint(model), Engine.of_file("float", tmp_path / "other.onnx")]
    proof = prove(engines, Labelled.of(dataset, dataset.of("val")), {}, Gates())
    assert proof.failures
    assert proof.rows[1].difference > 1e-4


def test_a_file_with_another_resize_rule_fails(
    run_folder: Path, dataset: Manifest, model: ImageModel, tmp_path: Path
) -> None:
    # Same weights, and yet other answers to the same bytes: what comparing tensors only would miss.
    contract = load_checkpoint(run_folder).contract
    write_onnx(to_onnx(model), contract.with_(resize="short_side"), tmp_path / "other.onnx")
    engines = [Engine.of_checkpoint(model), Engine.of_file("float", tmp_path / "other.onnx")]
    assert prove(engines, Labelled.of(dataset, dataset.of("val")), {}, Gates()).failures


def test_awkward_photos_are_what_they_say_and_all_can_be_read(dataset: Manifest) -> None:
    photos = make_awkward_photos((dataset.root / dataset.photos[0].path).read_bytes())
    contract = Contract(class_names=("cat", "dog"), input_size=32)
    assert {load_pixels(data, contract).shape for data in photos.values()} == {(32, 32, 3)}
    assert {f"EXIF orientation {n}" for n in range(1, 9)} <= set(photos)
    assert {"CMYK JPEG", "16-bit grey PNG", "palette", "alpha", "1x1 px", "portrait", "1 bit"} <= set(photos)


def test_too_few_photos_for_int8_is_said_before_any_work(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"24 photos in the validation and test splits.*1500 or more.*--min-photos"):
        export(run_folder, tmp_path / "model.onnx", dataset, int8=True)
    untrained = replace(dataset, photos=tuple(p for p in dataset.photos if p.split != "train"))
    with pytest.raises(DataError, match="0 training photos, but an int8 model is calibrated on 24 or more"):
        export(run_folder, tmp_path / "model.onnx", untrained, int8=True, min_photos=24)
    assert not list(tmp_path.iterdir())


def test_a_dataset_without_photos_to_prove_on_is_refused(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    training = replace(dataset, photos=tuple(dataset.of("train")))
    with pytest.raises(DataError, match="no photos in the validation split or the test split"):
        export(run_folder, tmp_path / "model.onnx", training)


def test_what_can_t_be_exported_is_refused(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is a folder"):
        export(run_folder, tmp_path, dataset)
    weights = run_folder / "model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(SettingsError, match=r"ends in \.onnx"):
        export(run_folder, weights, dataset)
    (tmp_path / "weights.onnx").symlink_to(weights)
    with pytest.raises(SettingsError, match="is the checkpoint itself"):
        export(weights, tmp_path / "weights.onnx", dataset)
    assert weights.read_bytes() == before
    with pytest.raises(ModelError, match="no such file"):
        export(tmp_path / "nothing", tmp_path / "model.onnx", dataset)
    others = replace(dataset, class_names=("dog", "cat"))
    with pytest.raises(DataError, match="but the model knows"):
        export(run_folder, tmp_path / "model.onnx", others)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="can't be written"):
        export(run_folder, tmp_path / "file" / "model.onnx", dataset)


def test_photos_come_from_data_or_from_where_the_run_had_them(
    run_folder: Path, dataset: Manifest, tmp_path: Path
) -> None:
    weights = tmp_path / "run" / "model.safetensors"
    weights.parent.mkdir()
    with pytest.raises(ModelError, match="no such run folder or file"):
        find_dataset(weights, None, tmp_path)
    with pytest.raises(ModelError, match=r"run: no run folder, since there is no model\.safetensors in it"):
        find_dataset(weights.parent, dataset.root, tmp_path)
    weights.touch()
    with pytest.raises(SettingsError, match="--data is needed"):
        find_dataset(weights, None, tmp_path)
    (weights.parent / "config.yaml").write_text(f"data: {dataset.root}\n")
    for checkpoint in (weights, weights.parent):
        assert find_dataset(checkpoint, None, tmp_path).fingerprint == dataset.fingerprint
    (weights.parent / "config.yaml").write_text("data: /nowhere\n")
    with pytest.raises(SettingsError, match="--data is needed"):
        find_dataset(weights, None, tmp_path)
    assert find_dataset(weights, dataset.root, tmp_path) == dataset


def test_other_photos_than_the_training_s_are_noted(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    assert not export(run_folder, tmp_path / "a.onnx", dataset).notes  # its contract names no data
    network = load_checkpoint(run_folder)
    contract = network.contract
    save_checkpoint(tmp_path / "run", network.network, contract.with_(data_fingerprint="other"))
    (note,) = export(tmp_path / "run", tmp_path / "b.onnx", dataset).notes
    assert "may have been learnt" in note


def test_a_stratified_choice_keeps_shares_and_does_not_depend_on_order(dataset: Manifest) -> None:
    photos = [replace(p, source="small") if i % 8 == 0 else p for i, p in enumerate(dataset.photos)]
    chosen = choose_stratified(photos, 28)
    assert Counter(p.label for p in chosen) == {"cat": 14, "dog": 14}
    assert sum(p.source == "small" for p in chosen) in (3, 4, 5)
    shuffled = random.Random(0).sample(photos, len(photos))
    assert choose_stratified(shuffled, 28) == chosen
    assert choose_stratified(photos, 28, seed=1) != chosen
    assert len(choose_stratified(photos, 1000)) == len(photos)


def test_layers_stay_in_float_as_far_as_the_share_goes() -> None:
    assert keep_affordable(["a", "b", "c", "d"], {"a": 10, "b": 20, "c": 10, "d": 60}) == ["a", "c"]
