"""The int8 file: what runs in int8, and which layers stay in float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.errors import ExportError
from catdog.training.model import ImageModel
from export import Gates, Proof, export
from export.float_layers import choose
from export.onnx_file import float_model, write
from export.photos import Labelled, batches
from export.proof import Engine
from export.quantize import Quantizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, dataset: Manifest) -> tuple[Path, Proof]:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    # Random weights answer near 0.5, so a flip means nothing here.
    return path, export(run_folder, path, dataset, int8=True, min_photos=24, gates=Gates(accuracy_loss=100))


def test_it_is_small_and_says_how_good_it_is(exported: tuple[Path, Proof]) -> None:
    path, proof = exported
    assert path.stat().st_size < 12e6
    onnx.checker.check_model(path, full_check=True)
    quality = Classifier(path).contract.quality
    assert quality["int8_test_accuracy"] == proof.rows[-1].accuracy["test"] / 100
    assert quality["int8_test_photos"] == 12
    assert [row.kind for row in proof.rows] == ["torch", "float", "int8"]


def test_all_convolutions_sums_and_pools_run_in_int8(exported: tuple[Path, Proof], tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4  # it warns that the optimised file is for this machine
    ort.InferenceSession(exported[0], options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["QLinearGlobalAveragePool"]) == (20, 8, 1)
    assert not {"Conv", "FusedConv", "Add", "Gemm", "FusedGemm", "GlobalAveragePool"} & kinds.keys()
    assert kinds["Softmax"] == 1


def test_weights_have_seven_bits_so_that_cpus_without_vnni_do_not_saturate(exported: tuple[Path, Proof]) -> None:
    proto = onnx.load(exported[0])
    weights = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    largest = [int(np.abs(w.astype(int)).max()) for w in weights if w.ndim > 1]
    assert len(largest) == 21
    assert max(largest) <= 64  # 2 * 255 * 64 = 32640, under the 32767 of 16 bits


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
    write(float_model(ImageModel(Fragile(), contract).eval(), contract), contract, path)
    photos = Labelled.of(dataset, dataset.of("train"))
    return Quantizer(path, batches(photos.paths, contract)), Engine.of_file("float", path), photos


def test_the_layer_that_int8_breaks_stays_in_float(fragile: tuple[Quantizer, Engine, Labelled], tmp_path: Path) -> None:
    quantizer, reference, photos = fragile
    lines: list[str] = []
    _, in_float = choose(quantizer, reference, photos, photos, 0.1, tmp_path / "int8.onnx", lines.append)
    assert in_float == ["/network/fragile/Conv"]
    assert "50.00% of validation photos right" in lines[0]
    assert "100.00% of validation photos right" in lines[-1]


def test_no_int8_model_is_better_than_a_bad_one(fragile: tuple[Quantizer, Engine, Labelled], tmp_path: Path) -> None:
    quantizer, reference, photos = fragile
    with pytest.raises(ExportError, match=r"int8: .* layers in float, 101.00% needed; no file was written"):
        choose(quantizer, reference, photos, photos, -1, tmp_path / "int8.onnx", lambda line: None)
