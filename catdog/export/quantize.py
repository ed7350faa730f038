"""Quantize a float ONNX model to int8 (QDQ), and choose which layers stay in float.

Weights are int8 per output channel, of 7 bits, so that a file that is proven on one CPU holds on others. Activations
are uint8, in ranges from minimum to maximum, from the first convolution's input to the pooled features. Normalisation,
head, temperature and softmax stay in float, and as few layers as the validation photos ask for: those that cost
calibration photos most. The test split has no part in that choice. docs/decisions.md has what was measured.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
    quant_pre_process,
)

from catdog.errors import ExportError
from catdog.export.onnx_file import write_onnx
from catdog.export.photos import Labelled
from catdog.export.proof import Engine, measure_accuracy
from catdog.export.rounding import Floats, measure_second_moments, round_weights
from catdog.onnx_model import INPUT_NAME
from catdog.training.model import Images, Probabilities

OPERATORS: Final = ("Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten")
"""Run in int8. Residual sums and pools are among them, so that no activation returns to float on its way."""
LARGEST: Final = 64  # the largest 7-bit weight: 2 * 255 * 64 = 32640, under the 32767 of 16 bits
MOMENT_BATCHES: Final = 16  # of the calibration photos, for the rounding
RANKING_PHOTOS: Final = 128  # of the calibration's; every layer is tried on them
WHOLE: Final = 1e-3  # levels; a mean is stored as float32, a thousand times as exact
DETECTOR_HEADS: Final = ("/network/sides/", "/network/classes/")
"""How the names of the nodes of a detector's heads begin."""
DETECTOR_NECK: Final = "/network/neck/"
MAX_FLOAT_SHARE: Final = 0.25  # of the weights: 44% of the float file's size; beyond, it is hardly an int8 model


class Quantizer:
    """A float model and the ranges of its activations, ready to be quantized."""

    def __init__(self, float_path: Path, calibration: Sequence[Images]) -> None:
        """Calibrate the model in ``float_path``; its batch norms are folded and its constants are initializers then."""
        self._rounded: dict[str, npt.NDArray[np.int8]] = {}
        with TemporaryDirectory(prefix="catdog-") as folder, _silence_onnxruntime():
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(float_path, prepared, skip_symbolic_shape=True)
            self._model = onnx.load(prepared)
            calibrator = create_calibrator(
                prepared, OPERATORS, str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax
            )
            calibrator.collect_data(_CalibrationReader(calibration))
            self._ranges = calibrator.compute_data()
        self._rounded = self._round(measure_second_moments(self._model, calibration[:MOMENT_BATCHES]))

    @property
    def layers(self) -> dict[str, int]:
        """The names of the layers that run in int8, from input to output, with how many weights each has."""
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in self._model.graph.initializer}
        return {node.name: sizes[node.input[1]] for node in self._model.graph.node if node.op_type == "Conv"}

    def quantize(self, in_float: Collection[str] = ()) -> onnx.ModelProto:
        """Return the int8 model, with the layers of these names left in float."""
        # The two steps of onnxruntime.quantization.quantize_static, which would calibrate again at each call.
        with _silence_onnxruntime():
            quantizer = QDQQuantizer(
                copy.deepcopy(self._model),
                True,  # per channel
                True,  # reduce_range
                QuantType.QInt8,  # weights
                QuantType.QUInt8,  # activations
                self._ranges,
                [],
                [*in_float, *_find_head(self._model.graph)],
                list(OPERATORS),
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        quantized: onnx.ModelProto = quantizer.model.model
        _guard_float_layers(quantized.graph, in_float)
        _fold_normalisation(quantized.graph)
        for tensor in quantized.graph.initializer:
            if tensor.name in self._rounded:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self._rounded[tensor.name], tensor.name))
        return quantized

    def _round(self, moments: Mapping[str, Floats]) -> dict[str, npt.NDArray[np.int8]]:
        """Return better rounded weights, by name, for the scales that the quantizer chose."""
        scales = {tensor.name: tensor for tensor in self.quantize().graph.initializer}
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        array = onnx.numpy_helper.to_array
        return {
            f"{name}_quantized": round_weights(array(weights[name]), array(scales[f"{name}_scale"]), moment, LARGEST)
            for name, moment in moments.items()
        }


def _find_head(graph: onnx.GraphProto) -> list[str]:
    """Return the names of what stays in float because it is no part of the body.

    Of a classifier, those are the sums that a linear layer adds its bias with; of a detector, what stands between the
    convolutions of its heads, and the sums that make boxes.
    """
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul"}
    return [
        node.name
        for node in graph.node
        if (node.op_type == "Add" and (products & set(node.input) or node.name.count("/") == 1))
        or (node.op_type in ("Add", "Relu") and node.name.startswith(DETECTOR_HEADS))
    ]


class _CalibrationReader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, batches: Iterable[Images]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Images] | None:
        images = next(self._batches, None)
        return None if images is None else {INPUT_NAME: images}


