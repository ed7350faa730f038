"""The network: a torchvision ResNet with a new head or a small CNN, and the served form around it.

    images uint8 (N, H, W, 3) -> [normalise -> network -> softmax(logits / temperature)] -> probabilities (N, C)

All in brackets is ``ImageModel``: training, evaluation and export use the same module, so that nothing outside it
ever scales a pixel. Checkpoints hold torchvision's own tensor names in safetensors, with ``contract.json`` beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import ResNet, get_model

from catdog.contract import Contract
from catdog.errors import ModelError
from catdog.files import replace_file
from catdog.training.cnn import SmallCNN
from catdog.training.settings import ARCHS

WEIGHTS_NAME: Final = "model.safetensors"
CONTRACT_NAME: Final = "contract.json"


class Head(nn.Linear):
    """Dropout and a linear layer under torchvision's own names, ``fc.weight`` and ``fc.bias``."""

    def __init__(self, in_features: int, class_count: int, dropout: float) -> None:
        super().__init__(in_features, class_count)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """float (N, in_features) -> logits (N, class_count)."""
        return super().forward(F.dropout(features, self.dropout, self.training))


class ImageModel(nn.Module):
    """A network with what a consumer must not repeat: normalisation, temperature and softmax."""

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(contract.mean).mul(255).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).mul(255).view(shape), persistent=False)
        self.register_buffer("temperature", torch.tensor(float(contract.temperature)), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (or float in [0, 255]) (N, 3, H, W) -> what the network takes, of the same shape."""
        return (images.to(self.mean.dtype, memory_format=torch.channels_last) - self.mean) / self.std

    def logits(self, images: Tensor) -> Tensor:
        """uint8 (or float in [0, 255]) (N, 3, H, W) -> logits float (N, C)."""
        return self.network(self.normalise(images))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> probabilities float32 (N, C)."""
        return torch.softmax(self.logits(images.permute(0, 3, 1, 2)).float() / self.temperature, dim=1)


def new_network(arch: str, class_count: int, dropout: float = 0.0) -> Any:  # torchvision has no types
    """A randomly initialised ResNet or SmallCNN with a fresh head; raises ModelError for an unknown ``arch``."""
    if arch not in ARCHS:
        raise ModelError(f"unknown architecture {arch!r}; choose one of {', '.join(ARCHS)}")
    if arch == "cnn":
        network: Any = SmallCNN(class_count, dropout)
    else:
        network = get_model(arch, weights=None)
        network.fc = Head(network.fc.in_features, class_count, dropout)
    return network.to(memory_format=torch.channels_last)


def split(network: ResNet, learning: Collection[str]) -> tuple[nn.Sequential, nn.Sequential]:
    """The network in two, sharing its tensors: all from the input up to where something learns, and the rest.

    ``learning``: names of parameters. Both parts in a row, from normalised (N, 3, H, W) on, give the network's logits.
    """
    parts: list[tuple[tuple[str, ...], nn.Module]] = [
        (("conv1", "bn1"), nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool))
    ]
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        parts += [((f"{stage}.{i}",), block) for i, block in enumerate(getattr(network, stage))]
    parts += [((), nn.Sequential(network.avgpool, nn.Flatten(1))), (("fc",), network.fc)]
    learns = [any(name.startswith(f"{prefix}.") for name in learning for prefix in names) for names, _ in parts]
    first = learns.index(True) if True in learns else len(parts)
    modules = [module for _, module in parts]
    return nn.Sequential(*modules[:first]), nn.Sequential(*modules[first:])


def stage_of(tensor_name: str) -> str:
    """The stage that a tensor of a ResNet's state dict belongs to."""
    first = tensor_name.split(".", 1)[0]
    return {"conv1": "stem", "bn1": "stem", "fc": "head"}.get(first, first)


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and values of the tensors, independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(folder: Path, network: nn.Module, contract: Contract) -> Contract:
    """Write ``model.safetensors`` and ``contract.json``; gives the contract back with the weights' fingerprint."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    contract = contract.with_(model_fingerprint=fingerprint(state))
    with replace_file(folder / WEIGHTS_NAME) as temporary:
        save_file(state, temporary, metadata={"arch": contract.arch})
    with replace_file(folder / CONTRACT_NAME) as temporary:
        temporary.write_text(contract.to_json() + "\n", encoding="utf-8")
    return contract


def load_checkpoint(path: str | Path) -> tuple[ImageModel, Contract]:
    """A run folder or its ``model.safetensors`` -> the model in eval mode, and its contract.

    Raises ModelError (not readable, other architecture) or ContractError.
    """
    weights = Path(path) / WEIGHTS_NAME if Path(path).is_dir() else Path(path)
    state = read_weights(weights)
    contract = Contract.read(weights.with_name(CONTRACT_NAME))
    network = new_network(contract.arch, len(contract.class_names))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{weights}: not the {contract.arch} that {CONTRACT_NAME} beside it describes") from error
    if contract.model_fingerprint != fingerprint(state):
        raise ModelError(f"{weights}: the weights are not those that {CONTRACT_NAME} was written for")
    return ImageModel(network, contract).eval(), contract


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; pickles (.pt, .pth) are refused, since opening one runs its code."""
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        raise ModelError(
            f"{path}: pickled weights are not opened; convert them once where you trust them: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')"
        )
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
