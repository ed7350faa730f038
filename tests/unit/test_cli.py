"""The command ``catdog``: its help, its suggestions, and that it imports no more than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog import __version__
from catdog.cli import ROOMS

ROOT = Path(__file__).parents[2]


def catdog(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "catdog", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        check=False,
    )


def loaded_by(*arguments: str) -> set[str]:
    """The top-level packages that ``catdog ARGUMENTS`` imports."""
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "catdog", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return {line.rsplit("|", 1)[1].strip().partition(".")[0] for line in listed.stderr.splitlines() if "|" in line}


def test_help_lists_every_command_and_imports_none() -> None:
    shown = catdog("--help").stdout
    assert all(f"\n  {name} " in shown for name in ROOMS)
    assert "catdog predict cat.jpg" in shown
    assert catdog().stdout + catdog().stderr == shown
    assert not loaded_by("--help") & {"onnxruntime", "numpy", "PIL", "torch", "boto3", "rich", "yaml"}


def test_predict_s_help_imports_no_torch_and_no_cloud() -> None:
    assert not loaded_by("predict", "--help") & {"torch", "boto3", "obstore", "rich", "pyarrow", "matplotlib", "yaml"}


def test_version() -> None:
    assert catdog("--version").stdout == f"catdog {__version__}\n"


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_every_command_has_help_with_its_own_name(name: str) -> None:
    shown = catdog(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"sage: catdog {name}" in shown.stdout
    assert not [room.old_name for room in ROOMS.values() if room.old_name in shown.stdout]


def test_subcommands_of_aws_say_the_new_names_too() -> None:
    shown = catdog("aws", "invoke", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "catdog aws invoke" in shown.stdout
    assert "python -m" not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (["predct"], "predict"),
        (["evalute", "embedded"], "evaluate"),
        (["predict", "a.jpg", "--treshold", "1"], "--threshold"),
        (["train", "--oputput", "x"], "--output"),
    ],
    ids=" ".join,
)
def test_a_mistyped_word_gets_a_suggestion(arguments: list[str], suggested: str) -> None:
    done = catdog(*arguments)
    assert done.returncode == 2
    assert suggested in done.stderr.splitlines()[-1]


def test_the_shell_completes_commands_and_their_options() -> None:
    def complete(words: str) -> str:
        return catdog(_CATDOG_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))).stdout

    assert complete("catdog pre").split() == ["predict"]
    assert "--threshold" in complete("catdog predict --thr").split()
    assert "invoke" in complete("catdog aws inv").split()


def test_exit_codes_pass_through(tmp_path: Path, tiny_model: Path) -> None:
    assert catdog("predict", str(tmp_path / "no.jpg"), "--model", str(tiny_model)).returncode == 1
    assert catdog("predict", "a.jpg", "--model", "no.onnx").returncode == 2
    assert catdog("train", "--lr", "much").returncode == 2