def _guard_float_layers(graph: onnx.GraphProto, in_float: Collection[str]) -> None:
    """Put an operation that changes nothing before each float layer.

    ONNX Runtime quantizes a float layer between int8 ones while it loads a model, 8 bits for the whole tensor, which is
    worse than what was to be avoided (core/optimizer/qdq_transformer/weight_bias_quantization.cc: a Conv or Gemm whose
    input comes from a DequantizeLinear and whose output goes to a QuantizeLinear). The maximum of one tensor is that
    tensor; no optimiser of 1.20 to 1.31 removes it.
    """
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.name in in_float:
            guarded = f"{node.name}/guarded"
            graph.node.append(onnx.helper.make_node("Max", [node.input[0]], [guarded], guarded))
            node.input[0] = guarded
        graph.node.append(node)


def _fold_normalisation(graph: onnx.GraphProto) -> None:
    """Make one operation of Cast, Sub and Div: a pixel is a quantized number, with the mean as its zero point.

    (pixel - mean) / std is what DequantizeLinear computes, by colour, where the means are whole 8-bit levels; with
    other means the three stay. They took an eighth of the int8 model's time.
    """
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    chain = [next((node for node in nodes if node.op_type == kind), None) for kind in ("Cast", "Sub", "Div")]
    cast, sub, div = chain
    if cast is None or sub is None or div is None or [sub.input[0], div.input[0]] != [cast.output[0], sub.output[0]]:
        return
    means, stds = constants[sub.input[1]].ravel(), constants[div.input[1]].ravel()
    levels = np.rint(means)
    if np.abs(means - levels).max() > WHOLE or levels.min() < 0 or levels.max() > 255:
        return
    scale, zero_point = f"{div.output[0]}_by_pixel_scale", f"{div.output[0]}_by_pixel_zero_point"
    graph.initializer.extend(
        [
            onnx.numpy_helper.from_array((1 / stds).astype(np.float32), scale),
            onnx.numpy_helper.from_array(levels.astype(np.uint8), zero_point),
        ]
    )
    folded = onnx.helper.make_node(
        "DequantizeLinear", [cast.input[0], scale, zero_point], [div.output[0]], "by_pixel", axis=1
    )
    used = [node for node in nodes if node not in (cast, sub, div)]
    del graph.node[:]
    at = next(i for i, node in enumerate(used) if div.output[0] in node.input)
    graph.node.extend([*used[:at], folded, *used[at:]])
    left = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in left]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@contextmanager
def _silence_onnxruntime() -> Iterator[Any]:
    """Hide the advice that onnxruntime.quantization gives through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def choose_float_layers(
    quantizer: Quantizer,
    reference: Engine,
    calibration: Labelled,
    validation: Labelled,
    accuracy_loss: float,
    path: Path,
    say: Callable[[str], None],
) -> tuple[onnx.ModelProto, list[str]]:
    """Return the int8 model, which is also written to ``path``, and the names of its float layers.

    ``reference``: the float model. ``accuracy_loss``: percentage points that may be lost on ``validation``. Raises
    ExportError when that can't be reached with ``MAX_FLOAT_SHARE`` of the weights in float.
    """

    def attempt(in_float: Sequence[str]) -> tuple[onnx.ModelProto, Engine]:
        model = quantizer.quantize(in_float)
        write_onnx(model, reference.model.contract, path)
        return model, Engine.of_file("int8", path)

    needed = measure_accuracy(reference.answer(validation.paths), validation.labels) - accuracy_loss
    in_float: list[str] = []
    ranking: list[str] = []
    while True:
        model, engine = attempt(in_float)
        reached = measure_accuracy(engine.answer(validation.paths), validation.labels)
        say(f"{len(in_float)} layers in float: {reached:.2f}% of validation photos right, {needed:.2f}% needed")
        if reached >= needed:
            return model, in_float
        if not ranking:
            say("measuring what the quantization of each layer costs")
            photos = calibration.paths[:RANKING_PHOTOS]
            truth = reference.answer(photos)
            left = {name: measure_distance(attempt([name])[1].answer(photos), truth) for name in quantizer.layers}
            ranking = keep_affordable(sorted(left, key=left.__getitem__), quantizer.layers)
        if in_float == ranking:
            raise ExportError(
                f"int8: {reached:.2f}% of validation photos right with {len(in_float)} layers in float, "
                f"{needed:.2f}% needed; no file was written"
            )
        in_float = ranking[: max(1, 2 * len(in_float))]


def measure_distance(answers: Probabilities, truth: Probabilities) -> float:
    """Return the root mean square difference of log probabilities, which don't flatten near 0 and 1."""
    tiny = 1e-6
    return float(np.sqrt(np.square(np.log(answers + tiny) - np.log(truth + tiny)).mean()))


def keep_affordable(names: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    """Return those of ``names``, in order, that together stay within the share of weights that may be in float."""
    left = MAX_FLOAT_SHARE * sum(sizes.values())
    chosen = []
    for name in names:
        if sizes[name] <= left:
            chosen.append(name)
            left -= sizes[name]
    return chosen
