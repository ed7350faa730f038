"""A whole training run, from settings to a run folder.

RUN/model.safetensors, contract.json, metrics.json, history.csv, config.yaml, model.onnx, reports/*.png
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import traceback
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import Tensor

from catdog.contract import UNSURE, WEIGHTS_NAME, Contract
from catdog.dataset import Split
from catdog.dataset.report import REPORT_NAME
from catdog.errors import CatdogError, SettingsError
from catdog.files import check_output_folder, check_writable, lock_folder, write_csv, write_text
from catdog.text import first_line
from catdog.training import charts
from catdog.training.calibration import fit_temperature, fit_thresholds
from catdog.training.checkpoint import FILE_NAME, Checkpoint
from catdog.training.data import (
    Examples,
    Prepared,
    load_photos,
    make_plain_batches,
    order_photos,
    prepare,
    read_batches,
)
from catdog.training.detection_report import measure_detector
from catdog.training.find_lr import find_lr
from catdog.training.history import Row, say, say_metrics
from catdog.training.loop import fit
from catdog.training.metrics import format_table, measure
from catdog.training.model import ImageModel, save_checkpoint
from catdog.training.processes import explain_torch, is_first_process, silence_lightning, start_processes
from catdog.training.settings import JOB_VARIABLE, Settings
from catdog.training.tasks import find_task

QUALITY: Final = {"classify": ("photos", "accuracy", "f1"), "detect": ("photos", "boxes", "ap", "ap50", "ap75")}
"""What of a run's metrics goes into the contract, by task."""
SAID: Final = {"classify": ("accuracy", "precision", "recall", "f1"), "detect": ("ap", "ap50", "ap75")}
"""What of them goes to stdout."""
MARKS: Final = ("history.csv", "checkpoints/run.ckpt", "reports/find_lr.png")  # by which a run folder is known


def run_training(settings: Settings) -> None:
    """Train, measure, save and export; or with ``--find-lr`` try learning rates only.

    Raises CatdogError: unusable data or settings, a loss that is no longer finite, or a signal that stopped it; then
    the run folder holds no model. Or an export failed its proof; then it holds all but ``model.onnx``. In a SageMaker
    job, which would lose its model if it failed, an export that fails is only told.
    """
    assert settings.output is not None, "see Settings.check_paths"
    output = Path(settings.output)
    reports = Path(settings.output_data) if settings.output_data else output / "reports"
    folder = Path(settings.checkpoint_dir) if settings.checkpoint_dir else output / "checkpoints"
    if (output / WEIGHTS_NAME).exists() and not (folder / FILE_NAME).exists():  # else it was cut off while finishing
        raise SettingsError(f"--output {output}: already holds a finished run; give another folder or remove it")
    check_output_folder("--output", output, MARKS)
    check_writable("--checkpoint-dir", folder)
    with (
        TemporaryDirectory(prefix="catdog-data-") as scratch,
        silence_lightning(),
        explain_torch(settings),
        lock_folder("--output", output, "training") if is_first_process() else nullcontext(),
    ):
        fabric = start_processes(settings)
        prepared = prepare(fabric, settings, Path(scratch))
        if settings.find_lr:
            find_lr(fabric, prepared, settings, reports)
            return
        is_writer = fabric.global_rank == 0
        checkpoint = Checkpoint(folder, settings, prepared.manifest.fingerprint, fabric.world_size, is_writer)

        def record(rows: list[Row]) -> None:
            write_csv(output / "history.csv", list(rows[0]), [list(row.values()) for row in rows])
            say_metrics(rows[-1])

        rows: list[Row] = []
        if settings.frozen_epochs + settings.epochs:
            rows = fit(fabric, prepared, settings, checkpoint, record)
        elif prepared.fresh:
            raise SettingsError("--epochs 0 and --frozen-epochs 0: but --weights leave tensors that have to learn")
        if fabric.world_size > 1:
            torch.distributed.destroy_process_group()
        if fabric.global_rank == 0:
            _finish(prepared, settings, rows, output, reports, str(fabric.device))
            checkpoint.remove()


