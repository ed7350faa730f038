"""catdog export as a user meets it: one line for an error, a table for a person, a line of JSON for a program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from catdog.classifier import Classifier
from catdog.dataset import Manifest
from catdog.training.model import load_checkpoint, save_checkpoint
from tests.forked import Forked

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return Forked("export", *arguments).end()


def run_anew(*arguments: object) -> subprocess.CompletedProcess[str]:
    # torch 2.6 leaves a temporary folder of its own to the interpreter's end.
    warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]
    command = [sys.executable, *warnings, "-m", "export", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_proven_file_is_written_and_reported(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    done = run_anew(run_folder, "--out", out, "--data", dataset.root)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["out"] == str(out)
    assert report["failures"] == []
    assert [row["kind"] for row in report["rows"]] == ["torch", "float"]
    assert "on 24 photos (12 test, 12 val)" in done.stderr
    assert Classifier(out).contract.class_names == ("cat", "dog")


def test_a_failed_proof_exits_1_and_leaves_no_file(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    model = load_checkpoint(run_folder)
    contract = model.contract
    torch.nn.init.constant_(model.network.get_parameter("fc.bias"), torch.nan)  # a training that diverged
    save_checkpoint(tmp_path / "run", model.network, contract)
    done = run(tmp_path / "run", "--out", tmp_path / "out" / "model.onnx", "--data", dataset.root)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("catdog export: error: torch: probabilities that are no numbers")
    assert not list((tmp_path / "out").iterdir())


def test_a_user_s_mistake_is_one_line_and_exits_2(run_folder: Path, dataset: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    for arguments, said in (
        ((run_folder, "--out", out), "catdog export: error: --data is needed"),
        ((tmp_path, "--out", out, "--data", dataset.root), "no run folder, since there is no model.safetensors in it"),
        ((run_folder, "--out", out, "--data", tmp_path / "nowhere"), "nowhere"),
        ((run_folder, "--out", out, "--data", dataset.root, "--int8"), "--min-photos"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_help_comes_without_torch_and_shows_examples() -> None:
    assert "catdog export runs/first --out model.onnx" in run_anew("--help").stdout
    names = "import sys, export.__main__; print('torch' in sys.modules, 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", names], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_file_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "mine.onnx"
    out.write_bytes(b"mine")
    refused = run("runs/none", "--out", out)
    assert refused.returncode == 2
    assert f"--out {out}: is there already, and not from this command" in refused.stderr
    assert out.read_bytes() == b"mine"
