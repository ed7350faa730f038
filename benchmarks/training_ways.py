"""The ways to train that ``benchmarks/training.py`` compares: catdog's, plain PyTorch loops, fastai's and timm's.

All start from the same weights, train the same tensors of the same ResNet-18 with SGD (Nesterov 0.9) in float32, on
the same photos. Each is built in a process of its own, and knows two things: its batches, and its training.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

from catdog.contract import IMAGENET_MEAN, IMAGENET_STD
from catdog.dataset import Manifest
from catdog.training.augment import ASPECT, BLUR_PX, ERASED, GREY, JPEG_QUALITY, augment
from catdog.training.data import Batch, Prepared, order_epochs, prepare, read_batches, set_seed
from catdog.training.learner import Learner
from catdog.training.loop import STEPS_BETWEEN_CHECKS, keep_freed_memory
from catdog.training.model import read_weights
from catdog.training.phases import (
    choose_learning_tensors,
    freeze_all_but,
    learning_rate_factor,
    new_optimizer,
    remaining_phases,
)
from catdog.training.processes import Shard, start_processes, sum_over_processes
from catdog.training.settings import Settings

VAL_PHOTOS: Final = 64  # only there because a run must have some
LR: Final = 1e-3  # of the alternatives; has no influence on the speed


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every way is to do."""

    data: str
    weights: str
    size: int
    """px, when serving; with ``train_size`` it gives the size at which catdog caches photos."""
    train_size: int
    """px, side of the training crops."""
    batch_size: int
    trainable_from: str
    device: str
    """cpu or gpu."""
    threads: int
    workers: int
    """Reading processes of every way but catdog's, which chooses its own number."""
    photos: int
    """How many of the training split."""
    longest: int
    """Batches that a round reads at most: an epoch is at least as long, so that no way begins a second one."""
    channels_last: bool
    """Give the alternatives catdog's memory layout as well."""
    scratch: str

    @property
    def settings(self) -> Settings:
        """The run of train.py that does this."""
        return Settings(
            data=self.data, weights=self.weights, size=self.size, train_size=self.train_size, amp=False,
            batch_size=self.batch_size, trainable_from=self.trainable_from, device=self.device,  # type: ignore[arg-type]
            frozen_epochs=0, epochs=1, cache=str(Path(self.scratch) / "cache"),
        )  # fmt: skip

    @property
    def torch_device(self) -> torch.device:
        """Its name in torch."""
        return torch.device("cuda" if self.device == "gpu" else "cpu")

    @property
    def manifest(self) -> Manifest:
        """Some photos of the dataset, drawn once and for all."""
        whole = Manifest.read(self.data)
        draw = random.Random(0)
        train, val = whole.of("train"), whole.of("val")
        chosen = draw.sample(train, min(self.photos, len(train))) + draw.sample(val, min(VAL_PHOTOS, len(val)))
        return dataclasses.replace(whole, photos=tuple(sorted(chosen, key=lambda photo: photo.path)))

    def files(self) -> tuple[list[str], list[int]]:
        """Paths and class indices of the training photos, repeated until they are an epoch that is long enough."""
        manifest = self.manifest
        photos = manifest.of("train")
        times = self.longest * self.batch_size // len(photos) + 2
        paths = [str(manifest.root / photo.path) for photo in photos]
        return paths * times, [manifest.class_names.index(photo.label) for photo in photos] * times

    def start_from(self, network: nn.Module) -> nn.Module:
        """``network``, which has torchvision's tensor names, with the weights, and only what is to learn unfrozen."""
        own = network.state_dict()
        state = {k: v for k, v in read_weights(self.weights).items() if k in own and v.shape == own[k].shape}
        network.load_state_dict(state, strict=False)
        fresh = {name for name, _ in network.named_parameters() if name not in state}
        freeze_all_but(network, choose_learning_tensors(network, fresh, self.trainable_from))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        moved: Any = network.to(self.torch_device)  # torch's types know no memory_format before 2.15
        started: nn.Module = moved.to(memory_format=layout)
        return started

    def laid_out(self, images: Tensor) -> Tensor:
        """The memory layout that the network was given."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


class Way(Protocol):
    """One way to train."""

    def batches(self) -> Iterator[object]:
        """Batches on the device, ready for the network, from new reading processes."""

    def train(self, enough: Callable[[], bool]) -> None:
        """Whole training steps, asking after each one."""


class Catdog:
    """``train.py``'s own parts: ``prepare``, ``phases``, ``Learner``, and around each step what its loop does."""

    def __init__(self, task: Task) -> None:
        self.task, self.settings = task, task.settings
        self.fabric = start_processes(self.settings)
        self.prepared: Prepared = prepare(self.fabric, self.settings, Path(task.scratch), task.manifest)
        p = self.prepared
        keep_freed_memory()
        torch.backends.cudnn.deterministic = self.settings.deterministic  # as ``fit`` does
        p.model.to(self.fabric.device)
        made = remaining_phases(self.fabric, p, self.settings, 0, Path(task.scratch))
        self.phase = next(made)
        self.learner = Learner(self.fabric, p, self.phase, self.settings)

    def raw(self) -> Iterator[Batch]:
        """uint8 photos and labels, as ``fit`` reads them."""
        order = order_epochs(len(self.phase.train), self.settings, count(), Shard())
        return iter(read_batches(self.phase.train, order, self.settings, self.fabric.device))

    def batches(self) -> Iterator[object]:
        for images, labels in self.raw():
            moved = images.to(self.fabric.device, non_blocking=True)
            yield self.phase.prepare(moved, labels.to(self.fabric.device, non_blocking=True))

    def train(self, enough: Callable[[], bool]) -> None:
        every = 1 if self.fabric.device.type == "cpu" else STEPS_BETWEEN_CHECKS
        batches = self.raw()
        for step in count():
            set_seed(self.settings.seed, 0, step, 0)
            factor = learning_rate_factor(step, 10 * self.task.longest, self.settings.warmup, self.phase.schedule)
            self.learner.step(batches, factor)
            if step % every == 0:
                assert float(self.learner.sums[0]) < float("inf")
                sum_over_processes(self.fabric, torch.zeros(2, device=self.fabric.device))
            if enough():
                return

    def step_alone(self, enough: Callable[[], bool]) -> None:
        """Forward, backward and optimizer on a batch that is on the device and augmented."""
        images, labels = (tensor.to(self.fabric.device) for tensor in next(self.raw()))
        inputs, labels = self.phase.prepare(images, labels)
        done = False
        while not done:
            loss = F.cross_entropy(self.learner.module(inputs).float(), labels)
            self.learner.optimizer.zero_grad()
            self.fabric.backward(loss)
            self.learner.optimizer.step()
            done = enough()


