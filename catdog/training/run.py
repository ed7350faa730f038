"""A whole training run: settings in, a run folder out.

RUN/model.safetensors, contract.json, metrics.json, history.csv, config.yaml, model.onnx, reports/*.png
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import Tensor

from catdog.dataset import Manifest
from catdog.dataset.manifest import SPLITS, Split
from catdog.dataset.report import REPORT_NAME
from catdog.errors import SettingsError
from catdog.files import replace_file
from catdog.training import charts
from catdog.training.data import loader, open_data, plain_photos, training_photos
from catdog.training.loop import FineTuning, History, fit, metric_line, say
from catdog.training.metrics import measure, table
from catdog.training.model import WEIGHTS_NAME, ImageModel, new_network, save_checkpoint
from catdog.training.settings import Settings
from catdog.training.weights import load_weights


def run(settings: Settings) -> dict[str, Any]:
    """Train, measure, save and export; gives what ``metrics.json`` holds.

    Raises CatdogError: unusable data or settings, or a loss that became NaN, and then the run folder holds no model; or
    an export that failed its proof, and then it holds all but ``model.onnx``.
    """
    if settings.output is None:
        raise SettingsError("--output is needed: the run folder to write")
    output = Path(settings.output)
    if (output / WEIGHTS_NAME).exists():
        raise SettingsError(f"--output {output}: already holds a finished run; give another folder or remove it")
    L.seed_everything(settings.seed, verbose=False)
    with TemporaryDirectory(prefix="catdog-") as name, TemporaryDirectory(prefix="catdog-data-") as scratch, _quiet():
        manifest = open_data(settings, scratch)
        return _run(settings, manifest, output, Path(name))


def _run(settings: Settings, manifest: Manifest, output: Path, checkpoints: Path) -> dict[str, Any]:
    contract = settings.contract(manifest.class_names, manifest.fingerprint)
    network = new_network(settings.arch, len(manifest.class_names), settings.dropout)
    loaded = load_weights(network, settings.arch, settings.weights)
    say(loaded.describe())
    for split in SPLITS:
        photos = manifest.of(split)
        counts = ", ".join(f"{sum(p.label == c for p in photos)} {c}" for c in manifest.class_names)
        say(f"data: {split:<5} {len(photos)} photos ({counts})")

    model = ImageModel(network, contract)
    module = FineTuning(model, loaded.fresh, settings, len(manifest.class_names))
    history = History(output / "history.csv")
    val_loader = loader(plain_photos(manifest, contract, "val"), settings, shuffle=False)
    train_loader = loader(training_photos(manifest, contract, settings), settings, shuffle=True)
    fit(module, train_loader, val_loader, history, checkpoints)

    device = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    metrics: dict[str, Any] = {}
    reports = Path(settings.output_data) if settings.output_data else output / "reports"
    measured_on: tuple[Split, ...] = ("val", "test")
    for split in measured_on:
        if not manifest.of(split):
            say(f"{split}: no photos, not measured")
            continue
        data = loader(plain_photos(manifest, contract, split), settings, shuffle=False)
        metrics[split] = measure(*answer(model, data, device), manifest.class_names)
        say(table(split, metrics[split]))
        charts.confusion_matrix(
            metrics[split]["confusion_matrix"], manifest.class_names, split, reports / f"confusion_{split}.png"
        )
    measured = metrics.get("test") or metrics["val"]
    quality = {f"{'test' if 'test' in metrics else 'val'}_{k}": measured[k] for k in ("photos", "accuracy", "f1")}
    contract = save_checkpoint(output, network, contract.with_(quality=quality))
    if (report := manifest.root / REPORT_NAME).exists():
        _write(reports / "dataset.json", report.read_text(encoding="utf-8"))
    charts.curves(history.rows, settings.frozen_epochs, reports / "curves.png")
    _write(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    _write(output / "config.yaml", dataclasses.replace(settings, output=str(output)).to_yaml())
    if settings.export:
        from export import export  # here, so that a run without it needs no ONNX packages

        export(output, output / "model.onnx", manifest)
    final = {f"{s}_{k}": metrics[s][k] for s in metrics for k in ("accuracy", "precision", "recall", "f1")}
    print(metric_line(final))  # noqa: T201
    return metrics


def answer(model: ImageModel, batches: Iterable[Any], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Probabilities float32 (N, C) and labels int64 (N,) of all batches, computed in float32 on ``device``."""
    model = model.to(device).eval()
    probabilities, labels = [], []
    with torch.inference_mode():
        for images, truth in batches:
            probabilities.append(model(images.to(device).permute(0, 2, 3, 1)).cpu())
            labels.append(truth)
    model.to("cpu")
    return torch.cat(probabilities), torch.cat(labels)


def _write(path: Path, text: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class _quiet(warnings.catch_warnings):  # noqa: N801
    """Silence Lightning's advice that doesn't apply here; a warning that matters is an error or a line of ours."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", module=r"torch\.utils\.data", category=UserWarning)
        return result
