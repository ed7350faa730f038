"""What training starts from: photos, a network with its starting weights, and which of its tensors are fresh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning.fabric import Fabric

from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.dataset.manifest import SPLITS
from catdog.training.data import Examples, open_data, photos, seed_from, training_photos
from catdog.training.model import ImageModel, new_network
from catdog.training.processes import agree, say_first, share_folder
from catdog.training.settings import Settings
from catdog.training.weights import load_weights


@dataclass(frozen=True)
class Prepared:
    """All that training starts from."""

    manifest: Manifest
    model: ImageModel
    contract: Contract
    fresh: frozenset[str]
    """Parameters that start from scratch."""
    train: Examples
    val: Examples


def prepare(fabric: Fabric, settings: Settings, scratch: Path, manifest: Manifest | None = None) -> Prepared:
    """Open data and weights, and build the model; what costs time is done once a machine."""
    seed_from(settings.seed)
    folder, _ = share_folder(fabric, scratch)
    with fabric.rank_zero_first(local=True):
        manifest = manifest or open_data(settings, folder)
        contract = settings.contract(manifest.class_names, manifest.fingerprint)
        network = new_network(settings.arch, len(manifest.class_names), settings.dropout)
        loaded = load_weights(network, settings.arch, settings.weights)
        val = photos(manifest, "val", contract, settings)
        train = training_photos(manifest, contract, settings)
    agree(fabric, "--data", (manifest.fingerprint, len(train)))
    say_first(fabric, loaded.describe())
    for split in SPLITS:
        chosen = manifest.of(split)
        counts = ", ".join(f"{sum(p.label == c for p in chosen)} {c}" for c in manifest.class_names)
        say_first(fabric, f"data: {split:<5} {len(chosen)} photos ({counts})")
    return Prepared(manifest, ImageModel(network, contract), contract, frozenset(loaded.fresh), train, val)
