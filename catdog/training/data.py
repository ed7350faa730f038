"""What training starts from: a network with its starting weights, and photos uint8 (N, S, S, 3) in batches.

Which photos make a batch follows from the seed, the epoch and the place in the epoch alone. So a run can go on from any
step, and several processes share each batch without talking to one another.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.dataset.inputs import GivenSource
from catdog.dataset.manifest import SPLITS
from catdog.errors import DataError, SettingsError
from catdog.machine import usable_cores
from catdog.progress import show_progress
from catdog.training.history import say
from catdog.training.model import ImageModel, new_network
from catdog.training.onnx_weights import PHOTOS, refit_batch_norms
from catdog.training.pixels import DecodedPhotos, Inputs, open_pixels
from catdog.training.processes import Shard, check_agreement, say_first, share_folder
from catdog.training.settings import Settings
from catdog.training.teacher import Targets, make_targets
from catdog.training.weights import load_weights

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Examples(Dataset[Batch]):
    """Photos, or the features that a frozen network made of them, with their classes; read a batch at a time."""

    inputs: Inputs
    labels: Sequence[int]
    """Index into the class names."""
    targets: Targets | None = None
    """What the network should answer, where teachers say more than the labels; a batch then has these instead."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        if self.targets is not None:
            wanted = torch.from_numpy(self.targets[np.asarray(indices)])
        else:
            wanted = torch.tensor([self.labels[i] for i in indices], dtype=torch.int64)
        return torch.from_numpy(self.inputs.read(indices)), wanted


def load_photos(manifest: Manifest, split: Split, contract: Contract, settings: Settings) -> Examples:
    """Return the photos of a split as consumers will see them, at ``contract``'s size."""
    chosen = _order_photos(manifest, split)
    folder = find_cache_folder(settings)
    with show_progress(f"{split}: decoded") as progress:
        pixels = open_pixels(manifest, chosen, contract, folder, round(settings.cache_gb * 1e9), progress)
    if folder and chosen and isinstance(pixels, DecodedPhotos):
        gigabytes = len(chosen) * contract.input_size**2 * 3 / 1e9
        say(
            f"{split}: {gigabytes:.1f} GB of decoded photos don't fit into {folder} (--cache-gb {settings.cache_gb:g}, "
            "2 GiB of the disk left free), or it can't be written; they are decoded anew each epoch"
        )
    return Examples(pixels, [contract.class_names.index(photo.label) for photo in chosen])


def _order_photos(manifest: Manifest, split: Split) -> list[Photo]:
    return sorted(manifest.of(split), key=lambda photo: photo.sha256)  # whatever their folders are called


def find_cache_folder(settings: Settings) -> Path | None:
    """Return where decoded photos are kept: ``--cache``, by default the user's cache folder (XDG); None for none."""
    if settings.cache == "none":
        return None
    if settings.cache == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "catdog" / "pixels"
    return Path(settings.cache)


def set_seed(*parts: int) -> None:
    """Seed torch's random numbers, on all devices, from the numbers that say where in a run it is."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))


def make_training_batches(count: int, batch_size: int, seed: int, epoch: int, shard: Shard) -> list[list[int]]:
    """Return this process's part of each batch of an epoch; photos that don't fill a last batch are left out.

    ``batch_size`` is that of all processes together. A last batch of one photo would break batch norm's statistics.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    size = min(batch_size, count) // shard.world * shard.world
    if not size:
        raise SettingsError(f"--batch-size {batch_size}: fewer photos a step than processes ({shard.world})")
    return [order[i : i + size][shard.rank :: shard.world] for i in range(0, count - size + 1, size)]


def make_plain_batches(count: int, batch_size: int, shard: Shard = Shard()) -> list[list[int]]:  # noqa: B008  immutable
    """Return this process's part of all indices in order, each exactly once, in batches."""
    mine = list(range(shard.rank, count, shard.world))
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def make_loader(examples: Examples, batches: Sequence[Sequence[int]], settings: Settings) -> DataLoader[Batch]:
    """Return a loader of these batches, with worker processes where reading a batch costs more than sending it."""
    cuda = torch.cuda.is_available() and settings.device != "cpu"
    workers = settings.workers
    if workers < 0:
        cached = not isinstance(examples.inputs, DecodedPhotos)
        workers = min(usable_cores(), 8) if not cached else min(usable_cores(), 4) if cuda else 0
    return DataLoader(
        examples,
        batch_size=None,  # the sampler's items are batches already
        sampler=batches,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=cuda,
        worker_init_fn=_ignore_signals,
    )


def _ignore_signals(worker: int) -> None:
    """Ignore signals in a worker: a run that is told to stop needs its workers until its next step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def open_data(settings: Settings, scratch: Path) -> Manifest:
    """Return the dataset that the settings name; raw photos are checked and split first, into ``scratch``.

    ``--validation`` and ``--test`` (SageMaker's channels) fix the split of their photos. Raises DataError or
    SettingsError when there is nothing to learn from or to validate on.
    """
    assert settings.data is not None, "see Settings.check_paths"
    channels: tuple[tuple[str | None, Split], ...] = ((settings.validation, "val"), (settings.test, "test"))
    apart = [(path, split) for path, split in channels if path]
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


@dataclass(frozen=True)
class Prepared:
    """The photos, the model and its contract as training finds them."""

    manifest: Manifest
    model: ImageModel
    contract: Contract
    fresh: frozenset[str]
    """Names of the parameters that start from scratch."""
    train: Examples
    val: Examples


def prepare(fabric: Fabric, settings: Settings, scratch: Path, manifest: Manifest | None = None) -> Prepared:
    """Open photos and weights, and build the model; what takes long is done by one process of each machine."""
    set_seed(settings.seed)
    folder, _ = share_folder(fabric, scratch)
    with fabric.rank_zero_first(local=True):
        manifest = manifest or open_data(settings, folder)
        contract = settings.contract(manifest.class_names, manifest.fingerprint)
        network = new_network(settings.arch, len(manifest.class_names), settings.dropout)
        loaded = load_weights(network, settings.arch, settings.weights)
        val = load_photos(manifest, "val", contract, settings)
        # Another size: random crops of it have about the size that the network sees.
        train = load_photos(manifest, "train", contract.with_(input_size=settings.canvas_size), settings)
        if settings.teacher:
            photos, cache = _order_photos(manifest, "train"), find_cache_folder(settings)
            targets = make_targets(settings.teacher, settings.teacher_weight, manifest, photos, cache)
            train = replace(train, targets=targets)
    check_agreement(fabric, "--data", (manifest.fingerprint, len(train)))
    say_first(fabric, loaded.describe())
    for split in SPLITS:
        chosen = manifest.of(split)
        counts = ", ".join(f"{sum(p.label == c for p in chosen)} {c}" for c in manifest.class_names)
        say_first(fabric, f"data: {split:<5} {len(chosen)} photos ({counts})")
    model = ImageModel(network, contract)
    if loaded.folded:
        images, _ = train[range(min(PHOTOS, len(train)))]
        refit_batch_norms(model, images)
    return Prepared(manifest, model, contract, frozenset(loaded.fresh), train, val)
