"""The wheel, unpacked alone in another place, answers; ``make wheel`` does the same in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("catdog", "export", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree: setuptools would take in what an older build left behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(source)]
    if int(version("setuptools").partition(".")[0]) >= 77:  # else pip fetches one that is
        command.append("--no-build-isolation")
    subprocess.run(command, check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


def test_it_holds_the_package_and_its_data_and_no_tests(wheel: Path) -> None:
    assert wheel.name.startswith("catdog_photos-")
    assert wheel.stat().st_size < 25_000_000
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "catdog").rglob("*.py")}
    wanted |= {
        f"catdog/{name}"
        for name in ("assets/catdog.onnx", "assets/heads.onnx", "assets/contract.json", "py.typed", "aws/prices.json")
    }
    wanted |= {
        path.relative_to(ROOT).as_posix()
        for place in ("page", "device")
        for path in (ROOT / "catdog/serving" / place).iterdir()
    }
    assert wanted <= names
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"catdog"}  # no package named export, tests or benchmarks on somebody's machine


def test_it_predicts_and_examines_itself_elsewhere(wheel: Path, tmp_path: Path, photo: Callable[..., bytes]) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere.mkdir()
    (elsewhere / "red.png").write_bytes(photo("red"))

    def catdog(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, "-m", "catdog", *arguments]
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert '"source": "red.png"' in catdog("predict", "red.png")
    assert f" in {site / 'catdog'}\n" in catdog("doctor")
