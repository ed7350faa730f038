"""The network: a torchvision ResNet with a new head or a small CNN, and the served form around it.

    images uint8 (N, H, W, 3) -> [normalise -> network -> softmax(logits / temperature)] -> probabilities (N, C)

All in brackets is ``ImageModel``, which training, evaluation and export share, so that nothing outside it scales a
pixel. Checkpoints hold torchvision's own tensor names in safetensors, with ``contract.json`` beside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchvision.models import ResNet, get_model

from catdog.ahead import batches_ahead
from catdog.classifier import Classifier
from catdog.contract import CONTRACT_NAME, WEIGHTS_NAME, Contract
from catdog.errors import ModelError
from catdog.files import replace_file, write_text
from catdog.image import load_pixels
from catdog.onnx_model import BATCH_SIZE
from catdog.training.settings import ARCHS, STAGES

CNN_CHANNELS: Final = (32, 64, 128, 256)
CNN_HIDDEN: Final = 128  # units between the features and the logits
Images = npt.NDArray[np.uint8]
"""uint8 (N, H, W, 3), RGB."""
Probabilities = npt.NDArray[np.float32]
"""float32 (N, C), rows summing to 1."""


class ResNetHead(nn.Linear):
    """Dropout and a linear layer under torchvision's own names, ``fc.weight`` and ``fc.bias``."""

    def __init__(self, in_features: int, class_count: int, dropout: float) -> None:
        super().__init__(in_features, class_count)
        self.dropout = dropout

    def forward(self, features: Tensor) -> Tensor:
        """Turn features float (N, in_features) into logits (N, class_count)."""
        return super().forward(F.dropout(features, self.dropout, self.training))


class SmallCNN(nn.Module):
    """The classic network from scratch: convolutions, max-pooling, dropout, fully connected layers.

    It has 0.43 million parameters, ResNet-18 has 11.2. Its stages carry the names of a ResNet's, so that everything
    that freezes, schedules or names a stage works on both.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, class_count: int, dropout: float) -> None:
        super().__init__()
        first, *_, last = CNN_CHANNELS
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        for i, (before, after) in enumerate(zip((first, *CNN_CHANNELS), CNN_CHANNELS, strict=False), start=1):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            stage = nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
            setattr(self, f"layer{i}", stage)
        self.fc = nn.Sequential(
            nn.Linear(last, CNN_HIDDEN), nn.ReLU(), nn.Dropout(dropout), nn.Linear(CNN_HIDDEN, class_count)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Turn float (N, 3, H, W), sides of 32 px or more, into logits (N, class_count)."""
        features = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


class ImageModel(nn.Module):
    """A network with what a consumer must not repeat: normalisation, temperature and softmax."""

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(contract.mean).mul(255).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).mul(255).view(shape), persistent=False)
        self.register_buffer("temperature", torch.tensor(float(contract.temperature)), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 (or float in [0, 255]) (N, 3, H, W) into what the network takes, of the same shape."""
        return (images.to(self.mean.dtype, memory_format=torch.channels_last) - self.mean) / self.std

    def logits(self, images: Tensor) -> Tensor:
        """Turn uint8 (or float in [0, 255]) (N, 3, H, W) into logits float (N, C)."""
        return self.network(self.normalise(images))

    def evidence(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, H, W, 3) into what each place of a photo says for each class, float32 (N, C, h, w).

        The mean over all places is the logits: class activation maps are exact for a network that ends in pooling and a
        linear layer, as a ResNet does (Zhou et al. 2016).
        """
        network = self.network
        assert isinstance(network, ResNet)
        pixels = self.normalise(images.permute(0, 3, 1, 2))
        features = network.maxpool(network.relu(network.bn1(network.conv1(pixels))))
        features = network.layer4(network.layer3(network.layer2(network.layer1(features))))
        places = features.permute(0, 2, 3, 1) @ network.fc.weight.T + network.fc.bias
        return places.permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, H, W, 3) into probabilities float32 (N, C)."""
        return torch.softmax(self.logits(images.permute(0, 3, 1, 2)).float() / self.temperature, dim=1)

    def probabilities(self, images: Images) -> Probabilities:
        """Do the same from array to array, as ``Classifier.probabilities`` does, on the device of the model."""
        with torch.inference_mode():
            answers = self(torch.tensor(images, device=self.mean.device))  # a copy: photos may be read-only arrays
            return np.asarray(answers.cpu().numpy())


def new_network(arch: str, class_count: int, dropout: float = 0.0) -> Any:  # torchvision has no types
    """Return a randomly initialised ResNet or SmallCNN; raises ModelError for an unknown ``arch``."""
    if arch not in ARCHS:
        raise ModelError(f"unknown architecture {arch!r}; choose one of {', '.join(ARCHS)}")
    if arch == "cnn":
        network: Any = SmallCNN(class_count, dropout)
    else:
        network = get_model(arch, weights=None)
        network.fc = ResNetHead(network.fc.in_features, class_count, dropout)
    return network.to(memory_format=torch.channels_last)


def new_model(contract: Contract, dropout: float = 0.0) -> ImageModel:
    """Return a randomly initialised network of the contract's architecture and task, in its served form."""
    network = new_network(contract.arch, len(contract.class_names), dropout)
    if contract.task == "classify":
        return ImageModel(network, contract)
    from catdog.training.detector import DetectionModel, Detector  # which build on this module

    return DetectionModel(Detector(network, len(contract.class_names)), contract)


