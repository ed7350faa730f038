"""A scoring that is stopped before each single thing that it does on the disk (kill_everywhere.py), and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="needs catdog[score]")
if not hasattr(os, "fork"):
    pytest.skip("needs fork", allow_module_level=True)

ROOT = Path(__file__).parents[2]


def stopped_before_each_step(folder: Path, how: str, before: str, ending: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.integration.kill_everywhere", how, before, ending, str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    steps = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(steps) > 30
    return steps


@pytest.fixture(scope="module")
def killed_before_each_step(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return stopped_before_each_step(tmp_path_factory.mktemp("steps"), "kill", "fresh", ".parquet")


def test_killed_before_each_single_step_on_the_disk(killed_before_each_step: list[dict[str, Any]]) -> None:
    assert {step["first"] for step in killed_before_each_step[:-1]} == {"killed"}
    assert [step for step in killed_before_each_step if not step["same"]] == []


def test_nothing_is_left_beside_the_result_whenever_the_kill_came(
    killed_before_each_step: list[dict[str, Any]],
) -> None:
    assert {name for step in killed_before_each_step for name in step["left"]} == {"r.parquet", "r.parquet.run.json"}


def test_parts_without_their_run_s_record_are_not_taken_for_this_run_s_whenever_the_kill_came(tmp_path: Path) -> None:
    steps = stopped_before_each_step(tmp_path, "kill", "stale", ".csv")
    assert [step for step in steps if not step["same"]] == []


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_killed_before_each_single_step_of_an_update_it_ends_as_a_fresh_run(tmp_path: Path, ending: str) -> None:
    steps = stopped_before_each_step(tmp_path, "kill", "update", ending)
    assert {step["first"] for step in steps[:-1]} == {"killed"}
    assert [step for step in steps if not step["same"]] == []
    assert {name for step in steps for name in step["left"]} == {f"r{ending}", f"r{ending}.run.json"}


def test_a_disk_that_is_full_at_any_single_step_is_said_in_a_line_and_costs_nothing(tmp_path: Path) -> None:
    steps = stopped_before_each_step(tmp_path, "full-disk", "fresh", ".jsonl")
    assert {step["first"] for step in steps} == {"refused", "done"}
    assert [step for step in steps if not step["same"]] == []
