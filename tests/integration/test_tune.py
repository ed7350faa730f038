"""catdog tune: small studies with a real network on made photos, also killed and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from catdog.training.settings import parse
from catdog.training.space import TrialOutcome, read_space
from catdog.training.tune import app
from tests.forked import Forked
from tests.integration.test_train import paint
from tests.integration.test_train_detect import draw

pytest.importorskip("optuna")
from catdog.training import charts

ROOT = Path(__file__).parents[2]
FIXED = {"arch": "cnn", "size": 32, "train_size": 32, "epochs": 2, "batch_size": 16, "workers": 0, "device": "cpu"}
SEARCH = {"lr": {"min": 0.01, "max": 0.5, "scale": "log"}, "dropout": [0.0, 0.3], "batch_size": {"min": 8, "max": 32}}
FILES = {"study.db", "config.yaml", "trials.csv", "history.png", "importance.png", "parameters.png"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("photos"), {"cats": 40, "dogs": 40})


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_space(folder: Path, fixed: dict[str, Any] | None = None, search: dict[str, Any] | None = None) -> Path:
    search = SEARCH if search is None else search
    settings = {k: v for k, v in (FIXED | (fixed or {})).items() if k not in search}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"settings": settings, "search": search}))
    return path


def tune(space: Path, photos: Path, output: Path, trials: int, *more: str) -> Result:
    arguments = [str(space), "--data", str(photos), "--output", str(output), "--trials", str(trials), *more]
    return CliRunner().invoke(app, arguments)


def start(space: Path, photos: Path, output: Path, trials: int) -> Forked:
    return Forked("tune", space, "--data", photos, "--output", output, "--trials", trials)


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def last_error(result: Result) -> str:
    return result.stderr.splitlines()[-1]


def test_a_study_s_files_agree_and_the_same_command_goes_on(photos: Path, tmp_path: Path) -> None:
    space, output = write_space(tmp_path), tmp_path / "search"
    first = tune(space, photos, output, 2)
    assert first.exit_code == 0, first.output
    assert {path.name for path in output.iterdir()} == FILES
    assert [row["number"] for row in rows(output)] == ["0", "1"]
    kept = rows(output)

    more = tune(space, photos, output, 3)
    assert more.exit_code == 0, more.output
    assert rows(output)[:2] == kept
    assert len(rows(output)) == 3
    assert [line.split(" ")[0] for line in more.stderr.splitlines() if "/3: trial" in line] == ["3/3:"]

    (output / "trials.csv").unlink()
    again = tune(space, photos, output, 3)  # nothing to train, all to write
    assert again.exit_code == 0, again.output
    assert again.stdout == more.stdout
    assert len(rows(output)) == 3

    answer = json.loads(again.stdout)
    best = max(rows(output), key=lambda row: float(row["score"]))
    assert answer["trial"] == int(best["number"])
    assert answer["score"] == pytest.approx(float(best["score"]), abs=1e-6)
    assert answer["score"] == pytest.approx(float(best["val_accuracy"]) - 1e-4 * float(best["val_loss"]), abs=1e-5)
    assert {name: float(best[name]) for name in SEARCH} == answer["params"]
    assert (answer["finished"], answer["pruned"], answer["failed"], answer["interrupted"]) == (3, 0, 0, 0)
    settings = parse(["--config", str(output / "config.yaml"), "--output", "runs/best"], {})
    assert settings.data == str(photos)
    assert {name: getattr(settings, name) for name in SEARCH} == answer["params"]
    assert {name: getattr(settings, name) for name in FIXED if name not in SEARCH}.items() <= FIXED.items()
    for name in ("history", "importance", "parameters"):
        with Image.open(output / f"{name}.png") as image:
            assert min(image.size) > 200


def test_a_detector_s_trials_are_judged_by_their_average_precision(tmp_path: Path) -> None:
    data = draw(tmp_path / "drawn", {"train": 12, "val": 6}).root
    space, output = tmp_path / "space.yaml", tmp_path / "search"
    fixed = {"task": "detect", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1, "frozen_epochs": 0}
    fixed |= {"workers": 0, "device": "cpu", "cache": "none"}
    space.write_text(yaml.safe_dump({"settings": fixed, "search": {"lr": {"min": 0.01, "max": 0.1}}}))
    result = tune(space, data, output, 1)
    assert result.exit_code == 0, result.output
    (row,) = rows(output)
    answer = json.loads(result.stdout)
    assert answer["val_ap"] == pytest.approx(float(row["val_ap"]), abs=1e-5)
    assert "val_accuracy" not in row
    assert "average precision" in result.stderr
    assert {path.name for path in output.iterdir()} == FILES
    space.write_text(yaml.safe_dump({"settings": {}, "search": {"task": ["classify", "detect"]}}))
    assert "two tasks' scores can't be compared" in last_error(tune(space, data, output, 1))


def test_what_is_searched_does_not_depend_on_interruptions(photos: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, {"epochs": 1})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert tune(space, photos, whole, 3, "--seed", "5").exit_code == 0
    for trials in (1, 3):
        assert tune(space, photos, parts, trials, "--seed", "5").exit_code == 0
    learnt = [[{**row, "minutes": ""} for row in rows(output)] for output in (whole, parts)]
    assert learnt[0] == learnt[1]


def test_another_space_or_other_photos_are_refused_by_name(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "search"
    assert tune(write_space(tmp_path, {"epochs": 1}), photos, output, 1).exit_code == 0
    before = (output / "trials.csv").read_bytes()
    others = paint(tmp_path / "others", {"cats": 30, "dogs": 30}, seed=7)
    for fixed, search, data, message in (
        ({}, SEARCH, photos, "with settings: epochs: 1, this one has 2;"),
        ({"epochs": 1}, SEARCH | {"dropout": [0.0, 0.4]}, photos, "with search: dropout: [0.0, 0.3], this one has"),
        ({"epochs": 1}, SEARCH | {"ema": [0.0, 0.9]}, photos, "with search: ema: None, this one has [0.0, 0.9];"),
        ({"epochs": 1}, SEARCH, others, "on other photos;"),
    ):
        refused = tune(write_space(tmp_path, fixed, search), data, output, 2)
        assert refused.exit_code == 2, refused.output
        assert f"study.db: the study there is {message}" in last_error(refused)
    assert (output / "trials.csv").read_bytes() == before


def test_a_trial_killed_midway_is_tried_again_first(photos: Path, tmp_path: Path) -> None:
    output, space = tmp_path / "search", write_space(tmp_path, {"epochs": 400})
    run = start(space, photos, output, 3)
    while run.runs() and not _running(output):
        time.sleep(0.1)
    busy = tune(space, photos, output, 3)
    assert busy.exit_code == 2
    assert "another search works there" in last_error(busy)
    run.kill()
    (killed,) = _running(output)

    run = start(space, photos, output, 3)
    while run.runs() and _running(output) in ([], [killed]):
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(run.pid, signal.SIGTERM)
    ended = run.end()
    error = ended.stderr
    assert ended.returncode == 143, error
    assert "1 interrupted before; tried again first" in error
    assert error.splitlines()[-1].startswith("catdog tune: stopped by SIGTERM")
    assert error.splitlines()[-1].endswith("; the same command goes on")
    assert "Traceback" not in error
    assert _running(output) == []
    tried = _trials(output)
    assert [(t.number, t.state.name) for t in tried] == [(0, "FAIL"), (1, "FAIL"), (2, "WAITING")]
    assert tried[0].params == tried[1].params == tried[2].system_attrs["fixed_params"]


def _trials(output: Path) -> list[Any]:
    import optuna

    try:  # only looking: optuna would make the tables that are missing, in the way of the search that makes them
        with closing(sqlite3.connect(f"file:{output / 'study.db'}?mode=ro", uri=True)) as database:
            if not database.execute("select 1 from studies where study_name = 'catdog'").fetchall():
                return []
        return optuna.load_study(study_name="catdog", storage=f"sqlite:///{output / 'study.db'}").trials
    except (sqlite3.OperationalError, KeyError):  # it is being made
        return []


def _running(output: Path) -> list[int]:
    return [t.number for t in _trials(output) if t.state.name == "RUNNING" and t.params]


def test_a_diverging_trial_fails_alone_and_the_search_goes_on(photos: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, {"warmup": 0.0, "weight_decay": 9}, {"lr": [99.0, 0.0001]})
    output = tmp_path / "search"
    result = tune(space, photos, output, 4)
    assert result.exit_code == 0, result.output
    states = {row["lr"]: row["state"] for row in rows(output)}
    assert states == {"99.0": "failed", "0.0001": "finished"}
    assert all(row["score"] == "" for row in rows(output) if row["state"] == "failed")
    assert "failed: the loss became" in result.stderr
    assert "try a lower lr (it is 99.0), clip_norm 1 or amp False" in result.stderr, "as the space file calls them"
    assert parse(["--config", str(output / "config.yaml")], {}).lr == 0.0001


def test_no_finished_trial_is_exit_code_1(photos: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, {"warmup": 0.0, "weight_decay": 9}, {"lr": [98.0, 99.0]})
    result = tune(space, photos, tmp_path / "search", 1)
    assert result.exit_code == 1
    assert "no trial finished" in last_error(result)
    assert not (tmp_path / "search/config.yaml").exists()


def test_a_broken_study_bad_photos_and_a_bad_space_are_one_line(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "search"
    output.mkdir()
    (output / "study.db").write_text("not a database, but long enough to be looked at")
    for space, data, message in (
        (write_space(tmp_path), photos, "study.db: can't be opened as a study; remove it"),
        (write_space(tmp_path), tmp_path / "none", "none"),
        (tmp_path / "none.yaml", photos, "none.yaml: can't be read"),
    ):
        result = tune(space, data, output, 1)
        assert result.exit_code == 2, result.output
        assert last_error(result).startswith("catdog tune: error: ")
        assert message in last_error(result)
        assert result.stdout == ""


def test_advice_about_weights_speaks_of_the_space_file(photos: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, {"arch": "cnn", "weights": "imagenet"})
    result = tune(space, photos, tmp_path / "search", 1)
    assert result.exit_code == 2
    assert last_error(result) == (
        f"catdog tune: error: {space}: weights imagenet: the cnn has none; give weights none, or a file of its own"
    )


def test_without_optuna_the_extra_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "catdog.training.study", raising=False)
    result = tune(write_space(tmp_path), photos, tmp_path / "search", 1)
    assert result.exit_code == 2
    assert last_error(result) == "catdog tune: error: optuna is not installed; pip install '.[tune]'"


def test_help_comes_without_torch_and_optuna() -> None:
    code = "import sys, catdog.training.tune; print({'torch', 'optuna', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout == "set()\n"
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "catdog tune docs/space.yaml" in shown.stdout


def test_charts_take_every_state_and_none(tmp_path: Path) -> None:
    search = read_space(ROOT / "docs/space.yaml").search
    params = {name: choice.ends[0] for name, choice in search.items()}
    some = [
        TrialOutcome(number=0, state="interrupted", params={}),
        TrialOutcome(number=1, state="failed", params=params),
        TrialOutcome(number=2, state="pruned", score=0.4, params=params),
        *(TrialOutcome(number=3 + i, state="finished", score=0.9 + i / 100, params=params) for i in range(5)),
    ]
    for name, outcomes in (("none", some[:0]), ("failed", some[:2]), ("all", some)):
        charts.draw_history(outcomes, "val_accuracy", tmp_path / f"{name}-history.png")
        charts.draw_parameters(outcomes, search, "val_ap", tmp_path / f"{name}-parameters.png")
    charts.draw_importance({}, "too few", tmp_path / "few.png")
    charts.draw_importance({"lr": 0.75, "size": 0.25}, "", tmp_path / "importance.png")
    assert len(list(tmp_path.glob("*.png"))) == 8