class SameData(Catdog):
    """A hand-written step on catdog's batches and network: what is left of the difference is the loop's."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        model = self.prepared.model
        learning = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
        self.optimizer = new_optimizer(model.network, self.prepared.fresh, learning, self.settings)

    def train(self, enough: Callable[[], bool]) -> None:
        model, device = self.prepared.model, self.fabric.device
        for images, labels in self.raw():
            inputs = augment(images.to(device, non_blocking=True), self.settings)
            targets = labels.to(device, non_blocking=True)
            smoothing = self.settings.label_smoothing
            loss = F.cross_entropy(model.logits(inputs), targets, label_smoothing=smoothing)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if enough():
                return


class Files(Dataset[tuple[Tensor, int]]):
    """What torchvision's ImageFolder does with each file."""

    def __init__(self, paths: list[str], labels: list[int], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with open(self.paths[index], "rb") as file:  # noqa: PTH123  as torchvision.datasets.folder.pil_loader does
            return self.transform(Image.open(file).convert("RGB")), self.labels[index]


class PlainLoop:
    """Files decoded each time, torchvision's v2 transforms one photo at a time in worker processes, a loop by hand."""

    def __init__(self, task: Task) -> None:
        self.task, settings = task, task.settings
        network = resnet18(num_classes=len(task.manifest.class_names))
        self.network = task.start_from(network)
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(learning, LR, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay)
        self.data = Files(*task.files(), photo_transforms(settings))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        cuda, device = self.task.device == "gpu", self.task.torch_device
        workers, size = self.task.workers, self.task.batch_size
        for images, labels in DataLoader(
            self.data, size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=cuda
        ):
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def train(self, enough: Callable[[], bool]) -> None:
        for images, labels in self.batches():
            logits = self.network(self.task.laid_out(images))
            loss = F.cross_entropy(logits, labels, label_smoothing=self.task.settings.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if enough():
                return


def photo_transforms(settings: Settings) -> Any:
    """catdog's augmentation in torchvision's terms: PIL photo -> normalised float32 (3, C, C)."""
    side = settings.crop_size
    degraded = [
        v2.GaussianBlur(5, BLUR_PX),
        v2.JPEG(JPEG_QUALITY),
        v2.Compose([v2.Resize((side * 3 // 4, side * 3 // 4)), v2.Resize((side, side))]),
    ]
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(side, (settings.crop_scale, 1), ASPECT),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomRotation(settings.rotation, v2.InterpolationMode.BILINEAR)], 1 / 3),
            v2.ColorJitter(settings.color, settings.color, settings.color),
            v2.RandomGrayscale(settings.color / 10),
            v2.RandomApply([v2.RandomChoice(degraded)], settings.degrade),
            v2.RandomErasing(settings.erase, ERASED, value=int(GREY)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class Fastai:
    """fastai's Learner and fit loop: presizing to catdog's cached size, then ``aug_transforms`` on the batch."""

    def __init__(self, task: Task) -> None:
        from fastai.vision import all as fastai

        self.task, settings = task, task.settings
        paths, labels = task.files()
        names = task.manifest.class_names
        self.dls = fastai.ImageDataLoaders.from_lists(
            task.data, [Path(path) for path in paths], [names[label] for label in labels], valid_pct=0.01, seed=0,
            item_tfms=fastai.Resize(settings.canvas_size), bs=task.batch_size, num_workers=task.workers,
            batch_tfms=[
                *fastai.aug_transforms(size=settings.crop_size, min_scale=settings.crop_scale),
                fastai.Normalize.from_stats(*fastai.imagenet_stats),
            ],
            device=task.torch_device,
        )  # fmt: skip
        network = resnet18(num_classes=len(names))
        optimizer = partial(
            fastai.OptimWrapper, opt=torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
        )
        callbacks = [fastai.BnFreeze(), *([fastai.ChannelsLast()] if task.channels_last else [])]
        loss = fastai.CrossEntropyLossFlat(label_smoothing=settings.label_smoothing)
        # fastai's own SGD has no Nesterov momentum; train_bn would also learn the batch norms of the frozen layers.
        self.learn = fastai.Learner(
            self.dls, task.start_from(network), loss, optimizer, lr=LR, cbs=callbacks, train_bn=False
        )
        self.callback, self.stop = fastai.Callback, fastai.CancelFitException

    def batches(self) -> Iterator[object]:
        return iter(self.dls.train)

    def train(self, enough: Callable[[], bool]) -> None:
        def after_batch(callback: object) -> None:
            if enough():
                raise self.stop

        with self.learn.no_bar(), self.learn.no_logging():
            self.learn.fit(1, cbs=self.callback(after_batch=after_batch))


class Timm:
    """timm's loader with train.py's default augmentation, its optimizer factory, and the step of its train.py."""

    def __init__(self, task: Task) -> None:
        import timm
        from timm.data import ImageDataset, create_loader
        from timm.loss import LabelSmoothingCrossEntropy
        from timm.optim import create_optimizer_v2

        self.task, settings = task, task.settings
        if task.device == "gpu":
            torch.backends.cudnn.benchmark = True  # as its train.py does
        classes = len(task.manifest.class_names)
        self.network = task.start_from(timm.create_model("resnet18", num_classes=classes, drop_rate=settings.dropout))
        # timm's "sgd" has Nesterov momentum.
        self.optimizer = create_optimizer_v2(
            self.network, "sgd", lr=LR, weight_decay=settings.weight_decay, momentum=0.9
        )
        self.loss = LabelSmoothingCrossEntropy(settings.label_smoothing)
        self.losses = timm.utils.AverageMeter()
        self.loader = create_loader(
            ImageDataset(task.data, reader=_Reader(*task.files())), (3, task.train_size, task.train_size),
            task.batch_size, is_training=True, scale=(settings.crop_scale, 1), interpolation="random",
            num_workers=task.workers, pin_memory=task.device == "gpu", device=task.torch_device,
            persistent_workers=False,
        )  # fmt: skip

    def batches(self) -> Iterator[Any]:
        return iter(self.loader)

    def train(self, enough: Callable[[], bool]) -> None:
        for images, labels in self.loader:
            loss = self.loss(self.network(self.task.laid_out(images)), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.update(loss.item(), len(labels))
            if enough():
                return


class _Reader:
    """Photos as timm's readers give them."""

    def __init__(self, paths: list[str], labels: list[int]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return open(self.paths[index], "rb"), self.labels[index]  # noqa: PTH123  timm closes nothing either


WAYS: Final[dict[str, Callable[[Task], Way]]] = {
    "catdog": Catdog,
    "plain loop": PlainLoop,
    "plain loop, same data": SameData,
    "fastai": Fastai,
    "timm": Timm,
}
