"""Manifest to batches: uint8 (N, S, S, 3) photos and int64 (N,) class indices.

Which photos make a batch follows from the seed, the epoch and the place in the epoch alone, so that a run can go on
from any step, and several processes share each batch without knowing of one another.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catdog.contract import Contract
from catdog.dataset import Manifest, Split, build, is_dataset
from catdog.dataset.inputs import GivenSource
from catdog.errors import DataError, SettingsError
from catdog.machine import usable_cores
from catdog.progress import show_progress
from catdog.training.history import say
from catdog.training.pixels import Decoded, Inputs, open_pixels
from catdog.training.settings import Settings

Batch = tuple[Tensor, Tensor]


class Shard(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Examples(Dataset[Batch]):
    """Inputs (photos, or what a frozen network made of them) with their classes; read a batch at a time."""

    inputs: Inputs
    labels: Sequence[int]
    """Index into the class names."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        labels = torch.tensor([self.labels[i] for i in indices], dtype=torch.int64)
        return torch.from_numpy(self.inputs.read(indices)), labels


def photos(manifest: Manifest, split: Split, contract: Contract, settings: Settings) -> Examples:
    """A split as consumers will see it, at ``contract``'s size."""
    chosen = sorted(manifest.of(split), key=lambda photo: photo.sha256)  # whatever their folders are called
    folder = cache_folder(settings)
    with show_progress(f"{split}: decoded") as progress:
        pixels = open_pixels(manifest, chosen, contract, folder, round(settings.cache_gb * 1e9), progress)
    if folder and chosen and isinstance(pixels, Decoded):
        gigabytes = len(chosen) * contract.input_size**2 * 3 / 1e9
        say(
            f"{split}: {gigabytes:.1f} GB of decoded photos don't fit into {folder} (--cache-gb {settings.cache_gb:g}, "
            "2 GiB of the disk left free), or it can't be written; they are decoded anew each epoch"
        )
    return Examples(pixels, [contract.class_names.index(photo.label) for photo in chosen])


def training_photos(manifest: Manifest, contract: Contract, settings: Settings) -> Examples:
    """The training split by the same rule, larger: random crops of it have about the size that the network sees."""
    return photos(manifest, "train", contract.with_(input_size=settings.canvas_size), settings)


def cache_folder(settings: Settings) -> Path | None:
    """Where decoded photos are kept, or None: ``--cache``, by default the user's cache folder (XDG)."""
    if settings.cache == "none":
        return None
    if settings.cache == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "catdog" / "pixels"
    return Path(settings.cache)


def seed_from(*parts: int) -> None:
    """Set torch's random numbers, on all devices, to those of this place in a run."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))


def training_batches(count: int, batch_size: int, seed: int, epoch: int, shard: Shard) -> list[list[int]]:
    """This process's part of each batch of an epoch; what doesn't fill a last batch waits for another epoch's order.

    ``batch_size`` is that of all processes together. A last batch of one photo would break batch norm's statistics.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    size = min(batch_size, count) // shard.world * shard.world
    if not size:
        raise SettingsError(f"--batch-size {batch_size}: fewer photos a step than processes ({shard.world})")
    return [order[i : i + size][shard.rank :: shard.world] for i in range(0, count - size + 1, size)]


def plain_batches(count: int, batch_size: int, shard: Shard = Shard()) -> list[list[int]]:  # noqa: B008  immutable
    """This process's part of all indices in order, each once, in batches; no photo is counted twice to fill one up."""
    mine = list(range(shard.rank, count, shard.world))
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def loader(examples: Examples, batches: Sequence[Sequence[int]], settings: Settings) -> DataLoader[Batch]:
    """These batches, read ahead by worker processes where reading them costs more than a copy."""
    cuda = torch.cuda.is_available() and settings.device != "cpu"
    workers = settings.workers
    if workers < 0:
        cached = not isinstance(examples.inputs, Decoded)
        workers = min(usable_cores(), 8) if not cached else min(usable_cores(), 4) if cuda else 0
    return DataLoader(
        examples,
        batch_size=None,  # the sampler's items are batches already
        sampler=batches,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=cuda,
        worker_init_fn=_leave_signals_to_the_run,
    )


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole process group stops a run at its next step; till then it needs its workers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def open_data(settings: Settings, scratch: Path) -> Manifest:
    """The dataset that the settings name; raw sources are checked and split first, into ``scratch``.

    ``--validation`` and ``--test`` (SageMaker's channels) fix the split of their photos. Raises DataError or
    SettingsError when there is nothing to learn from or to validate on.
    """
    if settings.data is None:
        raise SettingsError("--data is needed: a dataset made by catdog.dataset, a folder of photos or an archive")
    apart: list[tuple[str, Split]] = []
    if settings.validation:
        apart.append((settings.validation, "val"))
    if settings.test:
        apart.append((settings.test, "test"))
    made = scratch / "dataset"
    if is_dataset(settings.data) and not apart:
        manifest = Manifest.read(settings.data)
    elif is_dataset(made):  # by another process of this machine
        manifest = Manifest.read(made)
    else:
        # Channels beside it make the data a given training split; alone, it is split by its own layout or by hash.
        source: GivenSource = (settings.data, "train") if apart else settings.data
        with show_progress("checked") as progress:
            manifest = build([source, *apart], made, progress=progress)
    for split in ("train", "val"):
        present = {photo.label for photo in manifest.of(split)}
        if missing := [name for name in manifest.class_names if name not in present]:
            raise DataError(f"{settings.data}: no photo of {missing[0]!r} in the {split} split; add photos")
    return manifest
