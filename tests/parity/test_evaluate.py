"""catdog evaluate as a user meets it, on a checkpoint and on an ONNX file."""

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
from PIL import Image

from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.dataset import Manifest
from catdog.export.onnx_file import to_onnx, write_onnx
from catdog.training.model import answer_photos, load_checkpoint, new_network, save_checkpoint
from tests.conftest import FAST_CONTRACT, TINY_CONTRACT, build_fast_model, build_tiny_model
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
CHARTS = {"confusion.png", "roc.png", "pr.png", "reliability.png", "coverage.png", "mistakes.png", "least_sure.png"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return Forked("evaluate", *arguments, COLUMNS="120").end()


def run_anew(*arguments: object) -> subprocess.CompletedProcess[str]:
    # torch 2.6 leaves a temporary folder of its own to the interpreter's end.
    warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]
    command = [sys.executable, *warnings, "-m", "catdog.training.evaluate", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_a_checkpoint_and_its_onnx_file_are_measured_alike(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    model = load_checkpoint(run_folder)
    contract = model.contract
    write_onnx(to_onnx(model), contract, tmp_path / "model.onnx")
    measured = []
    for start, given, out in (
        (run_anew, run_folder, tmp_path / "torch"),
        (run, tmp_path / "model.onnx", tmp_path / "onnx"),
    ):
        done = start(given, dataset.root, "--out", out)
        assert done.returncode == 0, done.stderr
        assert f"{given} on 12 photos (test)" in done.stderr
        headline = json.loads(done.stdout)
        metrics = json.loads((out / "metrics.json").read_text())
        assert {path.name for path in out.iterdir()} == CHARTS | {"metrics.json", "predictions.csv"}
        for name in CHARTS:
            with Image.open(out / name) as chart:
                assert min(chart.size) > 50
        assert (metrics["photos"], metrics["split"], headline["photos"]) == (12, "test", 12)
        assert metrics["model_fingerprint"] == contract.model_fingerprint
        assert metrics["data_fingerprint"] == dataset.fingerprint
        assert headline["accuracy_95"] == metrics["accuracy_95"]
        assert metrics["at_threshold"]["threshold"] == 0.6
        assert metrics["by_source"]["made-up"]["photos"] == 12
        with (out / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == [photo.path for photo in dataset.of("test")]
        wrong = sum((float(row[row["truth"]]) < 0.5) for row in rows)
        assert metrics["errors"] == wrong
        measured.append(([float(row["cat"]) for row in rows], metrics["log_loss"]))
    assert measured[0][0] == pytest.approx(measured[1][0], abs=1e-4)
    assert measured[0][1] == pytest.approx(measured[1][1], abs=1e-4)
    answers = Classifier(tmp_path / "model.onnx").predict([dataset.root / p.path for p in dataset.of("test")])
    assert [(a.probabilities or {})["cat"] for a in answers] == pytest.approx(measured[1][0], abs=1e-5)


def test_fast_is_measured_as_every_command_answers_and_said(
    run_folder: Path, dataset: Manifest, tmp_path: Path
) -> None:
    fast_model = tmp_path / "fast.onnx"
    fast_model.write_bytes(build_fast_model(FAST_CONTRACT.with_(fast_bound=0.8)))
    done = run(fast_model, dataset.root, "--fast", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == f"{fast_model} --fast"
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        measured = [float(row["confidence"]) for row in csv.DictReader(file)]
    photos = [dataset.root / photo.path for photo in dataset.of("test")]
    assert measured == [answer.confidence for answer in Classifier(fast_model, fast=True).predict(photos)]
    assert measured != [answer.confidence for answer in Classifier(fast_model).predict(photos)]
    refused = run(run_folder, dataset.root, "--fast")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert f"{run_folder}: its trained weights have no fast pass; name an ONNX file" in line


def test_raw_photos_are_all_used_and_nothing_is_written_unasked(tiny_model: Path, tmp_path: Path) -> None:
    for label, colour in (("cats", (250, 0, 0)), ("dogs", (0, 0, 250))):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for i in range(5):
            Image.effect_noise((60, 60), 90).convert("RGB").point(lambda v: v // 4).save(tmp_path / "noise.png")
            with Image.open(tmp_path / "noise.png") as noise:
                tinted = Image.blend(noise, Image.new("RGB", noise.size, colour), 0.5)
                tinted.save(tmp_path / "raw" / label / f"{i}.png")
    (tmp_path / "raw" / "cats" / "broken.jpg").write_bytes(b"no photo")
    before = sorted(tmp_path.rglob("*"))
    done = run(tiny_model, tmp_path / "raw")
    assert done.returncode == 0, done.stderr
    headline = json.loads(done.stdout)
    assert (headline["split"], headline["photos"], headline["errors"], headline["roc_auc"]) == ("all", 10, 0, 1)
    assert "left out: 1 " in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_a_training_or_of_photos_is_not_written_to(
    run_folder: Path, dataset: Manifest, tiny_model: Path, tmp_path: Path
) -> None:
    trained = shutil.copytree(run_folder, tmp_path / "run")
    (trained / "metrics.json").write_text("of the training")
    before = sorted(trained.iterdir())
    done = run(tiny_model, dataset.root, "--out", trained)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--out {trained}: holds files of something else; give a new or an empty folder" in done.stderr
    assert sorted(trained.iterdir()) == before
    for _ in range(2):  # its own folder is written to again
        assert run(tiny_model, dataset.root, "--out", tmp_path / "evaluation").returncode == 0


def test_training_photos_come_with_a_warning(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    contract = Contract.read(tmp_path / "run" / "contract.json").with_(data_fingerprint=dataset.fingerprint)
    (tmp_path / "run" / "contract.json").write_text(contract.to_json())
    for split, warned in (("train", True), ("val", False)):
        done = run(tmp_path / "run" / "model.safetensors", dataset.root, "--split", split)
        assert done.returncode == 0, done.stderr
        assert ("warning: the model was trained on some of these photos" in done.stderr) is warned


def test_what_can_not_be_measured_is_one_line_and_exit_code_2(
    run_folder: Path, dataset: Manifest, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "birds.onnx").write_bytes(build_tiny_model(TINY_CONTRACT.with_(class_names=("bird", "dog")).to_json()))
    (tmp_path / "file").write_text("nonsense")
    trained = tmp_path / "trained"
    trained.mkdir()
    Manifest(trained, dataset.class_names, tuple(dataset.of("train"))).write()
    damaged = shutil.copytree(dataset.root, tmp_path / "damaged")
    photo = damaged / dataset.of("test")[3].path
    photo.write_bytes(photo.read_bytes()[:300])
    for arguments, said in (
        ((tmp_path / "absent", dataset.root), "absent: no such run folder"),
        ((tmp_path / "absent.onnx", dataset.root), "absent.onnx: no such run folder, model.safetensors or .onnx file"),
        ((tmp_path / "file", dataset.root), "not a readable safetensors file"),
        ((tmp_path / "birds.onnx", dataset.root), "photos of cat, dog, but the model answers bird, dog"),
        ((tiny_model, trained), "no photo in the test split"),
        ((tiny_model, tmp_path / "nowhere"), "nowhere"),
        ((tiny_model, tmp_path / "file"), "file"),
        ((tiny_model, dataset.root, tmp_path), "is a dataset, which is evaluated alone"),
        ((tiny_model, damaged), photo.name),
        ((tiny_model, dataset.root, "--out", tmp_path / "file"), "file: is a file; give a folder"),
        ((tiny_model, dataset.root, "--out", dataset.root / "out"), "lies in"),
        (("", dataset.root), "'': no such run folder"),
        ((tiny_model, dataset.root, "--float"), "has no float weights; name a run folder with model.safetensors"),
        ((tiny_model, dataset.root, "--explain"), "--explain draws on the contact sheets; give --out"),
        ((tiny_model, dataset.root, "--explain", "--out", tmp_path / "x"), "can't show where it looked"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith("catdog evaluate: error: ")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, catdog.training.evaluate; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    done = run_anew("--help")
    assert done.returncode == 0
    assert "catdog evaluate embedded data" in done.stdout


def test_a_typo_in_a_path_does_not_wait_for_torch() -> None:
    for arguments in (["embedded", "nowhere"], ["no-such-run", "tests"]):
        code = (
            "import sys; from catdog.training.evaluate import app\n"
            "try: app()\n"
            "except SystemExit as end: sys.exit('torch' in sys.modules or end.code)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 2, done.stderr


def test_the_sheets_show_where_a_model_looked_and_embedded_is_measured_in_float(
    dataset: Manifest, looking_model: Path, tmp_path: Path
) -> None:
    """Torch's float weights and an ONNX file, both with evidence."""
    float_contract = Contract.read(ROOT / "models" / "embedded" / "contract.json")
    for model, more in (("embedded", ["--float"]), (looking_model, [])):
        sheets = {}
        for way in ([], ["--explain"]):
            out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            if not way and more:
                continue  # torch takes its time
            done = run(model, dataset.root, *more, *way, "--out", out)
            assert done.returncode == 0, done.stderr
            with Image.open(out / "least_sure.png") as sheet:
                sheets[bool(way)] = np.asarray(sheet.convert("RGB"))
        headline = json.loads(done.stdout)
        if more:
            assert headline["model"] == "embedded --float"
            assert headline["model_fingerprint"] == float_contract.model_fingerprint
            with (out / "predictions.csv").open(newline="") as file:
                answers = [float(row["cat"]) for row in csv.DictReader(file)]
            paths = [dataset.root / photo.path for photo in dataset.of("test")]
            direct = load_checkpoint(ROOT / "models" / "embedded")
            assert answers == pytest.approx([row[0] for row in answer_photos(direct, paths)], abs=1e-4)
        else:
            assert sheets[True].shape == sheets[False].shape
            assert sheets[True].mean() < sheets[False].mean() - 1, "dim where nothing spoke for the answer"


def test_a_cnn_can_not_show_where_it_looked(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    contract = Contract.read(run_folder / "contract.json").with_(arch="cnn")
    save_checkpoint(tmp_path / "run", new_network("cnn", 2), contract)
    done = run(tmp_path / "run", dataset.root, "--explain", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "run: a cnn can't show where it looked; a ResNet can" in done.stderr
    assert not (tmp_path / "out").exists()
