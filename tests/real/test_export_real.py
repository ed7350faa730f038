"""Pretrained features and real photos: answers that mean something, through float and int8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
import torch

from catdog.classifier import Classifier, load
from catdog.contract import Contract
from catdog.dataset import Manifest, build
from catdog.export import Gates, Proof, export
from catdog.export.photos import Labelled
from catdog.training.model import ImageModel, load_batches, new_network, save_checkpoint
from catdog.training.weights import load_weights

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights" / "resnet18-imagenet1k-v1-partial.safetensors"
CONTRACT = Contract(class_names=("cat", "dog"), input_size=96, arch="resnet18", threshold=0.6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, real_photos: Callable[[int], list[tuple[str, bytes]]]) -> Manifest:
    """200 real cats and as many dogs, split 6:2:2."""
    folder = tmp_path_factory.mktemp("photos")
    for name, data in real_photos(200):
        (folder / name.rsplit("/", 1)[1]).write_bytes(data)
    return build([folder], tmp_path_factory.mktemp("data") / "dataset", split=(0.6, 0.2, 0.2))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, photos: Manifest) -> Path:
    """ImageNet's features and a head that was fitted to the training photos: a linear probe."""
    if not WEIGHTS.is_file():
        pytest.skip(f"pretrained weights are not on this machine ({WEIGHTS})")
    torch.manual_seed(0)
    network = new_network("resnet18", 2)
    load_weights(network, "resnet18", str(WEIGHTS))
    head, network.fc = network.fc, torch.nn.Identity()
    model, training = ImageModel(network, CONTRACT).eval(), Labelled.of(photos, photos.of("train"))
    with torch.no_grad():
        features = torch.cat(
            [model.logits(torch.from_numpy(b).permute(0, 3, 1, 2)) for b in load_batches(training.paths, CONTRACT)]
        )
    labels, optimizer = torch.from_numpy(training.labels), torch.optim.AdamW(head.parameters(), 1e-2, weight_decay=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.fc = head
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder, network, CONTRACT)
    return folder


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, photos: Manifest) -> tuple[Path, Proof]:
    out = tmp_path_factory.mktemp("int8") / "model.onnx"
    # Of the 67 validation photos, by which layers are left in float, one is 1.5 points; two flips pass.
    proof = export(checkpoint, out, photos, int8=True, min_photos=100, gates=Gates(accuracy_loss=3))
    assert isinstance(proof, Proof)
    return out, proof


def test_float_is_torch_s_equal_on_real_and_awkward_photos(int8: tuple[Path, Proof]) -> None:
    torch_row, float_row, _ = int8[1].rows
    assert torch_row.accuracy["all"] > 85  # so labels mean something; 50 is chance
    assert float_row.difference < 1e-4
    assert float_row.flips == float_row.verdicts == 0


def test_int8_is_a_quarter_of_the_size_and_nearly_as_right(int8: tuple[Path, Proof]) -> None:
    path, proof = int8
    assert path.stat().st_size < 12e6
    assert proof.rows[2].difference < 0.25
    assert proof.rows[2].flips <= 3
    assert "layers in float: none" in proof.notes


def test_the_int8_file_serves_photos_from_their_bytes(int8: tuple[Path, Proof], photos: Manifest) -> None:
    tested = photos.of("test")
    answers = Classifier(int8[0]).predict([(photos.root / photo.path).read_bytes() for photo in tested])
    right = sum(
        answer.probabilities is not None and answer.probabilities[photo.label] > 0.5
        for answer, photo in zip(answers, tested, strict=True)
    )
    assert 100 * right / len(tested) == pytest.approx(int8[1].rows[2].accuracy["test"])


def test_fast_agrees_with_the_whole_size_on_real_photos(
    real_photos: Callable[[int], list[tuple[str, bytes]]],
) -> None:
    whole, fast = load(), load(fast=True)
    bound = fast.contract.fast_bound
    assert bound is not None
    photos = [data for _, data in real_photos(30)]
    pairs = list(zip(whole.predict(photos), fast.predict(photos), strict=True))
    assert sum(ours.label != theirs.label for ours, theirs in pairs) <= 1
    again = sum(ours.probabilities == theirs.probabilities for ours, theirs in pairs)  # the whole size answered both
    assert 0 < again < len(photos) / 2
    for ours, theirs in pairs:
        assert ours.confidence is not None
        assert theirs.confidence is not None
        assert theirs.confidence >= (fast.contract.fast_bound or 1) or theirs.confidence == pytest.approx(
            ours.confidence
        )


def test_the_report_is_json(int8: tuple[Path, Proof]) -> None:
    assert json.loads(json.dumps(int8[1].to_dict()))["rows"][2]["kind"] == "int8"
