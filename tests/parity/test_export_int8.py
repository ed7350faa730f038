"""The int8 file: what runs in int8, and which layers stay in float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.errors import ExportError
from catdog.export import Gates, Proof, export
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.export.photos import Labelled
from catdog.export.proof import Engine
from catdog.export.quantize import Quantizer, choose_float_layers
from catdog.export.rounding import measure_second_moments, round_weights
from catdog.training.model import ImageModel, load_batches, load_checkpoint


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, dataset: Manifest) -> tuple[Path, Proof]:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    # Random weights answer near 0.5, so a flip means nothing here.
    proof = export(run_folder, path, dataset, int8=True, min_photos=24, gates=Gates(accuracy_loss=100))
    assert isinstance(proof, Proof)
    return path, proof


def optimised(model: Path, scratch: Path) -> Counter[str]:
    """How many nodes of each kind ONNX Runtime runs, after all its optimisations."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(scratch / "optimised.onnx")
    options.log_severity_level = 4  # it warns that the optimised file is for this machine
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(scratch / "optimised.onnx").graph.node)


def test_it_is_small_and_says_how_good_it_is(exported: tuple[Path, Proof]) -> None:
    path, proof = exported
    assert path.stat().st_size < 12e6
    onnx.checker.check_model(path, full_check=True)
    quality = Classifier(path).contract.quality
    assert quality["int8_test_accuracy"] == proof.rows[-1].accuracy["test"] / 100
    assert quality["int8_test_photos"] == 12
    assert [row.kind for row in proof.rows] == ["torch", "float", "int8"]


