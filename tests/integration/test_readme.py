"""Every command and code block of the README and docs/training.md, run in order as a reader would, on real photos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import SHARED_DATA

ROOT = Path(__file__).parents[2]
# A reader has ImageNet weights and an hour; the test has neither. Later arguments win over earlier ones.
QUICKER = {
    "catdog train": "--weights none --size 64 --frozen-epochs 0 --epochs 1 --batch-size 8 --workers 0 --device cpu",
    "catdog export": "--min-photos 1",
    "catdog tune": "--trials 1",
}
QUICKER_TRIALS = {"arch": "cnn", "train_size": 32, "epochs": 1, "batch_size": 8, "workers": 0, "device": "cpu"}
BLOCKS = [
    block
    for page in ("README.md", "docs/training.md")
    for block in re.findall(r"^```(sh|python)\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, real_photos: Callable[[int], list[tuple[str, bytes]]]) -> Path:
    """A folder with what the README's reader has: a clone's docs, photos, and Oxford's archives."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "docs").mkdir()
    space = yaml.safe_load((ROOT / "docs/space.yaml").read_text())
    (folder / "docs/space.yaml").write_text(yaml.safe_dump(space | {"settings": QUICKER_TRIALS}))
    (folder / "photos").mkdir()
    (folder / "oxford-iiit-pet").symlink_to(SHARED_DATA / "oxford-iiit-pet")
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name, data in real_photos(60):
            file = name.rsplit("/", 1)[1]
            (folder / "photos" / file).write_bytes(data)
            archive.writestr(f"photos/{file}", data)
    return folder


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_the_readme_s_blocks_run(desk: Path, index: int) -> None:
    language, block = BLOCKS[index]
    assert block.strip()
    if language == "sh":
        # On two dozen photos and a network of one epoch, int8's accuracy gate is chance; tests/real proves int8.
        block = block.replace(" --int8", "")
        for start, more in QUICKER.items():
            block = re.sub(rf"^({re.escape(start)} .*)$", rf"\1 {more}", block, flags=re.MULTILINE)
        command = ["bash", "-euo", "pipefail", "-c", block]
    else:
        command = [sys.executable, "-c", block]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    result = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 5
