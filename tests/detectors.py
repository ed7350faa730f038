"""Detectors with known answers: small ONNX graphs that find red heads, which are cats, and blue ones, dogs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from catdog.contract import METADATA_KEY, Contract

CONTRACT = Contract(
    class_names=("cat", "dog"), input_size=160, task="detect", resize="letterbox", threshold=0.4, arch="colours"
)


def build_detector(
    contract: Contract = CONTRACT,
    *,
    grid: int = 1,
    weight: float = 1.0,
    names: Sequence[str] = ("boxes", "scores"),
    corners: int = 4,
) -> bytes:
    """An ONNX file that finds one box a class in each of ``grid`` x ``grid`` tiles of its input.

    A pixel's strength for cat is red without green and blue in [0, 1], for dog blue without the others. The score is
    the strongest pixel's times ``weight``. A box is as wide as the strengths of its columns add up to, so that edges
    between two pixels are found. ``names`` of the outputs and the number of ``corners`` may be wrong ones.
    """
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    size = contract.input_size
    tile, places = size // grid, 2 * grid * grid
    colours = np.array([[1, -1, -1], [-1, -1, 1]], np.float32)[:, :, None, None] / 255
    first = np.arange(grid, dtype=np.float32) * tile  # pixel of each tile
    constants = {
        "colours": colours,
        "zero": np.float32(0),
        "one": np.float32(1),
        "tiny": np.float32(1e-6),
        "half": np.float32(0.5),
        "weight": np.float32(weight),
        "middles": np.arange(tile, dtype=np.float32) + 0.5,
        "left": first.reshape(1, grid, 1),
        "top": first.reshape(grid, 1, 1),
        "own": np.repeat(np.eye(2, dtype=np.float32), grid * grid, axis=0),
        "in_tiles": np.array([-1, 2, grid, tile, grid, tile]),
        "as_boxes": np.array([-1, places, corners]),
        "as_scores": np.array([-1, places, 1]),
        "last": np.array([-1]),
    }

    def find_edges(axis: str, across: int, begin: str) -> list[object]:
        """The two edges of each tile's box: the middle, and half of the width on each side of it."""
        return [
            helper.make_node("ReduceMax", ["tiles"], [f"{axis}_most"], axes=[across], keepdims=0),
            helper.make_node("Div", [f"{axis}_most", "safe"], [f"{axis}_share"]),
            helper.make_node("ReduceSum", [f"{axis}_share", "last"], [f"{axis}_length"], keepdims=1),
            helper.make_node("Mul", [f"{axis}_share", "middles"], [f"{axis}_moment"]),
            helper.make_node("ReduceSum", [f"{axis}_moment", "last"], [f"{axis}_sum"], keepdims=1),
            helper.make_node("Add", [f"{axis}_length", "tiny"], [f"{axis}_solid"]),
            helper.make_node("Div", [f"{axis}_sum", f"{axis}_solid"], [f"{axis}_inner"]),
            helper.make_node("Add", [f"{axis}_inner", begin], [f"{axis}_middle"]),
            helper.make_node("Mul", [f"{axis}_length", "half"], [f"{axis}_half"]),
            helper.make_node("Sub", [f"{axis}_middle", f"{axis}_half"], [f"{axis}_min"]),
            helper.make_node("Add", [f"{axis}_middle", f"{axis}_half"], [f"{axis}_max"]),
        ]

    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=types.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "colours"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["strength"]),
        helper.make_node("Reshape", ["strength", "in_tiles"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["tiles"], perm=[0, 1, 2, 4, 3, 5]),  # class, tile, tile, y, x
        helper.make_node("ReduceMax", ["tiles"], ["best"], axes=[4, 5], keepdims=0),
        helper.make_node("ReduceMax", ["tiles"], ["peak"], axes=[5], keepdims=0),
        helper.make_node("ReduceMax", ["peak"], ["height"], axes=[4], keepdims=1),
        helper.make_node("Add", ["height", "tiny"], ["safe"]),
        *find_edges("x", 4, "left"),
        *find_edges("y", 5, "top"),
        helper.make_node("Concat", ["x_min", "y_min", "x_max", "y_max"][:corners], ["corners"], axis=-1),
        helper.make_node("Reshape", ["corners", "as_boxes"], [names[0]]),
        helper.make_node("Reshape", ["best", "as_scores"], ["column"]),
        helper.make_node("Mul", ["column", "own"], ["sure"]),
        helper.make_node("Mul", ["sure", "weight"], [names[1]]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", types.UINT8, ["N", size, size, 3])],
        [
            helper.make_tensor_value_info(names[0], types.FLOAT, ["N", places, corners]),
            helper.make_tensor_value_info(names[1], types.FLOAT, ["N", places, 2]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return bytes(model.SerializeToString())


def draw_photo(size: tuple[int, int], *heads: tuple[str, tuple[int, int, int, int]]) -> Image.Image:
    """A black photo, in which edges blend evenly, with a filled rectangle for each head.

    A head is a colour and corners in px, of which the last ones are outside.
    """
    photo = Image.new("RGB", size, "black")
    for colour, (left, top, right, bottom) in heads:
        photo.paste(colour, (left, top, right, bottom))
    return photo
