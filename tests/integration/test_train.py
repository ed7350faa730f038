"""catdog train from photos to a run folder, with a real network on made photos: reddish "cats", bluish "dogs"."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from catdog.contract import Contract
from catdog.errors import TrainingError
from catdog.files import lock_folder
from catdog.training.cli import main
from catdog.training.find_lr import suggest_rate
from catdog.training.metrics import wilson_interval
from catdog.training.model import load_checkpoint, new_network
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
SMALL = ["--weights", "none", "--size", "64", "--batch-size", "8", "--workers", "0", "--device", "cpu"]
SMALL += ["--frozen-epochs", "0", "--epochs", "2"]


def paint(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name, tint in (("cats", (60, 0, 0)), ("dogs", (0, 0, 60))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(counts[name]):
            coarse = rng.integers(0, 190, (6, 6, 3)) + np.array(tint)
            photo = Image.fromarray(coarse.astype(np.uint8)).resize((80, 70), Image.Resampling.BICUBIC)
            photo.save(folder / name / f"{index}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"), {"cats": 60, "dogs": 60})


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "first"
    assert main(["--data", str(photos), "--output", str(output), *SMALL, "--export", "False"]) == 0
    return output


def test_a_run_folder_holds_everything(finished: Path) -> None:
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert names == {
        "model.safetensors",
        "contract.json",
        "metrics.json",
        "history.csv",
        "config.yaml",
        "reports/curves.png",
        "reports/dataset.json",
        "reports/confusion_val.png",
        "reports/confusion_test.png",
    }
    metrics = json.loads((finished / "metrics.json").read_text())
    contract = Contract.read(finished / "contract.json")
    assert 0.5 <= contract.threshold <= 1
    assert contract.class_names == ("cat", "dog")
    assert contract.input_size == 64
    assert contract.quality["test_accuracy"] == metrics["test"]["accuracy"]
    assert (
        sum(map(sum, metrics["test"]["confusion_matrix"]))
        == metrics["test"]["photos"]
        == contract.quality["test_photos"]
    )
    history = (finished / "history.csv").read_text().splitlines()
    assert history[0] == "epoch,train_loss,train_accuracy,val_loss,val_accuracy,lr,photos_per_second"
    assert len(history) == 3
    for chart in finished.rglob("*.png"):
        with Image.open(chart) as image:
            assert min(image.size) > 300


def test_its_last_words_say_what_was_written_and_what_was_not(
    finished: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    untrained = ["--weights", str(finished / "model.safetensors"), "--frozen-epochs", "0", "--epochs", "0"]
    settings = ["--config", str(finished / "config.yaml"), *untrained, "--export"]

    whole = tmp_path / "a run"
    assert main([*settings, "True", "--output", str(whole)]) == 0
    contract = Contract.read(whole / "contract.json")
    assert capfd.readouterr().err.splitlines()[-3:] == [
        f"wrote {whole}: model.safetensors and model.onnx, with their contract and numbers; charts in {whole}/reports",
        f"temperature {contract.temperature:.4g}; under a confidence of {contract.threshold:.4g} its answer is unsure",
        f"next: catdog predict photo.jpg --model '{whole}'",
    ]

    bare = tmp_path / "bare"
    assert main([*settings, "False", "--output", str(bare)]) == 0
    said = capfd.readouterr().err.splitlines()[-4:]
    assert said[0].startswith(f"wrote {bare}: model.safetensors, with its contract")
    assert said[2] == f"no model.onnx was written; make it: catdog export {bare} --out {bare}/model.onnx"
    command, says = said[2].split(": ", 1)[1].split(), said[3].removeprefix("next: ").split()
    assert command[0] == "catdog"
    assert Forked(*command[1:]).end().returncode == 0
    says[2] = str(photos / "cats/0.jpg")
    assert subprocess.run([sys.executable, "-m", *says], cwd=ROOT, check=False).returncode == 0

    failed = tmp_path / "failed"
    (failed / "model.onnx").mkdir(parents=True)  # where the export can't write its file
    (failed / "history.csv").touch()
    assert main([*settings, "True", "--output", str(failed)]) == 2
    said = capfd.readouterr().err.splitlines()[-4:]
    assert said[1] == f"no model.onnx was written; make it: catdog export {failed} --out {failed}/model.onnx"
    assert said[3].startswith(f"catdog train: error: --out {failed}/model.onnx: is a folder")


def test_an_export_that_fails_in_a_sagemaker_job_costs_no_model(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SageMaker uploads no model.tar.gz of a job that fails."""
    monkeypatch.setenv("TRAINING_JOB_NAME", "job-1")
    (tmp_path / "model" / "model.onnx").mkdir(parents=True)  # where the export can't write its file
    (tmp_path / "model" / "history.csv").touch()
    untrained = ["--weights", str(finished / "model.safetensors"), "--frozen-epochs", "0", "--epochs", "0"]
    places = ["--output", str(tmp_path / "model"), "--checkpoint-dir", str(tmp_path / "checkpoints")]
    assert main(["--config", str(finished / "config.yaml"), *untrained, "--export", "True", *places]) == 0
    said = capfd.readouterr()
    assert "model.onnx: is a folder" in said.err
    assert "catdog aws status job-1 says how to export it" in said.err
    assert said.out.splitlines()[-1].endswith(" exported=0")
    load_checkpoint(tmp_path / "model")


