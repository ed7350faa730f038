"""The space file of a search: what it may say, and how each mistake in it is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from catdog.errors import SettingsError
from catdog.training.space import Choices, Range, read_space

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_ranges_take_the_setting_s_type_and_choices_stay_as_they_are(tmp_path: Path) -> None:
    text = """
    settings: {arch: cnn, epochs: 2, weight_decay: 0}
    search:
      lr: {min: 0.01, max: 1, scale: log}
      dropout: {min: 0, max: 0.5}
      batch_size: {min: 8, max: 64, scale: log}
      trainable_from: [layer4, layer2]
      size: [96, 64]
    """
    space = read_space(write(tmp_path, text))
    assert space.search == {
        "lr": Range(0.01, 1.0, log=True),
        "dropout": Range(0.0, 0.5),
        "batch_size": Range(8, 64, log=True),
        "trainable_from": Choices(("layer4", "layer2")),
        "size": Choices((96, 64)),
    }
    assert [type(end) for end in space.search["dropout"].ends + space.search["batch_size"].ends] == [float] * 2 + [
        int
    ] * 2
    assert space.search["size"].ends == (64, 96)
    assert type(space.settings["weight_decay"]) is float


def test_a_point_s_settings_are_params_over_fixed_over_the_architecture_s_defaults(tmp_path: Path) -> None:
    space = read_space(write(tmp_path, "settings: {arch: cnn, epochs: 2}\nsearch: {lr: {min: 0.01, max: 1}}"))
    settings = space.trial({"lr": 0.5}, "photos")
    assert (settings.lr, settings.epochs, settings.data) == (0.5, 2, "photos")
    assert (settings.weights, settings.ema) == ("none", 0.998)  # a cnn's


def test_values_are_those_of_the_task(tmp_path: Path) -> None:
    text = "search: {lr: [0.01, 0.02]}\nsettings: {resize: letterbox, size: 320, task: detect}"
    settings = read_space(write(tmp_path, text)).trial({"lr": 0.02})
    assert (settings.task, settings.resize, settings.size) == ("detect", "letterbox", 320)
    for fixed, said in (
        ("resize: letterbox", "settings: resize: .*letterbox belongs to --task detect"),
        ("task: detect, crop: 0.9", "settings: crop: 0.9 must be 1 where --task is detect"),
        ("lr: 0.1, task: detekt", "settings: task: 'detekt' must be one of classify, detect"),
    ):
        with pytest.raises(SettingsError, match=said):
            read_space(write(tmp_path, f"settings: {{{fixed}}}\nsearch: {{size: [64, 96]}}"))


def test_the_example_is_a_space() -> None:
    space = read_space(ROOT / "docs/space.yaml")
    assert {"lr", "backbone_lr", "trainable_from", "size"} <= space.search.keys()
    assert "docs/space.yaml" in (ROOT / "docs/space.yaml").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: [", ": not YAML ("),
        ("\x00", ": not YAML ("),
        ("- lr", ": must have the keys settings and search"),
        ("", ": must have the keys settings and search"),
        ("serch: {lr: [0.1, 0.2]}", ": serch: unknown; did you mean search?"),
        ("settings: {lr: 0.1}", ": search: is empty; name a setting and its range"),
        ("search: {}", ": search: is empty"),
        ("search: lr", ": search: must map names of settings to values"),
        ("settings: [lr]\nsearch: {lr: [0.1, 0.2]}", ": settings: must map names of settings to values"),
        ("search: {Ir: [0.1, 0.2]}", ": search: Ir: unknown; did you mean lr?"),
        ("search: {qqq: [0.1, 0.2]}", ": search: qqq: unknown; see catdog train --help"),
        ("search: {1: [0.1, 0.2]}", ": search: 1: unknown"),
        ("search: {lr: 0.1}", ": search: lr: must be {min: ..., max: ..., scale: log or linear} or a list, not 0.1"),
        ("search: {lr: {max: 0.1}}", ": search: lr: needs min"),
        ("search: {lr: {min: 0.1}}", ": search: lr: needs max"),
        ("search: {lr: {min: 0.1, max: 1, scal: log}}", ": search: lr: scal: unknown; did you mean scale?"),
        ("search: {lr: {min: 0.1, max: 1, scale: lin}}", ": search: lr: scale must be log or linear, not 'lin'"),
        ("search: {lr: {min: 0.1, max: 1, scale: [log]}}", ": search: lr: scale must be log or linear"),
        ("search: {lr: {min: 0.1, max: 0.1}}", ": search: lr: min must be less than max, not 0.1 and 0.1"),
        ("search: {lr: {min: 1, max: 0.1}}", ": search: lr: min must be less than max"),
        ("search: {lr: {min: 1e-3, max: 0.1}}", ": search: lr: must be float, not '1e-3' (YAML takes 1e-3 for text"),
        ("search: {lr: {min: 0, max: 0.1}}", ": search: lr: 0.0 must be positive"),
        ("search: {lr: {min: 0.1, max: .inf}}", ": search: lr: must be a finite number, not inf"),
        ("search: {lr: {min: .nan, max: 1}}", ": search: lr: must be a finite number, not nan"),
        ("search: {lr: {min: true, max: 1}}", ": search: lr: must be float, not True"),
        ("search: {mixup: {min: 0, max: 1, scale: log}}", ": search: mixup: a log scale needs min above 0, not 0.0"),
        ("search: {dropout: {min: 0, max: 1}}", ": search: dropout: 1.0 must be in [0, 1)"),
        ("search: {epochs: {min: 1.5, max: 3}}", ": search: epochs: must be int, not 1.5"),
        ("search: {trainable_from: {min: layer1, max: layer3}}", ": search: trainable_from: has no range; give a list"),
        ("search: {trainable_from: [layer1, layer9]}", ": search: trainable_from: 'layer9' must be one of stem"),
        ("search: {size: [64]}", ": search: size: needs two or more choices, all different"),
        ("search: {size: []}", ": search: size: needs two or more choices"),
        ("search: {size: [64, 96, 64]}", ": search: size: needs two or more choices, all different"),
        ("search: {size: [64, [96]]}", ": search: size: must be int, not [96]"),
        ("search: {size: [16, 64]}", ": search: size: 16 must be 32..1024 px"),
        ("search: {arch: [cnn, resnet19]}", ": search: arch: 'resnet19' must be one of resnet18"),
        ("search: {frozen_epochs: [0, 1], epochs: [0, 1]}", ": epochs and frozen_epochs leave nothing to train"),
        ("settings: {lr: 0.1}\nsearch: {lr: [0.1, 0.2]}", ": search: lr: is in settings too"),
        ("settings: {lr: -1}\nsearch: {size: [64, 96]}", ": settings: lr: -1.0 must be positive"),
        ("settings: {weights: null}\nsearch: {size: [64, 96]}", ": settings: weights: must be str, not None"),
        ("settings: {amp: 1}\nsearch: {size: [64, 96]}", ": settings: amp: must be bool, not 1"),
        ("settings: {data: photos}\nsearch: {size: [64, 96]}", ": settings: data: is not for trials; leave it out"),
        ("settings: {output: runs}\nsearch: {size: [64, 96]}", ": settings: output: is not for trials"),
        ("settings: {find_lr: true}\nsearch: {size: [64, 96]}", ": settings: find_lr: is not for trials"),
    ],
)
def test_nonsense_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read_space(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["output", "cache", "workers", "checkpoint_dir", "export", "find_lr", "seed", "data"])
def test_what_is_not_learnt_is_not_searched(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"search: {name}: can't be searched"):
        read_space(write(tmp_path, f"search: {{{name}: [1, 2]}}"))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.yaml: can't be read \(No such file"):
        read_space(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(SettingsError, match="binary: not YAML"):
        read_space(tmp_path / "binary")


def test_a_space_is_plain_data() -> None:
    code = "import sys, catdog.training.space; print({'torch', 'optuna', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
