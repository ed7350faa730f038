"""All settings of a training run: one typed dataclass, its command line, and its YAML form.

A setting's name, type, default, unit and meaning stand in one place, ``Settings``. The command line is derived from
it, for people (``--batch-size 32``), for SageMaker (``--batch_size 32 --amp True``) and for ``--config`` files.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from catdog.contract import IMAGENET_MEAN, IMAGENET_STD, Contract, Interpolation, Resize
from catdog.errors import SettingsError

ARCHS: Final = ("resnet18", "resnet34", "resnet50", "resnet101", "cnn")
CHECKPOINTS: Final = "/opt/ml/checkpoints"
"""SageMaker copies what lies here to checkpoint_s3_uri, and back for a new job."""
Stage = Literal["stem", "layer1", "layer2", "layer3", "layer4", "head"]
STAGES: Final[tuple[str, ...]] = get_args(Stage)
"""Input to output; the stem is conv1 and bn1, the head is fc."""
ARCH_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # A network from scratch has no pretrained tensor to freeze, learns longer, and needs no more than 128 px.
    "cnn": {
        "weights": "none",
        "size": 128,
        "train_size": 96,
        "frozen_epochs": 0,
        "epochs": 30,
        "lr": 0.05,
        "dropout": 0.4,
        "crop_scale": 0.4,
        "ema": 0.998,
    },
}
"""Defaults that an architecture has of its own; a config file or an argument wins over them."""


def _setting(default: Any, help: str, env: str | None = None) -> Any:
    """A field with its help; ``env``: the SageMaker variable that gives the default where it exists."""
    return field(default=default, metadata={"help": help, "env": env})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One training run. Raises SettingsError, naming the flag, when a value is out of range or contradicts another."""

    # photos
    data: str | None = _setting(
        None, "a dataset made by catdog.dataset, or raw photos: folder or archive", "SM_CHANNEL_TRAIN"
    )
    validation: str | None = _setting(None, "photos to validate on, when they are apart", "SM_CHANNEL_VALIDATION")
    test: str | None = _setting(None, "photos to test on, when they are apart", "SM_CHANNEL_TEST")
    output: str | None = _setting(None, "the run folder to write", "SM_MODEL_DIR")
    output_data: str | None = _setting(None, "folder for reports; default OUTPUT/reports", "SM_OUTPUT_DATA_DIR")
    checkpoint_dir: str | None = _setting(
        None, f"where a run that was cut off goes on from; default OUTPUT/checkpoints, on SageMaker {CHECKPOINTS}"
    )
    checkpoint_minutes: float = _setting(10.0, "write a checkpoint this often, minutes, and after every epoch")
    # network
    arch: str = _setting("resnet18", f"architecture: {', '.join(ARCHS)}")
    weights: str = _setting(
        "imagenet",
        "starting weights: imagenet, none, a safetensors file (may be partial), or the mean of several: FILE,FILE",
    )
    dropout: float = _setting(0.2, "dropout before the head, [0, 1)")
    # input
    size: int = _setting(224, "side of the square input when serving and validating, px")
    train_size: int = _setting(
        0,
        "side of the training crops, px; 0: as --size. About 0.75 of --size is faster, and right as well: random crops "
        "magnify (Touvron et al. 2019, FixRes)",
    )
    resize: Resize = _setting("stretch", "how a photo becomes a square: stretch, or short_side with a centre crop")
    interpolation: Interpolation = _setting("bilinear", "filter of that resize: bilinear, bicubic, lanczos")
    crop: float = _setting(1.0, "share of each side that the centre crop keeps, (0, 1]")
    # phases
    frozen_epochs: int = _setting(
        1,
        "epochs with all pretrained tensors frozen; only what starts from scratch learns, on features that the frozen "
        "part computes once",
    )
    epochs: int = _setting(
        8,
        "epochs after that, with the stages from --trainable-from on unfrozen; 0 and 0: measure --weights as they are",
    )
    trainable_from: Stage = _setting("layer1", f"first stage that learns after the frozen phase: {', '.join(STAGES)}")
    patience: int = _setting(0, "stop after this many epochs without a better validation loss; 0: never")
    # optimisation
    optimizer: Literal["sgd", "adamw"] = _setting("sgd", "sgd (Nesterov momentum 0.9) or adamw")
    lr: float = _setting(0.06, "peak learning rate of the head and all that starts from scratch, at batch size 64; "
                               "scaled by batch size / 64")  # fmt: skip
    backbone_lr: float = _setting(0.17, "pretrained layer4's learning rate, as a share of --lr")
    stage_decay: float = _setting(0.8, "factor on the learning rate for each stage further from the head, (0, 1]")
    weight_decay: float = _setting(5e-4, "weight decay; batch norms and biases have none")
    schedule: Literal["cosine", "one_cycle"] = _setting(
        "cosine", "after the warm-up: cosine, or one_cycle (linear down)"
    )
    warmup: float = _setting(0.2, "share of each phase in which the learning rate rises, [0, 1)")
    batch_size: int = _setting(64, "photos a step, of all processes together")
    label_smoothing: float = _setting(0.05, "label smoothing, [0, 1)")
    clip_norm: float = _setting(0.0, "largest norm of a step's gradient, all tensors together; 0: any")
    ema: float = _setting(0.0, "decay a step of the moving average of the weights that is served, [0, 1); 0: none")
    # augmentation
    mixup: float = _setting(0.0, "alpha of MixUp (Zhang et al. 2018): blend each photo with another; 0: don't")
    cutmix: float = _setting(0.0, "alpha of CutMix (Yun et al. 2019): paste a part of another; with both, half each")
    crop_scale: float = _setting(0.35, "smallest share of the photo's area in a random crop, (0, 1]")
    rotation: float = _setting(10.0, "random rotation up to this many degrees, one photo in three; 0: none")
    color: float = _setting(0.3, "jitter of brightness, contrast and saturation, [0, 1]; 0: none")
    degrade: float = _setting(0.2, "probability of blur or of JPEG artefacts, [0, 1]")
    erase: float = _setting(0.1, "probability of erasing a random rectangle, [0, 1]")
    # machine
    seed: int = _setting(0, "makes a run repeatable on the same machine")
    cache: str = _setting(
        "auto",
        "folder for decoded photos, which the next run finds again; auto: ~/.cache/catdog, none: decode each time",
    )
    cache_gb: float = _setting(
        12.0, "the most that this folder may hold, GB; photos that don't fit are decoded each time"
    )
    workers: int = _setting(-1, "processes that read photos; -1: as many as are of use; 0: none")
    amp: bool = _setting(True, "bf16 or fp16 autocast where the hardware has it")
    device: Literal["auto", "cpu", "gpu"] = _setting("auto", "where to train: auto, cpu, gpu")
    find_lr: bool = _setting(
        False, "only try learning rates, from low to high, and chart their losses; writes no model"
    )
    export: bool = _setting(True, "write model.onnx, proven equal, at the end")

    def __post_init__(self) -> None:
        _require(self.arch in ARCHS, "arch", f"must be one of {', '.join(ARCHS)}")
        for name in ("size", "train_size"):
            value = getattr(self, name)
            _require(32 <= value <= 1024 or (name == "train_size" and value == 0), name, "must be 32..1024 px")
        for name in ("dropout", "label_smoothing", "warmup", "ema"):
            _require(0 <= getattr(self, name) < 1, name, "must be in [0, 1)")
        for name in ("crop", "crop_scale", "stage_decay"):
            _require(0 < getattr(self, name) <= 1, name, "must be in (0, 1]")
        for name in ("color", "degrade", "erase"):
            _require(0 <= getattr(self, name) <= 1, name, "must be in [0, 1]")
        for name in ("mixup", "cutmix", "clip_norm", "cache_gb"):
            _require(0 <= getattr(self, name) < 1e6, name, "must not be negative")
        _require(0 < self.checkpoint_minutes < 1e6, "checkpoint_minutes", "must be positive")
        for name in ("lr", "backbone_lr"):
            _require(0 < getattr(self, name) < 100, name, "must be positive")
        _require(self.weight_decay >= 0, "weight_decay", "must not be negative")
        _require(0 <= self.rotation <= 180, "rotation", "must be 0..180 degrees")
        _require(self.batch_size >= 1, "batch_size", "must be at least 1")
        _require(self.frozen_epochs >= 0 and self.epochs >= 0, "epochs", "must not be negative")
        _require(self.patience >= 0, "patience", "must not be negative")
        _require(self.workers >= -1, "workers", "must be -1 or more")
        _require(self.seed >= 0, "seed", "must not be negative")
        for f in fields(self):
            if choices := _choices(_types()[f.name]):
                _require(getattr(self, f.name) in choices, f.name, f"must be one of {', '.join(choices)}")

    @property
    def crop_size(self) -> int:
        """Side of the training crops, px."""
        return self.train_size or self.size

    @property
    def canvas_size(self) -> int:
        """Side, px, of the squares that random crops are cut from: an average crop, 80% of a side, is not magnified."""
        return max(self.size, math.ceil(self.crop_size * 4 / 3))

    def contract(self, class_names: tuple[str, ...], data_fingerprint: str) -> Contract:
        """The contract of the model that this run will train, before anything is measured."""
        return Contract(
            class_names=class_names,
            input_size=self.size,
            resize=self.resize,
            interpolation=self.interpolation,
            crop=self.crop,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            arch=self.arch,
            data_fingerprint=data_fingerprint,
        )

    def to_yaml(self) -> str:
        """The resolved settings; ``train.py --config`` runs them again."""
        return "# python train.py --config config.yaml\n" + yaml.safe_dump(asdict(self), sort_keys=False)


