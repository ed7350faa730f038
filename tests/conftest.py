"""What several tests share: a model small enough to reason about, and real photos where this machine has them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.classifier import Classifier
from catdog.contract import METADATA_KEY, Contract

# A process of root without this may read as little as anybody else.
UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
# Torch's threads wait for each other by computing nothing, up to tenfold where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
TINY_CONTRACT = Contract(class_names=("cat", "dog"), input_size=16, threshold=0.6)
FAST_CONTRACT = TINY_CONTRACT.with_(fast_size=8, fast_bound=0.9)  # where a photo of one colour is at least 141


def _fail_if_skipped(report: Any) -> None:
    if report.skipped and os.environ.get("CATDOG_SKIPS") == "fail" and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which is a failure here: {report.longrepr[2]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    _fail_if_skipped(report)
    return report


def build_tiny_model(
    contract: str | None,
    *,
    size: int | str = 16,
    input_name: str = "image",
    classes: int = 2,
    weight: float = 1 / 16,
    over: str = "ReduceMean",
) -> bytes:
    """An ONNX file: class 0 for red photos, class 1 for blue ones, softmax((mean red, mean blue) / 16).

    ``contract`` goes into its metadata; ``size``, ``input_name`` and ``classes`` may contradict it. ``weight``: of the
    mean colours, 1/16; ``over``: the operation that takes the mean.
    """
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    weights = np.zeros((3, classes), np.float32)
    weights[0, 0] = weights[2, 1] = weight
    graph = helper.make_graph(
        [
            helper.make_node("Cast", [input_name], ["pixels"], to=types.FLOAT),
            helper.make_node(over, ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info(input_name, types.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("probabilities", types.FLOAT, ["N", classes])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if contract is not None:
        helper.set_model_props(model, {METADATA_KEY: contract})
    return bytes(model.SerializeToString())


def build_fast_model(contract: Contract) -> bytes:
    """A model for photos of any size that answers as the tiny one at 16x16 px, and is less sure of smaller ones.

    softmax(sums of red and blue / 4096): at 8x8 px that is softmax((mean red, mean blue) / 64).
    """
    return build_tiny_model(contract.to_json(), size="side", weight=1 / 4096, over="ReduceL1")


def build_looking_model(contract: Contract) -> bytes:
    """A model of the same answers, whose evidence is the colour of each 4x4 px: red speaks for cat, blue for dog."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0, 0] = weights[1, 2] = 1 / 16
    size = contract.input_size
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=types.FLOAT),
            helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["places"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Conv", ["places", "weights"], ["evidence"]),
            helper.make_node("ReduceMean", ["evidence"], ["logits"], axes=[2, 3], keepdims=0),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", types.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info("probabilities", types.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("evidence", types.FLOAT, ["N", 2, size // 4, size // 4]),
        ],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded photos of tests don't go to the user's cache; processes that tests start inherit this."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model that answers cat for red and dog for blue, 16x16 px, threshold 0.6."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(build_tiny_model(TINY_CONTRACT.to_json()))
    return path


@pytest.fixture(scope="session")
def fast_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model that answers as the tiny one, and with ``--fast`` less surely and first at 8x8 px."""
    path = tmp_path_factory.mktemp("model") / "fast.onnx"
    path.write_bytes(build_fast_model(FAST_CONTRACT))
    return path


@pytest.fixture(scope="session")
def tiny(tiny_model: Path) -> Classifier:
    """That model, loaded."""
    return Classifier(tiny_model, threads=1)


@pytest.fixture(scope="session")
def looking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model that answers as the tiny one and says where it looked, in 4x4 places."""
    path = tmp_path_factory.mktemp("model") / "looking.onnx"
    path.write_bytes(build_looking_model(TINY_CONTRACT))
    return path


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """photo("red", "PNG", size=(w, h)) -> an encoded photo of one colour."""

    def encode(
        colour: str | tuple[int, int, int] = "red", kind: str = "PNG", size: tuple[int, int] = (32, 24)
    ) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, kind)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def real_photos() -> Iterator[Callable[[int], list[tuple[str, bytes]]]]:
    """real_photos(n) -> the first n cats and n dogs of Kaggle's originals, as (name, JPEG bytes)."""
    archive = SHARED_DATA / "dogs-vs-cats-originals.zip"
    if not archive.is_file():
        pytest.skip(f"real photos are not on this machine ({archive})")
    with zipfile.ZipFile(archive) as photos:
        yield lambda n: [
            (name, photos.read(name))
            for kind in ("cats/cat", "dogs/dog")
            for name in (f"training_set/{kind}.{i}.jpg" for i in range(1, n + 1))
        ]
