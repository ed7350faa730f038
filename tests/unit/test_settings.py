"""Command line, config file and SageMaker's variables -> Settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from catdog.errors import ModelError, SettingsError
from catdog.training.settings import Settings, parse


def test_command_line_wins_over_config_over_environment_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("epochs: 5\nlr: 1\ndata: from-config\n")
    environment = {"SM_CHANNEL_TRAIN": "from-environment", "SM_MODEL_DIR": "/opt/ml/model"}
    settings = parse(["--config", str(config), "--epochs", "7"], environment)
    assert settings.epochs == 7
    assert settings.lr == 1.0
    assert settings.data == "from-environment", "a container's paths win over those of another machine"
    assert settings.output == "/opt/ml/model"
    assert settings.batch_size == Settings().batch_size


def test_sagemaker_passes_booleans_as_text_and_names_with_underscores() -> None:
    settings = parse(["--amp", "False", "--export", "True", "--batch_size", "8"], {})
    assert (settings.amp, settings.export, settings.batch_size) == (False, True, 8)
    assert parse(["--amp"], {}).amp is True


def test_an_architecture_s_own_defaults_yield_to_what_is_given(tmp_path: Path) -> None:
    settings = parse(["--arch", "cnn", "--epochs", "3"], {})
    assert (settings.weights, settings.frozen_epochs, settings.epochs) == ("none", 0, 3)
    config = tmp_path / "config.yaml"
    config.write_text("arch: cnn\nsize: 64\n")
    assert parse(["--config", str(config)], {}).size == 64


def test_an_optimizer_s_own_defaults_go_before_the_architecture_s_and_yield_to_what_is_given() -> None:
    """At sgd's learning rate, adamw wrecked the network as soon as it was unfrozen."""
    assert parse(["--optimizer", "adamw"], {}).lr == parse(["--optimizer", "adamw", "--arch", "cnn"], {}).lr == 1e-3
    assert parse(["--optimizer", "adamw", "--arch", "cnn"], {}).frozen_epochs == 0
    assert parse(["--optimizer", "adamw", "--lr", "0.06"], {}).lr == parse([], {}).lr == 0.06


def test_on_sagemaker_checkpoints_lie_where_they_are_copied_to_s3() -> None:
    assert parse([], {"TRAINING_JOB_NAME": "job-1"}).checkpoint_dir == "/opt/ml/checkpoints"
    assert parse(["--checkpoint-dir", "here"], {"TRAINING_JOB_NAME": "job-1"}).checkpoint_dir == "here"
    assert parse([], {}).checkpoint_dir is None


def test_a_run_s_config_gives_the_same_settings_again(tmp_path: Path) -> None:
    settings = parse(["--data", "photos", "--lr", "0.003", "--amp", "False", "--optimizer", "adamw"], {})
    config = tmp_path / "config.yaml"
    config.write_text(settings.to_yaml())
    assert parse(["--config", str(config)], {}) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "did you mean --epochs"),
        (["--learning-rat", "3"], "unknown argument --learning-rat"),
        (["--epochs", "many"], "invalid int value: 'many'"),
        (["--amp", "maybe"], "must be True or False"),
        (["--arch", "resnet19"], "--arch must be one of resnet18"),
        (["--optimizer", "adam"], "sgd"),
        (["--dropout", "1"], "--dropout must be in"),
        (["--lr", "nan"], "--lr must be positive"),
        (["--lr", "1e6"], "--lr must be positive and under 100"),
        (["--cache-gb", "1e6"], "--cache-gb must not be negative, and must be under 1,000,000"),
        (["--ema", "1"], "--ema must be in"),
        (["--mixup", "-1"], "--mixup must not be negative"),
        (["--checkpoint-minutes", "0"], "--checkpoint-minutes must be positive"),
        (["--size", "4"], "--size must be 32..1024 px"),
        (["--config", "no-such.yaml"], "no-such.yaml: can't be read"),
        (["stray"], "unknown argument stray"),
    ],
)
def test_a_bad_argument_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse(arguments, {})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown setting epoch; did you mean epochs"),
        ("epochs: three", "epochs must be int, not 'three'"),
        ("epochs: true", "epochs must be int, not True"),
        ("amp: 'no'", "amp must be bool"),
        ("- epochs", "not a mapping"),
        ("a: b: c", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("optimizer: adam", "--optimizer must be one of"),
        ("dropout: .nan", "--dropout must be in"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(SettingsError) as raised:
        parse(["--config", str(config)], {})
    assert message in str(raised.value)


def test_every_setting_has_help() -> None:
    with pytest.raises(SystemExit) as raised:
        parse(["--help"], {})
    assert raised.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", ""], "--weights '': names no model where one is expected; give FILE, or FILE,FILE"),
        (["--weights", "embedded,"], "--weights 'embedded,': names no model"),
        (["--weights", "embedded,none.onnx"], "--weights none.onnx: no such file"),
        (["--weights", "{folder}"], "--weights {folder}: is a folder; name a file in it, such as {folder}/model.safe"),
        (["--teacher", ","], "--teacher ',': names no model"),
        (["--teacher", "embedded,none.onnx"], "--teacher none.onnx: no such file"),
        (["--teacher", "{folder}"], "{folder}: holds no model"),
    ],
)
def test_a_model_that_is_not_there_is_known_before_any_photo_is_read(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    arguments = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    settings = parse(["--data", str(tmp_path), "--output", "run", *arguments], {})
    with pytest.raises(ModelError) as raised:
        settings.check_paths()
    assert message.replace("{folder}", str(tmp_path)) in str(raised.value)


def test_models_that_are_there_or_elsewhere_pass(tmp_path: Path) -> None:
    (tmp_path / "a,b.safetensors").touch()
    for name in ("imagenet", "none", "embedded", str(tmp_path / "a,b.safetensors")):
        parse(["--data", str(tmp_path), "--output", "run", "--weights", name, "--teacher", ""], {}).check_paths()
    parse(["--data", str(tmp_path), "--output", "run", "--teacher", "embedded,s3://b/m.onnx"], {}).check_paths()
    with pytest.raises(SettingsError, match="--data is needed"):
        parse(["--data", "", "--output", "run"], {}).check_paths()
