"""Float ONNX model -> int8 QDQ model: calibrated once, then quantized as often as the choice of float layers asks.

Weights are int8 per output channel, activations uint8, from the first convolution's input to the head's output;
normalisation, temperature and softmax stay in float. Measured on a ResNet-18 fine-tuned on cats and dogs, 192 px,
calibrated on 512 photos, differences of the log-odds against float on 1,906 others (onnxruntime 1.31, 2 cores):

    weights  activations  ranges                 rms    largest |Δp|
    8 bits   uint8        MinMax                 0.053  0.075
    8 bits   uint8        moving average         0.077  0.040
    7 bits   uint8        MinMax                 0.091  0.098    the one used
    7 bits   uint8        moving average         0.101  0.080
    7 bits   uint8        percentile 99.999      0.080  0.080

- Weights have 7 bits (``reduce_range``). Before VNNI (AMD up to Zen 3, Intel up to Skylake, so much of AWS), a CPU adds
  pairs of uint8 x int8 products in 16 bits and saturates. Under an emulated Haswell, the 8-bit file's answers moved by
  0.2 in log-odds and up to 0.085 in probability; the 7-bit file's were equal to the bit. A file that was proven on one
  machine has to hold on the others.
- Activations are uint8: with int8 ones ONNX Runtime was more than ten times slower on x86.
- The range is the plain minimum and maximum. Percentiles gain little, and need histograms of every activation.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
    quant_pre_process,
)

from catdog.classifier import INPUT_NAME
from export.photos import Images

OPERATORS: Final = ("Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm")
"""Run in int8. Residual sums and pools are among them, so that no activation returns to float on its way."""
WEIGHTED: Final = ("Conv", "Gemm")


class Quantizer:
    """A float model with the ranges of its activations, ready to be quantized."""

    def __init__(self, float_path: Path, calibration: Iterable[Images]) -> None:
        """Calibrate the model in ``float_path``; its batch norms are folded and its constants are initializers then."""
        with TemporaryDirectory(prefix="catdog-") as folder, _quiet():
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(float_path, prepared, skip_symbolic_shape=True)
            self._model = onnx.load(prepared)
            calibrator = create_calibrator(
                prepared, OPERATORS, str(Path(folder) / "augmented.onnx"), CalibrationMethod.MinMax
            )
            calibrator.collect_data(_Reader(calibration))
            self._ranges = calibrator.compute_data()

    @property
    def layers(self) -> dict[str, int]:
        """Names of all layers with weights, input to output, with their count of weights."""
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in self._model.graph.initializer}
        return {node.name: sizes[node.input[1]] for node in self._model.graph.node if node.op_type in WEIGHTED}

    def quantize(self, in_float: Collection[str] = ()) -> onnx.ModelProto:
        """The int8 model, with the layers of these names left in float."""
        # The two steps of onnxruntime.quantization.quantize_static, which would calibrate again at each call.
        with _quiet():
            quantizer = QDQQuantizer(
                copy.deepcopy(self._model),
                True,  # per channel
                True,  # reduce_range
                QuantType.QInt8,  # weights
                QuantType.QUInt8,  # activations
                self._ranges,
                [],
                list(in_float),
                list(OPERATORS),
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        quantized: onnx.ModelProto = quantizer.model.model
        _guard(quantized.graph, in_float)
        return quantized


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, batches: Iterable[Images]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Images] | None:
        images = next(self._batches, None)
        return None if images is None else {INPUT_NAME: images}


def _guard(graph: onnx.GraphProto, in_float: Collection[str]) -> None:
    """Put an operation that changes nothing before each of these layers.

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


@contextmanager
def _quiet() -> Iterator[Any]:
    """onnxruntime.quantization gives advice through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
