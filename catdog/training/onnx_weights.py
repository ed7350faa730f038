"""Weights out of an ONNX file that catdog exported, float or int8: training can go on from a model without its run.

An export folds each batch norm into the convolution before it. Here it comes back as a batch norm that only adds the
bias, and ``refit_batch_norms`` then gives it the statistics of real photos, without which it could not learn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from catdog.errors import ModelError
from catdog.text import first_line
from catdog.training.model import ImageModel

PHOTOS: Final = 256  # whose statistics a batch norm gets; more change them by less than a batch of training does
_EPSILON: Final = 1e-5  # of torchvision's batch norms

Floats = npt.NDArray[np.float32]


def read_onnx_weights(file: str | Path) -> dict[str, Tensor]:
    """Return the network's tensors under torchvision's names; raises ModelError for any other ONNX file."""
    import onnx  # of the extra ``export``; training from other weights needs none

    try:
        graph = onnx.load(str(file), load_external_data=False).graph
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
            raise ModelError("its weights are in other files")  # on this machine, wherever a stranger's file says
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
                arrays[node.output[0]] = _dequantize(*(arrays[name] for name in node.input))
        # What was neither folded nor transposed has kept its name: the linear layers of the cnn, a ResNet's bias.
        state = {name.split("network.")[1]: torch.tensor(a) for name, a in arrays.items() if "network." in name}
        for node in graph.node:
            if node.op_type == "Conv":
                weight, bias = (torch.tensor(arrays[name]) for name in node.input[1:3])
                state |= _unfold(_find_module(node.name), weight, bias)
            elif node.op_type == "MatMul":
                state["fc.weight"] = torch.tensor(arrays[node.input[1]].T.copy())
    except FileNotFoundError as error:
        raise ModelError(f"{file}: no such file") from error
    except Exception as error:  # a stranger's file can go wrong in protobuf, numpy and torch
        raise ModelError(f"{file}: not an ONNX file that catdog exported ({first_line(error)})") from error
    return state


def refit_batch_norms(model: ImageModel, images: Tensor) -> None:
    """Give every batch norm the mean and variance of what reaches it, and leave what the network computes as it is.

    ``images``: uint8 (N, H, W, 3), real photos. In eval mode the network answers as before, but for rounding.
    """

    def refit(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - scale * norm.running_mean
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + scale * mean)

    hooks = [m.register_forward_pre_hook(refit) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model.eval().logits(images.permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()


def _dequantize(values: npt.NDArray[np.integer], scale: Floats, zero: npt.NDArray[np.integer]) -> Floats:
    shape = (-1, *[1] * (values.ndim - 1)) if scale.ndim else ()  # a scale for each output channel, or one for all
    return ((values.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)).astype("f4")


def _find_module(node_name: str) -> str:
    """Return the module that made a node: /layer1/layer1.0/conv1/Conv -> layer1.0.conv1."""
    parts: list[str] = []
    for part in node_name.removeprefix("/network").split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _unfold(convolution: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return a convolution and the batch norm behind it, which adds the bias."""
    if (named := re.sub(r"conv(\d)$", r"bn\1", convolution)) == convolution:  # in a Sequential it has the next number
        named = re.sub(r"(\d+)$", lambda number: str(int(number[1]) + 1), convolution)
    one = torch.ones(len(bias))
    norm = {"weight": one, "bias": bias, "running_mean": 0 * one, "running_var": one - _EPSILON}
    return {f"{convolution}.weight": weight, **{f"{named}.{name}": tensor for name, tensor in norm.items()}}