def _finish(prepared: Prepared, settings: Settings, rows: list[Row], output: Path, reports: Path, device: str) -> None:
    """Fit what the validation photos decide, measure, and write the run folder."""
    manifest, model = prepared.manifest, prepared.model
    measure_model = measure_detector if settings.task == "detect" else _measure_classifier
    contract, metrics = measure_model(prepared, settings, reports, device)
    measured = "test" if "test" in metrics else "val"
    quality = {f"{measured}_{k}": metrics[measured][k] for k in QUALITY[settings.task]}
    if (report := manifest.root / REPORT_NAME).exists():
        write_text(reports / "dataset.json", report.read_text(encoding="utf-8"))
    if rows:
        charts.draw_curves(rows, settings.frozen_epochs, reports / "curves.png")
    write_text(output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_text(output / "config.yaml", dataclasses.replace(settings, output=str(output)).to_yaml())
    save_checkpoint(output, model.network, contract.with_(quality=quality))
    onnx = output / "model.onnx"
    try:
        if settings.export:
            from catdog.export import export  # here, so that a run without it needs no ONNX packages

            export(output, onnx, manifest)
    except Exception as error:
        if (job := os.environ.get(JOB_VARIABLE)) is None:
            raise
        _say_export_failed(error, job)
    finally:
        _say_what_was_written(output, reports, onnx, contract)
    numbers = {f"{s}_{k}": metrics[s][k] for s in metrics for k in SAID[settings.task]}
    say_metrics(numbers | {"exported": int(onnx.is_file())})


def _say_export_failed(error: Exception, job: str) -> None:
    if not isinstance(error, CatdogError):
        say("".join(traceback.format_exception(error)))
    say(
        f"{'!' * 40}\nthe export failed: {first_line(error)}\nthe job ends well all the same, since SageMaker keeps no "
        f"model of a job that fails; catdog aws status {job} says how to export it\n{'!' * 40}"
    )


def _measure_classifier(
    prepared: Prepared, settings: Settings, reports: Path, device: str
) -> tuple[Contract, dict[str, Any]]:
    """Fit temperature and thresholds on validation photos; return the contract with them, and the splits' numbers."""
    manifest, contract, model = prepared.manifest, prepared.contract, prepared.model
    outputs: dict[Split, tuple[Tensor, Tensor]] = {"val": compute_logits(model, prepared.val, settings, device)}
    logits, labels = outputs["val"]
    temperature = fit_temperature(logits, labels)
    contract = fit_thresholds(contract.with_(temperature=temperature), torch.softmax(logits / temperature, 1), labels)
    if manifest.of("test"):
        outputs["test"] = compute_logits(model, load_photos(manifest, "test", contract, settings), settings, device)
    metrics: dict[str, Any] = {}
    for split, (logits, labels) in outputs.items():
        clusters = [photo.cluster for photo in order_photos(find_task(settings), manifest, split)]
        metrics[split] = measure(torch.softmax(logits / temperature, 1), labels, manifest.class_names, clusters)
        say(format_table(split, metrics[split]))
        matrix = metrics[split]["confusion_matrix"]
        charts.draw_confusion_matrix(matrix, manifest.class_names, split, reports / f"confusion_{split}.png")
    return contract, metrics


def _say_what_was_written(output: Path, reports: Path, onnx: Path, contract: Contract) -> None:
    """Say what the run folder holds, when the model is unsure, and how to classify a photo with it."""
    exported = onnx.is_file()
    models = f"{WEIGHTS_NAME} and {onnx.name}, with their" if exported else f"{WEIGHTS_NAME}, with its"
    say(f"wrote {output}: {models} contract and numbers; charts in {reports}")
    sure = f"under a confidence of {contract.threshold:.4g} its answer is {UNSURE}"
    detects = contract.task == "detect"
    say(f"boxes from {contract.threshold:.4g} on" if detects else f"temperature {contract.temperature:.4g}; {sure}")
    run = shlex.quote(str(output))
    if not exported:
        say(f"no {onnx.name} was written; make it: catdog export {run} --out {shlex.quote(str(onnx))}")
    say(f"next: catdog {'detect' if detects else 'predict'} photo.jpg --model {run}")


def compute_logits(
    model: ImageModel, examples: Examples, settings: Settings, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return logits float32 (N, C) and labels int64 (N,) of all examples, computed in float32 on ``device``."""
    model = model.to(device).eval()
    logits, labels = [], []
    batches = make_plain_batches(len(examples), settings.batch_size)
    with torch.inference_mode():
        for images, truth in read_batches(examples, batches, settings, torch.device(device)):
            logits.append(model.logits(images.to(device).permute(0, 3, 1, 2)).cpu())
            labels.append(truth)
    model.to("cpu")
    return torch.cat(logits), torch.cat(labels)
