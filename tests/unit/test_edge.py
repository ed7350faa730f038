"""How every command ends: one line and an exit code for what its user can cause, a traceback for bugs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catdog.edge import edge
from catdog.errors import DataError, NothingUsableError, TrainingError, TrainingStopped
from catdog.extras import EXTRAS, name_extra

ROOT = Path(__file__).parents[2]
SITECUSTOMIZE = """
import os, signal, sys
class Importer:
    def find_spec(self, name, path=None, target=None):
        if name in os.environ.get("MISSING", "").split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == os.environ.get("CTRL_C_AT"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Importer())
"""
"""Makes packages missing, or presses Ctrl-C when one is imported."""
NOT_CORE = sorted({module for extra in EXTRAS.values() for module in extra.modules})
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, photo: Callable[..., bytes]) -> Run:
    """run("catdog", "predict", "red.png") -> the finished process, in a folder that holds red.png."""
    (tmp_path / "red.png").write_bytes(photo("red"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)

    def go(*command: str, shell: str = "", missing: list[str] | None = None, ctrl_c_at: str = "") -> Any:
        environment = os.environ | {
            "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}",
            "MISSING": " ".join(missing or []),
            "CTRL_C_AT": ctrl_c_at,
        }
        return subprocess.run(
            ["bash", "-c", f'"$@" {shell}', "bash", sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # CI may have it ignored
        )

    return go


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("a.zip: no such file"), 2, "catdog x: error: a.zip: no such file\n"),
        (DataError("two\nlines"), 2, "catdog x: error: two\\nlines\n"),
        (NothingUsableError("nothing"), 1, "catdog x: error: nothing\n"),
        (TrainingError("the loss became nan"), 2, "catdog x: error: the loss became nan\n"),
        (TrainingStopped("stopped by SIGTERM", signal.SIGTERM), 143, "catdog x: stopped by SIGTERM\n"),
        (KeyboardInterrupt(), 130, "catdog x: interrupted; start it again\n"),
        (
            ModuleNotFoundError("No module", name="pyarrow.lib"),
            2,
            "pyarrow.lib is not installed; pip install '.[score]'",
        ),
        (OSError(28, "No space left on device"), 2, "no space is left"),
        (RuntimeError("write failed: No space left on device"), 2, "no space is left"),
    ],
    ids=repr,
)
def test_what_a_user_can_cause_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @edge("catdog x", failed=NothingUsableError, advice="start it again")
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError(), ModuleNotFoundError("x", name="catdog.nowhere"), BrokenPipeError(), OSError(5, "EIO")]
)
def test_bugs_stay_what_they_are(bug: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(bug)), capfd.disabled(), edge("catdog x"):
        raise bug


def test_a_missing_package_leads_to_the_extra_that_the_command_needs() -> None:
    assert [name_extra("torch"), name_extra("torch", "tune"), name_extra("pyarrow", "tune")] == [
        "train",
        "tune",
        "score",
    ]
    assert [name_extra("botocore.config", "aws"), name_extra("numpy"), name_extra("catdog x")] == ["aws", None, None]


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["-m", "catdog.score", "red.png", "--out", "out.csv"], "score"),
        (["-m", "catdog.aws", "ps"], "aws"),
        (["-m", "catdog.training.tune", "red.png", "--data", ".", "--output", "runs"], "tune"),
        (["-m", "catdog.training.evaluate", "embedded", "."], "train"),
        (["-m", "export", "run", "--out", "m.onnx"], "export"),
        ([str(ROOT / "train.py"), "--data", ".", "--output", "runs"], "train"),
        (["-m", "catdog", "score", "red.png", "--out", "out.csv"], "score"),
        (["-m", "catdog", "aws", "ps"], "aws"),
        (["-m", "catdog", "train", "--data", ".", "--output", "runs"], "train"),
    ],
    ids=" ".join,
)
def test_in_a_core_only_install_the_missing_extra_is_named(
    run: Run, tmp_path: Path, command: list[str], extra: str
) -> None:
    done = run(*command, missing=NOT_CORE)
    assert done.returncode == 2
    (line,) = lines(done)
    assert line.endswith(f" is not installed; pip install '.[{extra}]'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["red.png", "site"]


@pytest.mark.parametrize(
    "command", ["predict", "score", "dataset", "train", "tune", "evaluate", "export", "aws", "aws ps"]
)
def test_help_needs_no_extra(run: Run, command: str) -> None:
    done = run("-m", "catdog", *command.split(), "--help", missing=NOT_CORE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().startswith(f"usage: catdog {command}")


def test_predict_and_doctor_work_in_a_core_only_install(run: Run) -> None:
    assert '"label": ' in run("-m", "catdog", "predict", "red.png", missing=NOT_CORE).stdout
    examined = run("-m", "catdog", "doctor", missing=NOT_CORE)
    assert examined.returncode == 0, examined.stderr
    assert "collection: pip install '.[score]'\n" in examined.stdout
    assert re.search(r"heic +read HEIC photos, as phones make them: pip install '\.\[heic\]'", examined.stdout)


COMMANDS = (
    ["-m", "catdog.predict", "red.png"],
    ["-m", "catdog", "predict", "red.png"],
    ["-m", "catdog.score", "red.png", "--out", "out.csv"],
    ["-m", "catdog", "doctor"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_closed_standard_output_is_said_before_anything_is_done(run: Run, tmp_path: Path, command: list[str]) -> None:
    done = run(*command, shell=">&-")
    assert done.returncode == 2
    (line,) = lines(done)
    assert "standard output is closed" in line
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_standard_output_is_one_line(run: Run, command: list[str]) -> None:
    done = run(*command, shell=">/dev/full")
    assert done.returncode == 2
    assert "no space is left" in lines(done)[-1]


def test_a_closed_standard_error_takes_no_answer_away(run: Run) -> None:
    done = run("-m", "catdog.predict", "red.png", "no.jpg", shell="2>&-")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 2


def test_a_closed_standard_input_is_a_photo_that_cannot_be_read(run: Run) -> None:
    done = run("-m", "catdog.predict", "-", shell="<&-")
    assert done.returncode == 1
    assert lines(done) == []
    assert '"error": "-: the file is empty"' in done.stdout


@pytest.mark.parametrize("package", ["catdog.edge", "catdog.errors", "typer", "numpy", "onnxruntime", "catdog.cli"])
@pytest.mark.parametrize("command", [["-m", "catdog.predict"], ["-m", "catdog", "predict"]], ids=" ".join)
def test_ctrl_c_during_the_imports(run: Run, command: list[str], package: str) -> None:
    done = run(*command, "red.png", ctrl_c_at=package)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "catdog.dataset"],
        ["-m", "catdog.score"],
        ["-m", "export"],
        ["-m", "catdog.aws"],
        [str(ROOT / "train.py")],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("package", ["catdog.edge", "typer"])
def test_ctrl_c_during_the_imports_of_the_other_commands(run: Run, command: list[str], package: str) -> None:
    done = run(*command, ctrl_c_at=package)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
