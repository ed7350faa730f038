"""How fast training photos are decoded and augmented, beside torchvision's usual way and the model's appetite.

    python benchmarks/data_path.py --data data/

One run, rounds in turn, medians: photos/s of

- ours: ``catdog.training.data`` with all augmentation on,
- torchvision: ``ImageFolder``-style PIL decoding and the same transforms, in the same DataLoader,
- the step: what ResNet-18 consumes (forward, backward, optimizer) on photos that are in memory already.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from catdog.dataset import Manifest
from catdog.machine import usable_cores
from catdog.training.augment import augmentation
from catdog.training.data import Photos, loader, training_photos
from catdog.training.loop import keep_freed_memory
from catdog.training.model import ImageModel, new_network
from catdog.training.settings import Settings

BATCH_SIZE = 64
PREFETCHED = 4 * min(usable_cores(), 8)  # batches that a loader made ready while another way was measured


class TorchvisionPhotos(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision's ImageFolder does with each file, on the same files."""

    def __init__(self, photos: Photos, settings: Settings) -> None:
        self.paths, self.labels = photos.paths, photos.labels
        self.transform = v2.Compose([v2.PILToTensor(), augmentation(settings)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with open(self.paths[index], "rb") as file:  # noqa: PTH123  as torchvision.datasets.folder.pil_loader does
            return self.transform(Image.open(file).convert("RGB")), self.labels[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="a dataset made by catdog.dataset")
    parser.add_argument("--train-size", type=int, default=176, help="side of the crops, px")
    parser.add_argument("--batches", type=int, default=12, help="batches of 64 a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = Settings(train_size=arguments.train_size, batch_size=BATCH_SIZE)
    manifest = Manifest.read(arguments.data)
    contract = settings.contract(manifest.class_names, "")
    photos = training_photos(manifest, contract, settings)
    keep_freed_memory()

    model = ImageModel(new_network(settings.arch, len(manifest.class_names)), contract).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    images, labels = next(iter(loader(photos, settings, shuffle=True)))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model.logits(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def ours() -> DataLoader[tuple[torch.Tensor, int]]:
        return loader(photos, settings, shuffle=True)

    def theirs() -> DataLoader[tuple[torch.Tensor, int]]:
        return loader(TorchvisionPhotos(photos, settings), settings, shuffle=True)  # type: ignore[arg-type]

    rates: dict[str, list[float]] = {"catdog": [], "torchvision": [], "model step": []}
    for _ in range(arguments.rounds + 1):
        # New workers each time: those of one way, still filling their queue, would slow down the other.
        for name, make in (("catdog", ours), ("torchvision", theirs)):
            batches = iter(make())
            rates[name].append(_rate(lambda batches=batches: next(batches), arguments.batches, PREFETCHED))  # type: ignore[misc]
            del batches
        rates["model step"].append(_rate(step, max(2, arguments.batches // 4), 1))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}  # the first round warms up
    print(f"{torch.get_num_threads()} threads, {arguments.train_size} px crops, batches of {BATCH_SIZE}")
    for name, rate in medians.items():
        print(f"{name:<12} {rate:8.0f} photos/s  {rate / medians['torchvision']:5.2f} x torchvision's data path")
    print(f"data path over model step: {medians['catdog'] / medians['model step']:.1f}")


def _rate(action: Callable[[], object], times: int, discard: int) -> float:
    for _ in range(discard):
        action()
    start = time.perf_counter()
    for _ in islice(cycle([None]), times):
        action()
    return times * BATCH_SIZE / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
