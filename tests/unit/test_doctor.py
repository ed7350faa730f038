"""catdog doctor: it says what is true of this installation, and its dates are those of what catdog/aws uses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

from catdog.contract import Contract
from catdog.doctor import CORE, describe, examine
from catdog.extras import EXTRAS
from catdog.support import AS_OF, INFERENCE, NEWEST, SUPPORT, TRAINING

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "catdog" / "assets"


def test_it_says_what_is_here() -> None:
    report = examine(AS_OF)
    contract = Contract.read(ASSETS / "contract.json")
    assert report["packages"] == {name: version(name) for name in CORE}
    assert report["model"]["sha256"] == hashlib.sha256((ASSETS / "catdog.onnx").read_bytes()).hexdigest()
    assert report["model"]["quality"] == dict(contract.quality)
    assert "CPUExecutionProvider" in report["providers"]
    assert set(report["extras"]) == set(EXTRAS)
    assert 1 <= report["machine"]["usable_cores"] <= report["machine"]["cores"]


def test_a_container_s_limit_is_shown(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("2147483648\n")
    assert "the container's limit is 2.0 GiB" in describe(examine(AS_OF, tmp_path))
    (tmp_path / "memory.max").write_text("max\n")
    assert "limit" not in describe(examine(AS_OF, tmp_path))


@pytest.mark.parametrize(("today", "said"), [(date(2027, 9, 8), "in 20 days"), (date(2027, 10, 1), "ended 2027-09-28")])
def test_dates_count_from_today(today: date, said: str) -> None:
    assert f"PyTorch training container 2.14: {said}" in describe(examine(today)).replace("ends 2027-09-28, ", "")


def test_it_fits_on_a_screen_and_is_json_too() -> None:
    command = [sys.executable, "-m", "catdog", "doctor"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert len(shown.splitlines()) <= 40
    quality = Contract.read(ASSETS / "contract.json").quality
    assert f"{quality['int8_test_accuracy']:.2%}" in shown
    report = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True, cwd=ROOT).stdout)
    assert report["support"]["as_of"] == AS_OF.isoformat()


def test_the_table_is_of_the_containers_that_are_in_use() -> None:
    names = {one.name: one.last_day for one in SUPPORT}
    assert names[f"PyTorch training container {NEWEST}"] == TRAINING[NEWEST].last_day
    assert names["PyTorch inference container 2.6"] == INFERENCE.last_day
    assert list(TRAINING)[-1] == NEWEST
    assert TRAINING[NEWEST].last_day == max(container.last_day for container in TRAINING.values()) > AS_OF
