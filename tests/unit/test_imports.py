"""The import rule: rooms use only those below them, and the core starts without torch, the cloud or charts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "lightning", "boto3", "sagemaker", "matplotlib", "pandas", "sklearn", "ray", "onnx"}
HEAVY |= {"obstore", "pyarrow", "starlette", "uvicorn"}
ROOT = Path(__file__).parents[2]


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh Python holds after importing the module."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_rooms_import_only_those_below_them() -> None:
    """The contracts are in pyproject.toml."""
    pytest.importorskip("importlinter", reason="needs import-linter, which the extra dev installs")
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "catdog",
        "catdog.image",
        "catdog.classifier",
        "catdog.predict",
        "catdog.detection.__main__",
        "catdog.detection.pictures",
        "catdog.sources",
        "catdog.contact_sheet",
        "catdog.score.sorting",
    ],
)
def test_core_brings_in_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & HEAVY


def test_catdog_alone_does_not_load_onnxruntime() -> None:
    assert "onnxruntime" not in loaded_by("catdog")


@pytest.mark.parametrize("module", ["catdog.predict", "catdog.detection.__main__"])
def test_predict_and_detect_load_neither_charts_nor_network_before_they_are_needed(module: str) -> None:
    assert not loaded_by(module) & {"rich", "ssl", "tarfile", "zipfile"}


def test_a_photo_is_read_without_pillows_other_parsers() -> None:
    code = (
        "import sys, io; from PIL import Image; from catdog.image import decode; photo = io.BytesIO();"
        "Image.new('RGB', (8, 8)).save(photo, 'PNG'); decode(photo.getvalue(), 'photo'); print(*Image.OPEN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"JPEG", "PNG", "WEBP", "AVIF"} <= set(done.stdout.split())
    assert not {"EPS", "PSD", "FITS", "GRIB"} & set(done.stdout.split())