def test_all_convolutions_sums_and_pools_run_in_int8(exported: tuple[Path, Proof], tmp_path: Path) -> None:
    kinds = optimised(exported[0], tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (20, 8)
    assert not {"Conv", "FusedConv"} & kinds.keys()
    assert kinds["MatMul"] == kinds["Add"] == kinds["ReduceMean"] == kinds["Softmax"] == 1  # evidence and its mean


def test_the_normalisation_is_one_operation_that_changes_no_answer(
    exported: tuple[Path, Proof], run_folder: Path, dataset: Manifest, tmp_path: Path
) -> None:
    kinds = Counter(node.op_type for node in onnx.load(exported[0]).graph.node)
    assert not {"Cast", "Sub"} & kinds.keys()
    assert kinds["Div"] == 1  # the temperature
    images = next(
        load_batches(
            [dataset.root / photo.path for photo in dataset.of("test")], Contract.read(run_folder / "contract.json")
        )
    )
    checkpoint = load_checkpoint(run_folder)
    odd = checkpoint.contract.with_(mean=(0.485, 0.456, 0.406))  # no whole levels, so the three operations stay
    write_onnx(to_onnx(ImageModel(checkpoint.network, odd)), odd, tmp_path / "float.onnx")
    write_onnx(Quantizer(tmp_path / "float.onnx", [images]).quantize(), odd, tmp_path / "int8.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert (kinds["Cast"], kinds["Sub"], kinds["Div"]) == (1, 1, 2)
    difference = Classifier(tmp_path / "int8.onnx").probabilities(images) - Classifier(exported[0]).probabilities(
        images
    )
    assert np.abs(difference).max() < 0.05


def test_evidence_survives_quantization(exported: tuple[Path, Proof], run_folder: Path, dataset: Manifest) -> None:
    checkpoint = load_checkpoint(run_folder)
    images = next(load_batches([dataset.root / photo.path for photo in dataset.of("test")], checkpoint.contract))
    probabilities, evidence = Classifier(exported[0]).evidence(images)
    assert evidence.shape == (len(images), 2, 2, 2)
    logits = evidence.mean((2, 3)) / checkpoint.contract.temperature
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, softmax, atol=1e-6)
    truth = checkpoint.evidence(torch.from_numpy(images)).detach().numpy()
    assert np.corrcoef(evidence.ravel(), truth.ravel())[0, 1] > 0.98


def test_weights_have_seven_bits_so_that_cpus_without_vnni_do_not_saturate(exported: tuple[Path, Proof]) -> None:
    proto = onnx.load(exported[0])
    weights = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    largest = [int(np.abs(w.astype(int)).max()) for w in weights if w.ndim > 1]
    assert len(largest) == 20
    assert max(largest) == 64  # 2 * 255 * 64 = 32640, under the 32767 of 16 bits


class Fragile(nn.Module):
    """Red or blue? ``fragile`` has large weights on a channel that is always 0, beside the small ones that decide."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fragile, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 64, 3)
        self.head = nn.Linear(64, 2)
        with torch.no_grad():
            self.first.load_state_dict(
                {"weight": torch.eye(4, 3).view(4, 3, 1, 1), "bias": torch.tensor([3.0, 3, 3, 0])}
            )
            self.fragile.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
            self.fragile.weight[:, 3] = 1000
            self.last.weight.zero_()
            self.last.weight[0, 0] = self.last.weight[1, 2] = 1
            self.head.weight.zero_()
            self.head.weight[0, 0] = self.head.weight[1, 1] = 0.1

    def forward(self, pixels: Tensor) -> Tensor:
        """float (N, 3, H, W) -> logits (N, 2)."""
        pixels = torch.relu(self.fragile(torch.relu(self.first(pixels))))
        return self.head(torch.relu(self.last(pixels)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, dataset: Manifest) -> tuple[Quantizer, Engine, Labelled]:
    contract = Contract(class_names=("cat", "dog"), input_size=16)
    path = tmp_path_factory.mktemp("fragile") / "float.onnx"
    write_onnx(to_onnx(ImageModel(Fragile(), contract).eval()), contract, path)
    photos = Labelled.of(dataset, dataset.of("train"))
    return Quantizer(path, list(load_batches(photos.paths, contract))), Engine.of_file("float", path), photos


def test_the_layer_that_int8_breaks_stays_in_float(fragile: tuple[Quantizer, Engine, Labelled], tmp_path: Path) -> None:
    quantizer, reference, photos = fragile
    lines: list[str] = []
    _, in_float = choose_float_layers(quantizer, reference, photos, photos, 0.1, tmp_path / "int8.onnx", lines.append)
    assert in_float == ["/network/fragile/Conv"]
    assert "50.00% of validation photos right" in lines[0]
    assert "100.00% of validation photos right" in lines[-1]


def test_a_float_layer_between_int8_ones_is_left_alone_by_onnx_runtime(
    fragile: tuple[Quantizer, Engine, Labelled], tmp_path: Path
) -> None:
    quantizer, reference, _ = fragile
    write_onnx(quantizer.quantize(["/network/fragile/Conv"]), reference.model.contract, tmp_path / "int8.onnx")
    kinds = optimised(tmp_path / "int8.onnx", tmp_path)
    assert kinds["QLinearConv"] == 2
    assert kinds["Conv"] + kinds["FusedConv"] == 1  # without the guard it is a third QLinearConv


def test_rounding_keeps_outputs_right_where_inputs_go_together() -> None:
    dice = np.random.default_rng(0)
    inputs = dice.normal(size=(500, 1)) + 0.1 * dice.normal(size=(500, 24))  # 24 pixels that are nearly the same
    weights = dice.normal(size=(8, 24)).astype(np.float32)
    scales = np.abs(weights).max(1) / 64
    moment = (inputs.T @ inputs / 500).astype(np.float32)
    result = round_weights(weights, scales, moment, 64)
    assert result.shape == weights.shape
    assert np.abs(result.astype(int)).max() <= 64
    plain = np.round(weights / scales[:, None])

    def error(integers: npt.NDArray[np.generic]) -> float:
        return float(np.square(inputs @ (weights - integers * scales[:, None]).T).mean())

    assert error(result) < 0.2 * error(plain)


def test_second_moments_are_those_of_what_each_output_sees(tmp_path: Path) -> None:
    contract = Contract(class_names=("cat", "dog"), input_size=16, mean=(0, 0, 0), std=(1, 1, 1))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    proto = to_onnx(ImageModel(network, contract).eval())
    (moment,) = measure_second_moments(proto, [np.full((2, 16, 16, 3), 51, np.uint8)]).values()
    assert moment.shape == (27, 27)
    np.testing.assert_allclose(moment, 0.2**2, rtol=1e-5)  # (51 / 255)^2


def test_no_int8_model_is_better_than_a_bad_one(fragile: tuple[Quantizer, Engine, Labelled], tmp_path: Path) -> None:
    quantizer, reference, photos = fragile
    with pytest.raises(ExportError, match=r"int8: .* layers in float, 101.00% needed; no file was written"):
        choose_float_layers(quantizer, reference, photos, photos, -1, tmp_path / "int8.onnx", lambda line: None)
