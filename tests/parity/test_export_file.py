"""The exported file itself: signature, metadata, bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from catdog.classifier import Classifier
from catdog.contract import METADATA_KEY, Contract
from catdog.dataset import Manifest
from catdog.errors import ExportError
from catdog.export import export
from catdog.export.onnx_file import write_onnx
from catdog.image import shrink
from catdog.training.model import ImageModel, load_checkpoint


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, dataset: Manifest) -> Path:
    path = tmp_path_factory.mktemp("exported") / "new" / "model.onnx"
    export(run_folder, path, dataset)
    return path


def test_it_is_one_checked_file_with_the_promised_signature(exported: Path) -> None:
    assert list(exported.parent.iterdir()) == [exported]
    onnx.checker.check_model(exported, full_check=True)
    proto = onnx.load(exported)
    assert proto.ir_version <= 10  # what ONNX Runtime 1.20 opens
    (image,), (probabilities, evidence) = proto.graph.input, proto.graph.output
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (image, probabilities, evidence)
    ]
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert (probabilities.name, probabilities.type.tensor_type.elem_type) == ("probabilities", onnx.TensorProto.FLOAT)
    assert (evidence.name, evidence.type.tensor_type.elem_type) == ("evidence", onnx.TensorProto.FLOAT)
    assert shapes == [["N", "H", "W", 3], ["N", 2], ["N", 2, "h", "w"]]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_batch_gives_torch_s_probabilities(exported: Path, model: ImageModel, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 48, 48, 3), np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    assert (
        np.abs(Classifier(exported).probabilities(images) - expected).max() < 1e-5
    )  # float32, summed in another order


@pytest.mark.parametrize("side", [32, 40, 48])
def test_any_size_gives_torch_s_probabilities(exported: Path, model: ImageModel, side: int) -> None:
    images = np.random.default_rng(side).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(shrink(images, side))).numpy()
    assert np.abs(Classifier(exported).answer_small(images, side) - expected).max() < 1e-5


def test_the_contract_is_inside_unchanged(exported: Path, run_folder: Path) -> None:
    assert Classifier(exported).contract == Contract.read(run_folder / "contract.json")


def test_nothing_else_is_inside(exported: Path) -> None:
    proto, data = onnx.load(exported), exported.read_bytes()
    assert proto.producer_name == "catdog"
    assert [entry.key for entry in proto.metadata_props] == [METADATA_KEY]
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    for trace in (str(Path(__file__).parents[2]), str(exported.parent), str(Path.home()), "site-packages", "python"):
        assert trace.encode() not in data


def test_the_same_checkpoint_gives_the_same_bytes(
    exported: Path, run_folder: Path, dataset: Manifest, tmp_path: Path
) -> None:
    export(run_folder / "model.safetensors", tmp_path / "again.onnx", dataset)
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


def test_a_model_that_onnx_checker_refuses_is_not_written(exported: Path, run_folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported)
    proto.graph.node[3].input[0] = "nowhere"
    with pytest.raises(ExportError, match=r"onnx\.checker refuses the model"):
        write_onnx(proto, load_checkpoint(run_folder).contract, tmp_path / "bad.onnx")
    assert not list(tmp_path.iterdir())
