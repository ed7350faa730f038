"""What training starts from: a network with its starting weights, and photos uint8 (N, S, S, 3) in batches.

Which photos make a batch follows from the seed, the epoch and the place in the epoch alone. So a run can go on from any
step, and several processes share each batch without talking to one another.

Photos that are cached are read by the process that trains: on a GPU from its own memory where they leave enough of it,
else through pinned buffers that are filled one batch ahead. Only decoding is worth worker processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from catdog.ahead import batches_ahead
from catdog.contract import Contract
from catdog.dataset import Manifest, Photo, Split, build, is_dataset
from catdog.dataset.inputs import GivenSource
from catdog.dataset.manifest import SPLITS
from catdog.errors import SettingsError
from catdog.machine import usable_cores
from catdog.progress import show_progress
from catdog.training.history import say
from catdog.training.model import ImageModel, new_model
from catdog.training.onnx_weights import PHOTOS, refit_batch_norms
from catdog.training.pixels import DecodedPhotos, Inputs, MappedArray, open_pixels
from catdog.training.processes import Shard, check_agreement, say_first, share_folder
from catdog.training.settings import Settings
from catdog.training.tasks import Targets, Task, find_task
from catdog.training.teacher import ask_teachers
from catdog.training.weights import load_weights

Batch = tuple[Tensor, Tensor]
GPU_SHARE: Final = 0.25  # of the GPU's memory, that photos may take; the rest is for the network and its batches
_CHUNK: Final = 256  # photos that are copied to the device at once


class DeviceArray:
    """An array (n, ...) in the memory of the device that trains."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return a copy of these, (n, ...), in this order, on the device."""
        return self.tensor[torch.tensor(indices).to(self.tensor.device, non_blocking=True)]


@dataclass(frozen=True)
class Examples(Dataset[Batch]):
    """Photos, or the features that a frozen network made of them, with what they show; read a batch at a time."""

    inputs: Inputs | DeviceArray
    targets: Targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        return torch.as_tensor(self.inputs.read(indices)), torch.from_numpy(self.targets[np.asarray(indices)])


def load_photos(manifest: Manifest, split: Split, contract: Contract, settings: Settings) -> Examples:
    """Return the photos of a split as consumers will see them, at ``contract``'s size."""
    task = find_task(settings)
    chosen = order_photos(task, manifest, split)
    folder = find_cache_folder(settings)
    with show_progress(f"{split}: decoded") as progress:
        pixels = open_pixels(manifest, chosen, contract, folder, round(settings.cache_gb * 1e9), progress)
    if folder and chosen and isinstance(pixels, DecodedPhotos):
        gigabytes = len(chosen) * contract.input_size**2 * 3 / 1e9
        say(
            f"{split}: {gigabytes:.1f} GB of decoded photos don't fit into {folder} (--cache-gb {settings.cache_gb:g}, "
            "2 GiB of the disk left free), or it can't be written; they are decoded anew each epoch"
        )
    return Examples(pixels, task.make_targets(chosen, contract))


def order_photos(task: Task, manifest: Manifest, split: Split) -> list[Photo]:
    """Return the photos of a split in the order of ``load_photos``, whatever their folders are called."""
    return sorted(task.choose_photos(manifest, split), key=lambda photo: photo.sha256)


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


def size_batches(count: int, batch_size: int, shard: Shard) -> int:
    """Return how many of ``count`` photos make a training batch, of all processes together."""
    size = min(batch_size, count) // shard.world * shard.world
    if not size:
        raise SettingsError(f"--batch-size {batch_size}: fewer photos a step than processes ({shard.world})")
    return size


def make_training_batches(count: int, batch_size: int, seed: int, epoch: int, shard: Shard) -> list[list[int]]:
    """Return this process's part of each batch of an epoch; photos that don't fill a last batch are left out.

    ``batch_size`` is that of all processes together. A last batch of one photo would break batch norm's statistics.
    """
    size = size_batches(count, batch_size, shard)
    order = np.random.default_rng((seed, epoch)).permutation(count).tolist()
    return [order[i : i + size][shard.rank :: shard.world] for i in range(0, count - size + 1, size)]