def test_the_saved_model_is_the_best_epoch(finished: Path) -> None:
    rows = [line.split(",") for line in (finished / "history.csv").read_text().splitlines()[1:]]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["val"]["accuracy"] == pytest.approx(max(float(row[4]) for row in rows), abs=1e-6)


def test_the_same_config_and_seed_give_the_same_weights(finished: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    config = str(finished / "config.yaml")
    assert main(["--config", config, "--output", str(again), "--deterministic"]) == 0
    deterministic = [torch.backends.cudnn.deterministic]
    assert main(["--config", config, "--output", str(other), "--seed", "1"]) == 0
    assert [*deterministic, torch.backends.cudnn.deterministic] == [True, False]
    fingerprints = [Contract.read(f / "contract.json").model_fingerprint for f in (finished, again, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_two_threads_learn_the_same_each_time(photos: Path, tmp_path: Path) -> None:
    """All other trainings of tests have one."""
    before, outputs = torch.get_num_threads(), (tmp_path / "one", tmp_path / "two")
    torch.set_num_threads(2)
    try:
        for output in outputs:
            arguments = ["--data", str(photos), "--output", str(output), *SMALL, "--arch", "cnn", "--epochs", "1"]
            assert main([*arguments, "--size", "32", "--batch-size", "24", "--export", "False"]) == 0
    finally:
        torch.set_num_threads(before)
    one, two = (Contract.read(output / "contract.json").model_fingerprint for output in outputs)
    assert one == two


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_learns_the_same(photos: Path, tmp_path: Path) -> None:
    """Of the head alone, since a whole network takes minutes to compile."""
    weights = tmp_path / "weights.safetensors"
    state = new_network("resnet18", 1000).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    arguments = ["--data", str(photos), *SMALL, "--weights", str(weights), "--amp", "False", "--export", "False"]
    arguments += ["--frozen-epochs", "2", "--epochs", "0", "--dropout", "0"]  # whose dice are others when compiled
    assert main([*arguments, "--output", str(tmp_path / "plain")]) == 0
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments, "--output", str(tmp_path / "compiled"), "--compile"],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, compiled = (
        list(csv.DictReader((tmp_path / name / "history.csv").read_text().splitlines()))
        for name in ("plain", "compiled")
    )
    assert len(plain) == len(compiled) == 2
    for name in ("train_loss", "val_loss"):
        losses = [[float(row[name]) for row in rows] for rows in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_weights_can_be_measured_as_they_are(finished: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(photos), "--output", str(tmp_path / "run"), *SMALL, "--epochs", "0", "--export", "False"]
    weights = str(finished / "model.safetensors")
    assert main([*arguments, "--weights", f"{weights},{weights}"]) == 0
    assert (tmp_path / "run/metrics.json").read_text() == (finished / "metrics.json").read_text()
    assert load_checkpoint(tmp_path / "run").contract == load_checkpoint(finished).contract


def test_a_network_from_scratch_has_to_learn(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(photos), "--output", str(tmp_path / "run"), *SMALL, "--epochs", "0"]) == 2
    assert "have to learn" in capsys.readouterr().err.splitlines()[-1]


def test_a_finished_run_is_not_overwritten(finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "model.safetensors").read_bytes()
    assert main(["--data", str(photos), "--output", str(finished), *SMALL]) == 2
    assert "already holds a finished run" in capsys.readouterr().err
    assert (finished / "model.safetensors").read_bytes() == before


def test_only_a_new_folder_an_empty_one_or_a_run_s_own_is_written_to(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(photos), *SMALL, "--export", "False"]
    album = paint(tmp_path / "album", {"cats": 1, "dogs": 1})
    before = sorted(album.rglob("*"))
    assert main([*arguments, "--output", str(album)]) == 2
    assert f"--output {album}: holds files of something else" in capsys.readouterr().err
    assert sorted(album.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    tried = [*arguments, "--output", str(tmp_path / "empty"), "--arch", "cnn", "--train-size", "32", "--find-lr"]
    assert main(tried) == 0
    assert main(tried) == 0, "its own file is no obstacle"


def test_two_trainings_do_not_share_a_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    with lock_folder("--output", output, "training"):
        assert main(["--data", str(photos), "--output", str(output), *SMALL]) == 2
        assert f"--output {output}: another training works there" in capsys.readouterr().err
    assert not output.exists(), "a folder that was made for the lock alone goes with it"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as a full disk would")
def test_a_disk_that_fills_up_is_said_in_one_line(photos: Path, tmp_path: Path) -> None:
    import resource

    output = tmp_path / "run"
    arguments = ["--data", str(photos), "--output", str(output), "--arch", "cnn", "--size", "48", "--train-size", "32"]
    arguments += ["--epochs", "1", "--device", "cpu", "--workers", "0", "--cache", "none"]
    run = Forked("train", *arguments)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    done = run.end()
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"catdog train: error: {output}/checkpoints/run.ckpt: the checkpoint can't be written (")
    assert "File too large" in last
    assert "Traceback" not in done.stderr


def test_a_typo_in_a_path_does_not_wait_for_torch(photos: Path, tmp_path: Path) -> None:
    code = "import sys; from catdog.training.cli import main; end = main(); sys.exit('torch' in sys.modules or end)"
    for arguments in (["--data", "nowhere", "--output", str(tmp_path)], ["--data", str(photos)], ["--output", "x"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 2, done.stderr


def test_sagemaker_channels_and_metric_lines(tmp_path: Path) -> None:
    channels = {
        "SM_CHANNEL_TRAIN": str(paint(tmp_path / "train", {"cats": 16, "dogs": 16}, 1)),
        "SM_CHANNEL_VALIDATION": str(paint(tmp_path / "validation", {"cats": 5, "dogs": 6}, 2)),
        "SM_CHANNEL_TEST": str(paint(tmp_path / "test", {"cats": 7, "dogs": 8}, 3)),
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "output"),
    }
    process = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SMALL, "--epochs", "1", "--export", "False", "--amp", "True"],
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            **channels,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    epoch, final = process.stdout.splitlines()  # stdout holds metric lines and nothing else
    values = dict(item.split("=") for item in epoch.split())
    assert {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= values.keys()
    assert all(float(value) >= 0 for value in values.values())
    assert "test_f1=" in final
    metrics = json.loads((tmp_path / "model/metrics.json").read_text())
    assert (metrics["val"]["photos"], metrics["test"]["photos"]) == (11, 15)
    assert (tmp_path / "output/curves.png").exists()
    config = yaml.safe_load((tmp_path / "model/config.yaml").read_text())
    assert config["data"] == channels["SM_CHANNEL_TRAIN"]


def test_a_diverging_run_stops_with_one_clear_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["--data", str(photos), "--output", str(output), *SMALL, "--lr", "99", "--warmup", "0", "--epochs", "9"]
    assert main([*arguments, "--weight-decay", "9"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("catdog train: error: the loss became nan in epoch")
    assert "lower --lr" in message
    assert not (output / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "no-such-folder"], "no-such-folder"),
        (["--epochz", "3"], "did you mean --epochs"),
        ([], "--data is needed"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    output = tmp_path / "run"
    assert main([*arguments, "--output", str(output)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith("catdog train: error: ")
    assert message in error[0]
    assert not output.exists()


def test_in_a_sagemaker_job_the_reason_is_where_the_toolkit_looks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINING_JOB_NAME", "job-1")
    assert main(["--data", "no-such-folder", "--output", str(tmp_path / "run"), "--checkpoint-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("Exception: no-such-folder")


def test_one_class_only_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = paint(tmp_path / "photos", {"cats": 40, "dogs": 0})
    assert main(["--data", str(photos), "--output", str(tmp_path / "run"), *SMALL]) == 2
    assert "dog" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_a_real_run_loads(finished: Path) -> None:
    model = load_checkpoint(finished)
    contract = model.contract
    assert not model.training
    assert contract.arch == "resnet18"


def test_the_learning_rate_test_suggests_one_and_writes_no_model(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["--data", str(photos), "--output", str(output), "--arch", "cnn", "--size", "48", "--train-size", "32"]
    assert main([*arguments, "--batch-size", "16", "--device", "cpu", "--find-lr"]) == 0
    name, _, value = capsys.readouterr().out.strip().partition("=")
    assert name == "suggested_lr"
    assert 1e-4 <= float(value) <= 10
    assert [str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()] == ["reports/find_lr.png"]


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    assert suggest_rate([0.001, 0.01, 0.1, 1.0], [0.70, 0.69, 0.40, 0.55]) == 0.1
    # It blows up at 0.1; behind that it falls faster than ever.
    assert suggest_rate([0.001, 0.01, 0.1, 1.0, 2.0], [0.70, 0.60, 1.25, 0.65, 0.50]) == 0.01
    with pytest.raises(TrainingError, match="no learning rate lowered the loss"):
        suggest_rate([0.001, 0.01, 0.1, 1.0], [0.70, 0.71, 1.50, 0.60])
    with pytest.raises(TrainingError, match="no learning rate lowered the loss"):
        suggest_rate([0.001, 0.01], [0.7, 0.8])


def test_copies_count_once_in_a_training_s_own_numbers(finished: Path, photos: Path, tmp_path: Path) -> None:
    for photo in photos.rglob("*.jpg"):
        for number in range(2):
            twin = tmp_path / "photos" / photo.parent.name / f"{photo.stem}-{number}.jpg"
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(photo.read_bytes())
    given = [
        "--weights",
        str(finished / "model.safetensors"),
        "--frozen-epochs",
        "0",
        "--epochs",
        "0",
        "--export",
        "False",
    ]
    output = tmp_path / "run"
    settings = ["--config", str(finished / "config.yaml"), "--data", str(tmp_path / "photos"), "--output", str(output)]
    assert main([*settings, *given]) == 0
    for numbers in json.loads((output / "metrics.json").read_text()).values():
        trials = numbers["photos"] / 2
        expected = wilson_interval(numbers["accuracy"] * trials, trials)
        assert numbers["accuracy_95"] == pytest.approx(expected)