def split_network(network: ResNet, learning: Collection[str]) -> tuple[nn.Sequential, nn.Sequential]:
    """Split the network in two that share its tensors: the part before the first layer that learns, and the rest.

    ``learning``: names of parameters. One after the other, the two turn normalised (N, 3, H, W) into logits.
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


def find_stage(tensor_name: str) -> str:
    """Return the stage that a tensor of a ResNet's or a detector's state dict belongs to."""
    first = tensor_name.split(".", 1)[0]
    return {"conv1": "stem", "bn1": "stem"}.get(first, first if first in STAGES else "head")


def fingerprint_weights(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, shapes, dtypes and values, whatever their file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(folder: Path, network: nn.Module, contract: Contract) -> Contract:
    """Write ``model.safetensors`` and ``contract.json``; return the contract with the weights' fingerprint in it."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    contract = contract.with_(model_fingerprint=fingerprint_weights(state))
    with replace_file(folder / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(save(state, metadata={"arch": contract.arch}))
    write_text(folder / CONTRACT_NAME, contract.to_json() + "\n")
    return contract


def load_checkpoint(path: str | Path) -> ImageModel:
    """Return the model, in eval mode, of a run folder or of its ``model.safetensors``.

    Raises ModelError (not readable, other architecture) or ContractError.
    """
    weights = Path(path) / WEIGHTS_NAME if Path(path).is_dir() else Path(path)
    state = read_weights(weights)
    contract = Contract.read(weights.with_name(CONTRACT_NAME))
    model = new_model(contract)
    try:
        model.network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{weights}: not the {contract.arch} that {CONTRACT_NAME} beside it describes") from error
    if contract.model_fingerprint != fingerprint_weights(state):
        raise ModelError(f"{weights}: the weights are not those that {CONTRACT_NAME} was written for")
    return model.eval()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file; pickles (.pt, .pth) are refused, since opening one runs its code."""
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


Model = Classifier | ImageModel
"""What answers images of its contract's size."""


def load_batches(photos: Sequence[Path | bytes], contract: Contract, size: int = BATCH_SIZE) -> Iterator[Images]:
    """Yield the photos' pixels in order, ``size`` at a time, decoded one batch ahead; raises ImageError."""
    for batch in batches_ahead(lambda photo: load_pixels(photo, contract), photos, size):
        yield np.stack(batch)


def answer_photos(
    model: Model, photos: Sequence[Path | bytes], progress: Callable[[int, int], None] | None = None
) -> Probabilities:
    """Return the model's answers in the order of the photos; raises ImageError for a photo that can't be read."""
    answers, done = [], 0
    for images in load_batches(photos, model.contract):
        answers.append(model.probabilities(images))
        done += len(images)
        if progress:
            progress(done, len(photos))
    return np.concatenate(answers)


class TorchClassifier(Classifier):
    """A Classifier that answers with the float weights beside its ONNX file, on a GPU; all else is as in Classifier."""

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        """``folder``: with model.onnx, model.safetensors and contract.json. ``threads``: of torch's work on the CPU.

        Raises ModelError or ContractError, also where the weights are not those that the contract was written for.
        """
        super().__init__(folder / "model.onnx", threads)
        torch.set_num_threads(threads)
        self._arguments = (folder, device, threads)
        self._model = load_checkpoint(folder).to(device)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def probabilities(self, images: Images) -> Probabilities:
        """Answer uint8 (N, H, W, 3) of the contract's size with float32 (N, C), each row summing to 1."""
        return self._model.probabilities(images)