def order_epochs(count: int, settings: Settings, epochs: Iterable[int], shard: Shard) -> Iterator[list[int]]:
    """Yield this process's part of each batch, one epoch after the other."""
    return chain.from_iterable(
        make_training_batches(count, settings.batch_size, settings.seed, epoch, shard) for epoch in epochs
    )


def make_plain_batches(count: int, batch_size: int, shard: Shard = Shard()) -> list[list[int]]:  # noqa: B008  immutable
    """Return this process's part of all indices in order, each exactly once, in batches."""
    mine = list(range(shard.rank, count, shard.world))
    return [mine[i : i + batch_size] for i in range(0, len(mine), batch_size)]


def hold_on_device(examples: Examples, device: torch.device, room_bytes: float | None = None) -> Examples:
    """Return the examples, cached ones in the memory of a GPU that has room for them.

    ``room_bytes``: how many may go there; by default what is left of GPU_SHARE of all that this process can have.
    """
    inputs = examples.inputs
    room = _measure_room(device) if room_bytes is None else room_bytes
    if not isinstance(inputs, MappedArray) or inputs.array.nbytes > room:
        return examples
    shape = inputs.array.shape
    tensor = torch.from_numpy(inputs.read([0])).new_empty(shape, device=device)
    for start in range(0, len(tensor), _CHUNK):
        part = tensor[start : start + _CHUNK]
        part.copy_(torch.from_numpy(inputs.read(range(start, start + len(part)))))
    return replace(examples, inputs=DeviceArray(tensor))


def _measure_room(device: torch.device) -> float:
    """Return how many bytes of photos a GPU may still hold; what it holds for this process already counts, too."""
    if device.type != "cuda":
        return 0
    available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return GPU_SHARE * available - torch.cuda.memory_allocated(device)


def read_batches(
    examples: Examples, batches: Iterable[Sequence[int]], settings: Settings, device: torch.device
) -> Iterable[Batch]:
    """Return these batches, one after the other, in memory that ``device`` reads fast; worker processes only decode."""
    if isinstance(examples.inputs, DecodedPhotos):
        return DataLoader(
            examples,
            batch_size=None,  # the sampler's items are batches already
            sampler=batches,
            num_workers=min(usable_cores(), 8) if settings.workers < 0 else settings.workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=_ignore_signals,
        )
    if device.type == "cpu" or isinstance(examples.inputs, DeviceArray):
        return map(examples.__getitem__, batches)

    def read(indices: Sequence[int]) -> Batch:
        images, targets = examples[indices]
        return (images.pin_memory(), targets.pin_memory()) if device.type == "cuda" else (images, targets)

    return chain.from_iterable(batches_ahead(read, batches, 1))


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
    find_task(settings).check_photos(manifest, settings.data)
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
    task = find_task(settings)
    folder, _ = share_folder(fabric, scratch)
    with fabric.rank_zero_first(local=True):
        manifest = manifest or open_data(settings, folder)
        contract = settings.contract(task.class_names(manifest), manifest.fingerprint)
        model = new_model(contract, settings.dropout)
        loaded = load_weights(model.network, settings.arch, settings.weights)
        val = load_photos(manifest, "val", contract, settings)
        # Another size: random crops of it have about the size that the network sees.
        train = load_photos(manifest, "train", contract.with_(input_size=settings.canvas_size), settings)
        if settings.teacher:
            photos, cache = order_photos(task, manifest, "train"), find_cache_folder(settings)
            targets = ask_teachers(settings.teacher, settings.teacher_weight, manifest, photos, cache)
            train = replace(train, targets=targets)
    check_agreement(fabric, "--data", (manifest.fingerprint, len(train)))
    say_first(fabric, loaded.describe())
    for split in SPLITS:
        chosen = task.choose_photos(manifest, split)
        counts = task.describe_photos(chosen, contract.class_names)
        say_first(fabric, f"data: {split:<5} {len(chosen)} photos ({counts})")
    if loaded.folded:
        images, _ = train[range(min(PHOTOS, len(train)))]
        refit_batch_norms(model, images)
    train, val = (hold_on_device(examples, fabric.device) for examples in (train, val))
    return Prepared(manifest, model, contract, frozenset(loaded.fresh), train, val)
