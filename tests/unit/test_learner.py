"""A run's steps, its moving average and its checkpoints, in this process: what they learn, keep and give back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision.amp import MixedPrecision
from torch import nn

from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.errors import TrainingError
from catdog.training.checkpoint import PAUSE, Checkpoint
from catdog.training.data import Batch, Examples, Prepared, order_epochs, read_batches, set_seed
from catdog.training.history import Row
from catdog.training.learner import Learner, MovingAverage
from catdog.training.loop import fit
from catdog.training.model import fingerprint_weights, new_model
from catdog.training.phases import remaining_phases
from catdog.training.pixels import MappedArray
from catdog.training.processes import Shard, explain_torch
from catdog.training.settings import Settings

SETTINGS: dict[str, Any] = {"arch": "cnn", "size": 32, "batch_size": 4, "frozen_epochs": 0, "epochs": 3, "ema": 0.9}


def _prepare(folder: Path, settings: Settings) -> Prepared:
    """A small network, and 12 photos of noise, of which the last half is brighter."""
    contract = Contract(class_names=("cat", "dog"), input_size=32, arch="cnn")
    set_seed(settings.seed)
    model = new_model(contract)
    examples = []
    for name, side in (("train", settings.canvas_size), ("val", 32)):
        photos = np.random.default_rng(0).integers(0, 128, (12, side, side, 3)).astype(np.uint8)
        photos[6:] += 100
        photos.tofile(folder / name)
        examples.append(Examples(MappedArray(folder / name, np.uint8, photos.shape), np.repeat([0, 1], 6)))
    fresh = frozenset(name for name, _ in model.network.named_parameters())
    return Prepared(Manifest(folder, ("cat", "dog"), ()), model, contract, fresh, *examples)


def _learner(folder: Path, settings: Settings, fabric: Fabric) -> tuple[Learner, Iterator[Batch]]:
    prepared = _prepare(folder, settings)
    (phase,) = remaining_phases(fabric, prepared, settings, 0, folder)
    order = order_epochs(len(phase.train), settings, range(9), Shard())
    return Learner(fabric, prepared, phase, settings), iter(read_batches(phase.train, order, settings, fabric.device))


def test_the_average_follows_the_weights_and_goes_on_from_its_state() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average, again = MovingAverage(module, 0.25), MovingAverage(module, 0.25)
    linear, kept, expected = module.get_parameter("0.weight"), average.module.state_dict(), torch.zeros(3, 3)
    for n in range(4):
        with torch.no_grad():
            linear.normal_()
            module(torch.randn(5, 3))  # which the batch norm counts
        average.update()
        decay = min(0.25, (1 + n) / (10 + n)) if n else 0
        expected = decay * expected + (1 - decay) * linear.detach()
        if n == 1:
            again.load(average.state())
        if n > 1:
            again.update()
    torch.testing.assert_close(kept["0.weight"], expected)
    for name, tensor in kept.items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    assert kept["1.num_batches_tracked"] == 4


def test_the_average_asks_a_device_for_nothing() -> None:
    """torch's AveragedModel reads its count from the device, and so waits in each step for all that it has to do."""
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to("meta")  # tensors without values
    average = MovingAverage(module, 0.9)
    for _ in range(3):
        average.update()


def test_fp16_goes_on_with_its_loss_scale(tmp_path: Path) -> None:
    settings = Settings(**SETTINGS)

    def start() -> tuple[Learner, Iterator[Batch]]:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        return _learner(
            tmp_path,
            settings,
            Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)]),
        )

    whole, batches = start()
    file = io.BytesIO()
    for step in range(3):
        if step == 1:
            torch.save(whole.state(), file)
        set_seed(step)
        whole.step(batches, 1.0)
    cut, batches = start()
    next(batches)
    file.seek(0)
    cut.load(torch.load(file, weights_only=True))
    for step in (1, 2):
        set_seed(step)
        cut.step(batches, 1.0)
    states = whole.state(), cut.state()
    assert states[0]["precision"]["scale"] == 2.0**9, "doubled after two steps, one before and one after the cut"
    assert states[0]["precision"] == states[1]["precision"]
    for name, tensor in states[0]["network"].items():
        assert torch.equal(tensor, states[1]["network"][name]), name


