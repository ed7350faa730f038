"""What training starts from: photos, and a network with its starting weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning.fabric import Fabric

from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.dataset.manifest import SPLITS
from catdog.training.data import Examples, load_photos, load_training_photos, open_data, set_seed
from catdog.training.model import ImageModel, new_network
from catdog.training.processes import check_agreement, say_first, share_folder
from catdog.training.settings import Settings
from catdog.training.weights import load_weights


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
        train = load_training_photos(manifest, contract, settings)
    check_agreement(fabric, "--data", (manifest.fingerprint, len(train)))
    say_first(fabric, loaded.describe())
    for split in SPLITS:
        chosen = manifest.of(split)
        counts = ", ".join(f"{sum(p.label == c for p in chosen)} {c}" for c in manifest.class_names)
        say_first(fabric, f"data: {split:<5} {len(chosen)} photos ({counts})")
    return Prepared(manifest, ImageModel(network, contract), contract, frozenset(loaded.fresh), train, val)
