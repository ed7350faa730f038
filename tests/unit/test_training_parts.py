"""The trainer's pure parts: what learns, how fast, which weights fit, what the numbers are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from catdog import load
from catdog.contract import Contract
from catdog.errors import ContractError, ModelError
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.training.history import format_metrics
from catdog.training.metrics import measure, wilson_interval
from catdog.training.model import ImageModel, find_stage, load_checkpoint, new_network, save_checkpoint, split_network
from catdog.training.onnx_weights import refit_batch_norms
from catdog.training.phases import (
    Schedule,
    choose_learning_tensors,
    freeze_all_but,
    learning_rate_factor,
    new_optimizer,
)
from catdog.training.settings import Settings
from catdog.training.weights import load_weights

CONTRACT = Contract(class_names=("cat", "dog"), input_size=64, arch="resnet18")


def _weights(path: Path, arch: str, drop: str = "never") -> str:
    state = {k: v.contiguous() for k, v in new_network(arch, 1000).state_dict().items() if not k.startswith(drop)}
    save_file(state, path)
    return str(path)


def test_a_partial_file_fills_what_it_has_and_says_what_starts_from_scratch(tmp_path: Path) -> None:
    path = _weights(tmp_path / "w.safetensors", "resnet18", drop="layer4.1")
    network = new_network("resnet18", 2)
    loaded = load_weights(network, "resnet18", path)
    assert {find_stage(name) for name in loaded.fresh} == {"layer4", "head"}
    assert len(loaded.fresh) == 12
    assert "layer4.1 (10), fc (2)" in loaded.describe()
    # The missing block starts as the identity, so the pretrained function is kept.
    block, features = network.layer4[1].eval(), torch.rand(1, 512, 2, 2)
    torch.testing.assert_close(block(features), features)


@pytest.mark.parametrize(
    ("have", "want"), [("resnet34", "resnet18"), ("resnet18", "resnet34"), ("resnet50", "resnet18")]
)
def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path, have: str, want: str) -> None:
    path = _weights(tmp_path / "w.safetensors", have)
    with pytest.raises(ModelError, match=f"weights of {have}, not of {want}"):
        load_weights(new_network(want, 2), want, path)


def test_foreign_and_unreadable_weight_files_are_refused(tmp_path: Path) -> None:
    network = new_network("resnet18", 2)
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "vit.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"not safetensors at all")
    (tmp_path / "pickle.pth").write_bytes(b"cos\nsystem\n")
    for name, message in [
        ("vit.safetensors", "'encoder.weight' is unknown"),
        ("junk.safetensors", "not a readable safetensors file"),
        ("pickle.pth", "pickled weights are not opened"),
        ("absent.safetensors", "no such file"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_weights(network, "resnet18", str(tmp_path / name))


@pytest.mark.parametrize("arch", ["resnet18", "cnn"])
def test_an_exported_file_gives_its_weights_back(tmp_path: Path, arch: str) -> None:
    torch.manual_seed(1)
    contract = CONTRACT.with_(arch=arch)
    first = ImageModel(new_network(arch, 2), contract).eval()
    images = torch.randint(0, 256, (32, 64, 64, 3), dtype=torch.uint8)
    first.train().logits(images.permute(0, 3, 1, 2))  # batch norms that have seen something
    first.eval()
    write_onnx(to_onnx(first), contract, tmp_path / "m.onnx")
    second = ImageModel(new_network(arch, 2), contract).eval()
    loaded = load_weights(second.network, arch, str(tmp_path / "m.onnx"))
    assert (loaded.fresh, loaded.folded) == ((), True)
    torch.testing.assert_close(second(images), first(images), atol=1e-5, rtol=1e-5)

    refit_batch_norms(second, images)
    torch.testing.assert_close(second(images), first(images), atol=1e-4, rtol=1e-4)
    training = second.train()(images) if arch == "resnet18" else None  # the cnn's has dropout
    if training is not None:
        torch.testing.assert_close(training, first(images), atol=0.02, rtol=0.02)


def test_the_embedded_model_is_a_starting_point(tmp_path: Path) -> None:
    network = new_network("resnet18", len(load().contract.class_names))
    assert load_weights(network, "resnet18", "embedded").fresh == ()
    (tmp_path / "other.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ModelError, match=r"other\.onnx: not an ONNX file that catdog exported"):
        load_weights(network, "resnet18", str(tmp_path / "other.onnx"))
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        load_weights(network, "resnet18", str(tmp_path / "none.onnx"))


def test_evidence_is_where_the_logits_come_from() -> None:
    model = ImageModel(new_network("resnet18", 3), CONTRACT.with_(class_names=("cat", "dog", "neither"))).eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    evidence = model.evidence(images)
    assert evidence.shape == (2, 3, 2, 2)
    torch.testing.assert_close(evidence.mean((2, 3)), model.logits(images.permute(0, 3, 1, 2)))


def test_several_weight_files_are_averaged(tmp_path: Path) -> None:
    files = [_weights(tmp_path / f"{i}.safetensors", "cnn") for i in range(2)]
    network = new_network("cnn", 1000)
    load_weights(network, "cnn", ",".join(files))
    states = [load_file(file) for file in files]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, ((states[0][name] + states[1][name]) / 2).to(tensor.dtype))
    partial = _weights(tmp_path / "partial.safetensors", "cnn", drop="layer4")
    with pytest.raises(ModelError, match="only files with the same tensors can be averaged"):
        load_weights(network, "cnn", f"{files[0]},{partial}")


def test_only_fresh_tensors_learn_in_the_frozen_phase() -> None:
    network = new_network("resnet18", 2)
    fresh = frozenset({"fc.weight", "fc.bias", "layer4.1.conv1.weight", "layer4.1.bn1.weight"})
    freeze_all_but(network, choose_learning_tensors(network, fresh, None))
    assert {name for name, p in network.named_parameters() if p.requires_grad} == fresh
    assert not network.bn1.training, "a frozen batch norm keeps its statistics"
    assert network.layer4[1].bn1.training
    freeze_all_but(network, choose_learning_tensors(network, fresh, "layer3"))
    stages = {find_stage(name) for name, p in network.named_parameters() if p.requires_grad}
    assert stages == {"layer3", "layer4", "head"}
    assert network.layer3[0].bn1.training
    assert not network.layer2[0].bn1.training


def test_earlier_stages_learn_slower_and_norms_do_not_decay() -> None:
    network = new_network("resnet18", 2)
    settings = Settings(lr=0.1, backbone_lr=0.5, stage_decay=0.5, weight_decay=1e-3, batch_size=128)
    rates = {}
    learning = {name for name, _ in network.named_parameters()} - {"layer2.0.conv1.weight"}
    for group in new_optimizer(network, {"fc.weight", "fc.bias"}, learning, settings).param_groups:
        for parameter in group["params"]:
            rates[id(parameter)] = (group["peak"], group["weight_decay"])
    assert len(rates) == len(learning)
    assert id(network.layer2[0].conv1.weight) not in rates
    assert rates[id(network.fc.weight)] == pytest.approx((0.2, 1e-3))  # twice the reference batch of 64
    assert rates[id(network.fc.bias)] == pytest.approx((0.2, 0))
    assert rates[id(network.layer4[0].conv1.weight)] == pytest.approx((0.1, 1e-3))
    assert rates[id(network.layer4[0].bn1.weight)] == pytest.approx((0.1, 0))
    assert rates[id(network.layer3[0].conv1.weight)] == pytest.approx((0.05, 1e-3))
    assert rates[id(network.conv1.weight)] == pytest.approx((0.1 * 0.5**4, 1e-3))


@pytest.mark.parametrize(("optimizer", "growth"), [("sgd", 4), ("adamw", 2)])
def test_rates_grow_with_the_batch(optimizer: Literal["sgd", "adamw"], growth: float) -> None:
    network = new_network("cnn", 2)
    names = {name for name, _ in network.named_parameters()}
    settings = Settings(optimizer=optimizer, lr=0.01, batch_size=256)
    peaks = [group["peak"] for group in new_optimizer(network, names, names, settings).param_groups]
    assert peaks == pytest.approx([0.01 * growth] * len(peaks))


@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
def test_the_schedule_warms_up_and_ends_at_zero(kind: Schedule) -> None:
    values = [learning_rate_factor(step, 400, 0.2, kind) for step in range(401)]
    assert all(0 <= v <= 1 for v in values)
    assert values[0] < 0.06
    assert values[:81] == sorted(values[:81])
    assert values[80] == pytest.approx(1, abs=1e-6)
    assert values[80:] == sorted(values[80:], reverse=True)
    assert values[400] == pytest.approx(0, abs=1e-9)


def test_the_schedules_differ_where_they_should() -> None:
    assert learning_rate_factor(25, 100, 0.0, "cosine") == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate_factor(25, 100, 0.0, "one_cycle") == pytest.approx(0.75)
    assert [learning_rate_factor(step, 100, 0.2, "constant") for step in (20, 60, 99)] == [1, 1, 1]


def test_the_served_form_is_normalise_network_softmax_over_temperature() -> None:
    network = new_network("resnet18", 2).eval()
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    model = ImageModel(network, CONTRACT.with_(temperature=2.0)).eval()
    mean, std = torch.tensor(CONTRACT.mean), torch.tensor(CONTRACT.std)
    with torch.inference_mode():
        expected = torch.softmax(network(((images / 255 - mean) / std).permute(0, 3, 1, 2)) / 2.0, 1)
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


def test_a_checkpoint_comes_back_equal_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    network = new_network("resnet18", 2, dropout=0.5).eval()
    written = save_checkpoint(tmp_path, network, CONTRACT)
    model = load_checkpoint(tmp_path)
    contract = model.contract
    assert contract == written
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), ImageModel(network, CONTRACT)(images), rtol=0, atol=0)

    save_file({k: (v + 1).contiguous() for k, v in network.state_dict().items()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"not those that contract\.json was written for"):
        load_checkpoint(tmp_path)
    (tmp_path / "contract.json").write_text(contract.with_(arch="resnet34").to_json())
    with pytest.raises(ModelError, match="not the resnet34"):
        load_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "contract.json").unlink()
    with pytest.raises(ContractError, match=r"needs contract\.json beside it"):
        load_checkpoint(tmp_path)


def test_measure_counts_what_a_hand_counts() -> None:
    truth = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    answer = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
    probabilities = torch.full((10, 2), 0.2).scatter(1, answer[:, None], 0.8)
    numbers = measure(probabilities, truth, ("cat", "dog"))
    assert numbers["confusion_matrix"] == [[3, 1], [2, 4]]
    assert (numbers["photos"], numbers["errors"]) == (10, 3)
    assert numbers["accuracy"] == pytest.approx(0.7)
    assert numbers["per_class"]["cat"]["precision"] == pytest.approx(3 / 5)
    assert numbers["per_class"]["cat"]["recall"] == pytest.approx(3 / 4)
    assert numbers["per_class"]["dog"]["f1"] == pytest.approx(8 / 11)
    assert numbers["f1"] == pytest.approx((2 / 3 + 8 / 11) / 2)
    assert numbers["log_loss"] == pytest.approx(-(7 * math.log(0.8) + 3 * math.log(0.2)) / 10, rel=1e-5)


def test_wilson_interval() -> None:
    # Brown, Cai & DasGupta's definition, worked by hand for 8 of 10: centre 0.7167, half width 0.2267.
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    assert wilson_interval(0, 10)[0] == 0.0


def test_metric_lines_parse_as_name_equals_value() -> None:
    assert format_metrics({"epoch": 3, "val_loss": 0.123456789}) == "epoch=3 val_loss=0.123457"


@pytest.mark.parametrize(("learning", "parts"), [({"fc.weight"}, 10), ({"layer4.1.bn1.weight", "fc.bias"}, 8)])
def test_a_network_in_two_parts_is_the_network(learning: set[str], parts: int) -> None:
    network = new_network("resnet18", 2).eval()
    trunk, tail = split_network(network, learning)
    assert len(trunk) == parts
    inside = {id(p) for p in trunk.parameters()}
    assert not any(id(p) in inside for name, p in network.named_parameters() if name in learning)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(tail(trunk(images)), network(images))


def test_the_small_cnn_learns_from_scratch_and_takes_any_size() -> None:
    network = new_network("cnn", 3, dropout=0.5).eval()
    assert sum(p.numel() for p in network.parameters()) < 1e6
    assert {find_stage(name) for name, _ in network.named_parameters()} == {
        "stem", "layer1", "layer2", "layer3", "layer4", "head"
    }  # fmt: skip
    assert network(torch.zeros(2, 3, 32, 50)).shape == (2, 3)
    assert len(load_weights(network, "cnn", "none").filled) == 0
    with pytest.raises(ModelError, match="the cnn has none"):
        load_weights(network, "cnn", "imagenet")