@pytest.mark.parametrize("compiles", [False, True])
def test_what_a_setting_asks_too_much_of_is_said_in_one_line(tmp_path: Path, compiles: bool) -> None:
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    said = "--batch-size 4: the GPU's memory is full"
    if compiles:
        error = torch._dynamo.exc.InternalTorchDynamoError("No working C++ compiler found\n\nTraceback and more")
        said = r"--compile: torch can't compile the network here \(No working C\+\+ compiler found\); leave it out"
    learner, _ = _learner(tmp_path, Settings(**SETTINGS, compile=compiles), Fabric(accelerator="cpu", devices=1))

    def fail(number: int) -> Batch:
        raise error

    with pytest.raises(TrainingError, match=said), explain_torch(learner.settings):
        learner.step(map(fail, range(1)), 1.0)


class Clock:
    """Shows what it is set to, and each look at it takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_checkpoint_is_due_by_the_minute_and_sooner_when_an_epoch_has_ended(tmp_path: Path) -> None:
    clock = Clock()
    checkpoint = Checkpoint(tmp_path, Settings(checkpoint_minutes=10), "photos", clock=clock)
    assert not checkpoint.is_due(epoch_ended=False)
    assert checkpoint.is_due(epoch_ended=True), "nobody knows yet how long it takes"
    checkpoint.write({})  # in a second
    assert not checkpoint.is_due(epoch_ended=True)
    clock.now += PAUSE
    assert checkpoint.is_due(epoch_ended=True)
    assert not checkpoint.is_due(epoch_ended=False)
    clock.now += 600
    assert checkpoint.is_due(epoch_ended=False)


def test_a_process_that_does_not_write_the_checkpoint_never_asks_for_one(tmp_path: Path) -> None:
    """Ten minutes into a run of several processes, all but the first one asked for a checkpoint at every step."""
    clock = Clock()
    checkpoint = Checkpoint(tmp_path, Settings(), "photos", processes=2, is_writer=False, clock=clock)
    clock.now += 3600
    assert not checkpoint.is_due(epoch_ended=False)
    assert not checkpoint.is_due(epoch_ended=True)
    checkpoint.write({})
    assert not checkpoint.path.exists()


def test_short_epochs_are_not_written_one_by_one_and_the_end_is(tmp_path: Path) -> None:
    settings, fabric = Settings(**SETTINGS), Fabric(accelerator="cpu", devices=1)
    checkpoints: list[int] = []

    def train(last: int = 3) -> tuple[list[float], str]:
        """Losses and weights of a run that dies before epoch ``last`` is written, or ends with it."""
        checkpoint, prepared = Checkpoint(tmp_path, settings, "photos", clock=Clock()), _prepare(tmp_path, settings)

        def record(rows: list[Row]) -> None:
            checkpoints.append(checkpoint.path.stat().st_ino if checkpoint.path.exists() else 0)
            if len(rows) == last < 3:
                raise TrainingError("killed")

        rows = fit(fabric, prepared, settings, checkpoint, record)
        return [row["val_loss"] for row in rows], fingerprint_weights(prepared.model.network.state_dict())

    whole = train()
    first, *others = checkpoints
    assert first == 0
    assert others[0] == others[1] > 0, "the second epoch took less than the pause, and was not written"
    assert train() == whole
    assert len(checkpoints) == 3, "the end was written: nothing was left to train"

    (tmp_path / "run.ckpt").unlink()
    with pytest.raises(TrainingError, match="killed"):
        train(last=2)
    assert train() == whole
    assert len(checkpoints) == 3 + 2 + 2, "it went on from the end of the first epoch"
