"""Write an ImageModel as one ONNX file, cleaned, checked, and with its contract inside.

    image uint8 (N, H, W, 3) -> [normalise -> network -> evidence -> softmax(its mean / temperature)]
                             -> probabilities float32 (N, C), evidence float32 (N, C, h, w)
                                or, of a detector, boxes float32 (N, K, 4), scores float32 (N, K, C)

The older exporter (``dynamo=False``) is used on purpose; docs/decisions.md says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from torch import Tensor
from torchvision.models import ResNet

import catdog
from catdog.classifier import EVIDENCE_NAME, OUTPUT_NAME
from catdog.contract import METADATA_KEY, Contract
from catdog.detection.detector import BOXES_NAME, SCORES_NAME
from catdog.errors import ExportError
from catdog.onnx_model import INPUT_NAME
from catdog.text import first_line
from catdog.training.detector import DetectionModel
from catdog.training.model import ImageModel

OPSET: Final = 17  # of ONNX; per-channel QDQ needs 13
SIDES: Final[dict[str, dict[int, str]]] = {INPUT_NAME: {1: "H", 2: "W"}, EVIDENCE_NAME: {2: "h", 3: "w"}}
"""Names of the sides of a classifier's input and evidence, by axis: with another number of px it answers a smaller
picture. Consumers still give it the contract's. A detector's places are those of one size."""
IR_VERSION: Final = 8  # that of opset 17; ONNX Runtime 1.20 opens up to 10


class _Explaining(torch.nn.Module):
    """What a ResNet's file computes: the places of a photo say what they say, and their mean is the answer."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        evidence = self.model.evidence(images)
        return torch.softmax(evidence.mean((2, 3)) / self.model.temperature, dim=1), evidence


def to_onnx(model: ImageModel) -> onnx.ModelProto:
    """Return ``model``, in eval mode on the CPU, as a float32 ONNX model. The same weights give the same bytes.

    A ResNet's has the output ``evidence`` as well; the small CNN doesn't end in a linear layer, so it has none. A
    detector's outputs are boxes and scores.
    """
    sides = SIDES
    if isinstance(model, DetectionModel):
        outputs, sides = [BOXES_NAME, SCORES_NAME], {}
    else:
        outputs = [OUTPUT_NAME, EVIDENCE_NAME] if isinstance(model.network, ResNet) else [OUTPUT_NAME]
    size = model.contract.input_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with TemporaryDirectory(prefix="catdog-") as folder, warnings.catch_warnings():
        # The exporter warns that it is the older one, and torch that it calls parts of itself that are deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            _Explaining(model).eval() if EVIDENCE_NAME in outputs else model,
            (example,),
            str(path),
            input_names=[INPUT_NAME],
            output_names=outputs,
            dynamic_axes={name: {0: "N"} | sides.get(name, {}) for name in (INPUT_NAME, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
        exported = onnx.load(path)
    if isinstance(model, DetectionModel):
        # Which the exporter can't see behind the pyramid's enlargements.
        for output, last in zip(exported.graph.output, (4, len(model.contract.class_names)), strict=True):
            _, places, values = output.type.tensor_type.shape.dim
            places.dim_value, values.dim_value = len(model.places), last
    return exported


def write_onnx(model: onnx.ModelProto, contract: Contract, path: Path) -> None:
    """Clean ``model``, put ``contract`` into it, and write it to ``path`` as one file.

    Raises ExportError when ``onnx.checker`` refuses it.
    """
    finished = onnx.ModelProto()
    finished.CopyFrom(model)
    for part in _list_parts(finished):
        # Exporters and quantizers note where things came from, with the paths of this machine.
        for leftover in ("doc_string", "metadata_props"):
            part.ClearField(leftover)
    used = {node.domain for node in finished.graph.node}
    domains = [opset for opset in finished.opset_import if opset.domain in used]
    del finished.opset_import[:]
    finished.opset_import.extend(domains)  # ONNX Runtime's optimiser names all that it knows
    finished.ir_version = IR_VERSION
    finished.producer_name = "catdog"
    finished.producer_version = catdog.__version__
    onnx.helper.set_model_props(finished, {METADATA_KEY: contract.to_json()})
    try:
        onnx.checker.check_model(finished, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the model: {first_line(error)}") from error
    path.write_bytes(finished.SerializeToString(deterministic=True))


def _list_parts(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield the model and all in it that can carry notes."""
    graph = model.graph
    yield from (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info)
