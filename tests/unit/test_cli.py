"""The command ``catdog``: its help, its suggestions, and that it imports no more than it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from catdog import __version__
from catdog.cli import ROOMS

ROOT = Path(__file__).parents[2]
OLD_NAMES = re.compile(r"python -m (?:catdog\.|export)[a-z.]*|python train\.py|catdog\.[a-z.]+: error")


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
    assert not OLD_NAMES.search(shown.stdout)
    if name != "lambda":  # whose one command says both
        assert re.search(r"^ *(examples|.* costs):$", shown.stdout, re.I | re.M)
        assert re.search(r"^ *exit codes: 0 ", shown.stdout, re.I | re.M)


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "catdog.predict"],
        ["-m", "catdog.score"],
        ["-m", "catdog.dataset"],
        ["train.py"],
        ["-m", "catdog.training.tune"],
        ["-m", "catdog.training.evaluate"],
        ["-m", "export"],
        ["-m", "catdog.export"],
        ["-m", "catdog.aws", "invoke"],
        ["-m", "catdog.doctor"],
    ],
    ids=" ".join,
)
def test_the_older_names_work_and_say_the_new_ones(command: list[str]) -> None:
    shown = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sage: catdog " in shown.stdout
    assert not OLD_NAMES.search(shown.stdout)


def test_what_users_read_says_the_new_names() -> None:
    """docs/experiments.md and docs/benchmarks.md keep the commands that were run."""
    texts = [*ROOT.glob("catdog/**/*.py"), *ROOT.glob("catdog/assets/*.yaml"), *ROOT.glob("docs/*.yaml")]
    texts += [
        ROOT / "docs" / name for name in ("scoring.md", "training.md", "sagemaker.md", "model_card.md", "aws/README.md")
    ]
    of_old = {path: OLD_NAMES.findall(path.read_text("utf-8")) for path in texts}
    assert {path.relative_to(ROOT).as_posix(): found for path, found in of_old.items() if found} == {
        "catdog/cli.py": ["python -m catdog.predict"],  # which says that it is the same
        "catdog/score/__main__.py": ["python -m catdog.score"],
    }


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


def test_a_runtime_that_cannot_be_kept_is_one_line(tmp_path: Path) -> None:
    done = catdog("page", "--out", str(tmp_path / "site"), XDG_CACHE_HOME=str(tmp_path / ("x" * 300)))
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
    line = done.stderr.splitlines()[-1]  # ONNX Runtime warns before it that it can't keep something there
    assert line.startswith(("catdog page: error: onnxruntime-web", "catdog page: error: npm"))
    assert "with --runtime" in line
    assert not (tmp_path / "site").exists()