def parse(
    argv: Sequence[str], environment: Mapping[str, str] = os.environ, command: str = "python train.py"
) -> Settings:
    """Command line > SageMaker's variables > ``--config`` file > the architecture's defaults > defaults.

    In a container the paths in a file come from another machine, so SageMaker's win.

    Raises SettingsError for an unknown argument (with the nearest known one), a bad value or a bad config file.
    ``--help`` prints and exits, as argparse does; ``command`` is how its examples call the command.
    """
    given = vars(_parser(command).parse_args(argv))
    from_config = _read_config(given.pop("config", None))
    from_environment = {
        f.name: environment[f.metadata["env"]]
        for f in fields(Settings)
        if f.metadata["env"] and environment.get(f.metadata["env"])
    }
    if "TRAINING_JOB_NAME" in environment:
        from_environment["checkpoint_dir"] = CHECKPOINTS
    chosen = {**from_config, **from_environment, **given}
    return resolve(chosen)


def resolve(chosen: Mapping[str, Any]) -> Settings:
    """The settings ``chosen`` over the architecture's defaults over the defaults; raises SettingsError."""
    return Settings(**{**ARCH_DEFAULTS.get(chosen.get("arch", ""), {}), **chosen})


def read_yaml(path: Path, named: str) -> Any:
    """What a YAML file holds; raises SettingsError that begins with ``named`` where it can't be read or isn't YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{named}: can't be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{named}: not YAML ({str(error).splitlines()[0]})") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise SettingsError(f"unknown argument {unknown[0]}{_suggest(unknown[0].split('=')[0], self._flags())}")
        return known

    def _flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


def _parser(command: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=command.removeprefix("python "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fine-tune a ResNet to tell cats from dogs, measure it, and export it to ONNX.",
        epilog="examples:\n"
        f"  {command} --data photos.zip --output runs/first\n"
        f"  {command} --data data/ --output runs/second --arch resnet34 --epochs 12 --size 192\n"
        f"  {command} --config runs/first/config.yaml --output runs/again --seed 1\n\n"
        "exit codes: 0 done, 1 training failed (loss became NaN), 2 a setting or the data is unusable,\n"
        "130 Ctrl-C and 143 SIGTERM: stopped, and the same command goes on",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a config.yaml of an earlier run; other arguments win over it")
    for f in fields(Settings):
        kind, choices = _types()[f.name], _choices(_types()[f.name])
        flags = list(dict.fromkeys([f"--{f.name.replace('_', '-')}", f"--{f.name}"]))
        text = f.metadata["help"].replace("%", "%%")
        text += "" if f.default in (None, MISSING) else f" (default: {f.default})"
        if f.metadata["env"]:
            text += f" [{f.metadata['env']}]"
        if _plain(kind) is bool:
            parser.add_argument(*flags, dest=f.name, type=_bool, nargs="?", const=True, metavar="True|False", help=text)
        else:
            metavar = "|".join(choices) if choices else _plain(kind).__name__.upper()
            parser.add_argument(*flags, dest=f.name, type=_plain(kind), choices=choices, metavar=metavar, help=text)
    return parser


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    data = read_yaml(Path(path), f"--config {path}")
    if not isinstance(data, dict):
        raise SettingsError(f"--config {path}: not a mapping of settings")
    known = [f.name for f in fields(Settings)]
    settings: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            raise SettingsError(f"--config {path}: unknown setting {name}{_suggest(str(name), known)}")
        kind = _types()[name]
        if value is None and type(None) in get_args(kind):
            continue
        plain = _plain(kind)
        exact = isinstance(value, plain) and (plain is bool or not isinstance(value, bool))
        if not exact and not (plain is float and isinstance(value, int) and not isinstance(value, bool)):
            raise SettingsError(f"--config {path}: {name} must be {plain.__name__}, not {value!r}")
        settings[name] = plain(value)
    return settings


def _types() -> dict[str, Any]:
    return get_type_hints(Settings)


def _plain(kind: Any) -> type:
    """str for ``str | None`` and for a Literal of strings; the type itself otherwise."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    return type(get_args(kind)[0]) if get_origin(kind) is Literal else kind


def _choices(kind: Any) -> tuple[str, ...] | None:
    return get_args(kind) if get_origin(kind) is Literal else None


def _bool(text: str) -> bool:
    # SageMaker passes hyperparameters as text: --amp True
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; see --help"


def _require(ok: bool, name: str, message: str) -> None:
    if not ok:
        raise SettingsError(f"--{name.replace('_', '-')} {message}")
