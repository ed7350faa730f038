"""Starting weights: torchvision's, a file (also a partial one, also ONNX), the mean of several files, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from catdog.errors import ModelError
from catdog.onnx_model import EMBEDDED, find_embedded
from catdog.training.model import new_network, read_weights
from catdog.training.onnx_weights import read_onnx_weights
from catdog.training.settings import ARCHS, split_names


@dataclass(frozen=True)
class LoadedWeights:
    """Which tensors of the network's state dict were filled, and which not."""

    filled: tuple[str, ...]
    fresh: tuple[str, ...]
    """They start from scratch: the head, and whatever a partial file lacks."""
    folded: bool = False
    """Whether they come from an ONNX file, so that ``refit_batch_norms`` must follow."""

    def describe(self) -> str:
        """Return two lines for the log."""
        return (
            f"weights: filled {len(self.filled)} tensors: {_fold_names(self.filled) or 'none'}\n"
            f"weights: {len(self.fresh)} tensors start from scratch: {_fold_names(self.fresh)}"
        )


def load_weights(network: nn.Module, arch: str, weights: str) -> LoadedWeights:
    """Fill ``network`` from ``weights``: "none", "imagenet" (downloaded by torchvision), "embedded" (the model inside
    catdog), or a file: safetensors, or ONNX that catdog exported.

    Several files, separated by commas, are averaged: networks fine-tuned from the same weights lie so near to one
    another that their mean is often better than each (Wortsman et al. 2022, "Model soups").

    The head is never filled when its shape differs (1,000 ImageNet classes). Residual blocks that start from scratch
    start as the identity (last batch norm's weight 0; Goyal et al. 2017, section 5.1), which keeps the pretrained
    function around them. Raises ModelError when the file can't be read or is of another architecture.
    """
    if arch == "cnn" and weights == "imagenet":
        raise ModelError("--weights imagenet: the cnn has none; give --weights none, or a file of its own")
    own, folded = network.state_dict(), False
    if weights in ("none", "imagenet"):
        state = {} if weights == "none" else _download_imagenet(arch)
    else:
        parts = split_names("weights", weights)
        folded = any(map(_is_onnx, parts))
        state = _average([_read_file(file, arch, own.keys()) for file in parts], weights)
    usable = {k: v.to(own[k].dtype) for k, v in state.items() if k in own and v.shape == own[k].shape}
    network.load_state_dict(usable, strict=False)
    counted = [k for k in own if not k.endswith("num_batches_tracked")]  # a counter that nothing here reads
    filled = tuple(k for k in counted if k in usable)
    fresh = tuple(k for k in counted if k not in usable)
    if filled:
        _start_as_identity(network, set(fresh))
    return LoadedWeights(filled, fresh, folded)


def _is_onnx(file: str) -> bool:
    return file == EMBEDDED or Path(file).suffix == ".onnx"


def _read_file(file: str, arch: str, own: Collection[str]) -> dict[str, Tensor]:
    """Read a weight file; raises ModelError unless ``arch`` is the smallest architecture that has all its tensors.

    A file with exactly the tensors ``own``, those of the whole network, is taken as well: a detector's, say.
    """
    path = find_embedded() if file == EMBEDDED else Path(file)
    state = read_onnx_weights(path) if _is_onnx(file) else read_weights(path)
    if state.keys() == set(own):
        return state
    body = {name: tensor.shape for name, tensor in state.items() if not name.startswith("fc.")}
    with torch.device("meta"):  # shapes only, no memory
        shapes = {a: {k: v.shape for k, v in new_network(a, 1).state_dict().items()} for a in ARCHS}
    found = next((a for a in ARCHS if body and body.items() <= shapes[a].items()), None)
    if found == arch:
        return state
    if found is not None:
        raise ModelError(f"{file}: these are weights of {found}, not of {arch}; use --arch {found}")
    foreign = next((name for name in state if name not in shapes[arch]), None)
    what = f"tensor {foreign!r} is unknown" if foreign else "tensors have other shapes"
    raise ModelError(
        f"{file}: not weights of {arch} or of any architecture here ({what}); {Path(file).name} "
        "must use torchvision's names"
    )


def _average(states: list[dict[str, Tensor]], files: str) -> dict[str, Tensor]:
    """Average the files tensor by tensor; raises ModelError when they have different ones."""
    first, *others = states
    if not others:
        return first
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ModelError(f"--weights {files}: only files with the same tensors can be averaged")
    return {k: torch.stack([s[k].double() for s in states]).mean(0).to(first[k].dtype) for k in first}


def _download_imagenet(arch: str) -> dict[str, Tensor]:
    try:
        weights = get_model_weights(arch)["IMAGENET1K_V1"]
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; RuntimeError is a wrong hash
        raise ModelError(
            f"--weights imagenet: torchvision could not download the weights of {arch} ({error}); "
            "give a safetensors file with --weights FILE, or start from scratch with --weights none"
        ) from error


def _start_as_identity(network: nn.Module, fresh: set[str]) -> None:
    for name, block in network.named_modules():
        if isinstance(block, (BasicBlock, Bottleneck)) and f"{name}.conv1.weight" in fresh:
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            torch.nn.init.zeros_(last.weight)


def _fold_names(names: tuple[str, ...]) -> str:
    """Return tensor names folded to modules: layer4.1 (10), fc (2)."""
    parts = (name.split(".") for name in names)
    counts = Counter(".".join(part[:2]) if part[0].startswith("layer") else part[0] for part in parts)
    return ", ".join(f"{module} ({count})" for module, count in counts.items())
