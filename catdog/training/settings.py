"""All settings of a training run: one typed dataclass, its command line, and its YAML form.

``Settings`` holds each setting's name, type, default, unit and meaning. The command line is derived from it, for people
(``--batch-size 32``), for SageMaker (``--batch_size 32 --amp True``) and for ``--config`` files.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import math
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from catdog.contract import IMAGENET_MEAN, IMAGENET_STD, MIN_CROP, WEIGHTS_NAME, Contract, Interpolation, Resize, Task
from catdog.errors import ModelError, SettingsError
from catdog.sources.names import is_object_uri
from catdog.text import first_line

ARCHS: Final = ("resnet18", "resnet34", "resnet50", "resnet101", "cnn")
CHECKPOINTS: Final = "/opt/ml/checkpoints"
"""SageMaker copies what lies here to checkpoint_s3_uri, and back for a new job."""
JOB_VARIABLE: Final = "TRAINING_JOB_NAME"
"""Set in every SageMaker training job, to its name."""
Stage = Literal["stem", "layer1", "layer2", "layer3", "layer4", "head"]
STAGES: Final[tuple[str, ...]] = get_args(Stage)
"""Input to output; the stem is conv1 and bn1, the head is fc."""
NOT_LEARNT: Final = frozenset(
    {"data", "validation", "test", "output", "output_data", "checkpoint_dir", "checkpoint_minutes"}
    | {"cache", "workers", "compile", "deterministic", "find_lr", "export"}
)
"""Settings that don't change what is learnt, beyond rounding and dropout's dice, so a run may go on with others. Photos
are compared by content."""
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
TASK_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # The backbone knows cats and dogs; boxes need detail, and many looks at the few photos that have some.
    "detect": {
        "weights": "embedded",
        "size": 320,
        "resize": "letterbox",
        "epochs": 60,
        "trainable_from": "layer2",
        "batch_size": 16,
        "lr": 0.04,
        "backbone_lr": 0.5,
        "weight_decay": 1e-4,
        "warmup": 0.1,
        "label_smoothing": 0.0,
        "dropout": 0.0,
        "clip_norm": 10.0,
        "ema": 0.998,
        "rotation": 0.0,
        "erase": 0.0,
    },
}
"""Defaults that a task has of its own; they win over an architecture's."""
OPTIMIZER_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Its steps have the size of the learning rate, whatever the gradient's: at sgd's, pretrained tensors are wrecked.
    "adamw": {"lr": 1e-3, "weight_decay": 0.05},
}
"""Defaults that an optimizer has of its own; they win over a task's and an architecture's."""


def _setting(default: Any, help: str, env: str | None = None) -> Any:
    """Declare a setting; ``env``: the SageMaker variable that gives its default where that is set."""
    return field(default=default, metadata={"help": help, "env": env})


_RULES: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("arch", lambda v: v in ARCHS, f"must be one of {', '.join(ARCHS)}"),
    ("size", lambda v: 32 <= v <= 1024, "must be 32..1024 px"),
    ("train_size", lambda v: v == 0 or 32 <= v <= 1024, "must be 32..1024 px, or 0"),
    ("dropout label_smoothing warmup ema", lambda v: 0 <= v < 1, "must be in [0, 1)"),
    ("crop", lambda v: MIN_CROP <= v <= 1, f"must be in [{MIN_CROP}, 1]"),
    ("crop_scale stage_decay", lambda v: 0 < v <= 1, "must be in (0, 1]"),
    ("color degrade erase teacher_weight", lambda v: 0 <= v <= 1, "must be in [0, 1]"),
    (
        "mixup cutmix clip_norm cache_gb frozen_epochs epochs patience",
        lambda v: 0 <= v < 1e6,
        "must not be negative, and must be under 1,000,000",
    ),
    ("weight_decay", lambda v: 0 <= v < math.inf, "must not be negative, and must be finite"),
    ("checkpoint_minutes", lambda v: 0 < v < 1e6, "must be positive and under 1,000,000"),
    ("lr backbone_lr", lambda v: 0 < v < 100, "must be positive and under 100"),
    ("seed", lambda v: 0 <= v < 2**63, "must not be negative, and must be under 2**63"),
    ("rotation", lambda v: 0 <= v <= 180, "must be 0..180 degrees"),
    ("batch_size", lambda v: 1 <= v < 1e6, "must be at least 1, and under 1,000,000"),
    ("workers", lambda v: -1 <= v < 1e6, "must be -1 or more, and under 1,000,000"),
)
"""Names of settings, whether a value is in their bounds (NaN never is), and how these bounds are told."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One training run. Raises SettingsError, naming the flag, when a value is out of range or contradicts another."""

    # photos
    data: str | None = _setting(
        None, "a dataset made by catdog dataset, or raw photos: folder or archive", "SM_CHANNEL_TRAIN"
    )
    validation: str | None = _setting(None, "photos to validate on, when they are apart", "SM_CHANNEL_VALIDATION")
    test: str | None = _setting(None, "photos to test on, when they are apart", "SM_CHANNEL_TEST")
    output: str | None = _setting(None, "the run folder to write", "SM_MODEL_DIR")
    output_data: str | None = _setting(None, "folder for reports; default OUTPUT/reports", "SM_OUTPUT_DATA_DIR")
    checkpoint_dir: str | None = _setting(
        None, f"where a run that was cut off goes on from; default OUTPUT/checkpoints, on SageMaker {CHECKPOINTS}"
    )
    checkpoint_minutes: float = _setting(
        10.0, "write a checkpoint this often, minutes, and after an epoch unless one was written just before"
    )
    task: Task = _setting("classify", "classify: cat or dog? detect: a box around each pet's head")
    # network
    arch: str = _setting("resnet18", f"architecture: {', '.join(ARCHS)}")
    weights: str = _setting(
        "imagenet",
        "starting weights: imagenet, none, embedded (the model in catdog), a file (safetensors, also a partial one, or "
        "ONNX from catdog export), or the mean of several: FILE,FILE",
    )
    teacher: str = _setting(
        "", "models to learn from as well as from the labels: ONNX files, run folders or embedded, FILE,FILE"
    )
    teacher_weight: float = _setting(0.7, "how much the teachers count beside the labels, [0, 1]")
    dropout: float = _setting(0.2, "dropout before the head, [0, 1)")
    # input
    size: int = _setting(224, "side of the square input when serving and validating, px")
    train_size: int = _setting(
        0,
        "side of the training crops, px; 0: as --size. About 0.75 of --size is faster, and right as well: random crops "
        "magnify (Touvron et al. 2019, FixRes)",
    )
    resize: Resize = _setting(
        "stretch",
        "how a photo becomes a square: stretch, or short_side with a centre crop; letterbox for detectors",
    )
    interpolation: Interpolation = _setting("bilinear", "filter of that resize: bilinear, bicubic, lanczos")
    crop: float = _setting(1.0, "share of each side that the centre crop keeps, [0.01, 1]")
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
                               "scaled by batch size / 64, for adamw by its square root")  # fmt: skip
    backbone_lr: float = _setting(0.17, "pretrained layer4's learning rate, as a share of --lr")
    stage_decay: float = _setting(0.8, "factor on the learning rate for each stage further from the head, (0, 1]")
    weight_decay: float = _setting(5e-4, "weight decay; batch norms and biases have none")
    schedule: Literal["cosine", "one_cycle"] = _setting(
        "cosine", "after the warm-up: cosine, or one_cycle (linear down)"
    )
    warmup: float = _setting(0.2, "share of each phase in which the learning rate rises, [0, 1)")
    batch_size: int = _setting(64, "photos a step, of all processes together; 256 and more keep a large GPU busy")
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
    seed: int = _setting(0, "makes a run repeatable on the same machine, on a GPU with --deterministic")
    deterministic: bool = _setting(
        False, "on a GPU, choose only ways to convolve that give the same bits again; may be slower"
    )
    cache: str = _setting(
        "auto",
        "folder for decoded photos, which the next run finds again; auto: ~/.cache/catdog, none: decode each time",
    )
    cache_gb: float = _setting(
        12.0, "the most that this folder may hold, GB; photos that don't fit are decoded each time"
    )
    workers: int = _setting(-1, "processes that decode photos that are not cached; -1: one a core, at most 8; 0: none")
    amp: bool = _setting(True, "bf16 or fp16 autocast where the hardware has it")
    compile: bool = _setting(False, "compile the training step (torch.compile): minutes at first, then faster steps")
    device: Literal["auto", "cpu", "gpu"] = _setting("auto", "where to train: auto, cpu, gpu")
    find_lr: bool = _setting(
        False, "only try learning rates, from low to high, and chart their losses; writes no model"
    )
    export: bool = _setting(True, "write model.onnx, proven equal, at the end")

    def __post_init__(self) -> None:
        for names, is_allowed, rule in _RULES:
            for name in names.split():
                _require(is_allowed(getattr(self, name)), name, rule)
        for f in fields(self):
            if choices := _get_choices(_get_types()[f.name]):
                _require(getattr(self, f.name) in choices, f.name, f"must be one of {', '.join(choices)}")
        is_detector = self.task == "detect"
        _require(
            (self.resize == "letterbox") == is_detector, "resize", "letterbox belongs to --task detect, which needs it"
        )
        if is_detector:
            _require(self.arch != "cnn", "arch", "cnn can't find boxes; choose a resnet")
            _require(self.crop == 1, "crop", "must be 1 where --task is detect")
            for name in ("mixup", "cutmix", "rotation", "teacher", "label_smoothing"):
                _require(not getattr(self, name), name, "can't be used where --task is detect")

    @property
    def crop_size(self) -> int:
        """The side of the training crops, px."""
        return self.train_size or self.size

    @property
    def canvas_size(self) -> int:
        """The side, px, of the squares that random crops are cut from: large enough for an average crop, 80% of it.

        Not larger, since crops are sampled without a filter, and shrunk ones would alias.
        """
        return math.ceil(self.crop_size * 4 / 3)

    def check_paths(self) -> None:
        """Raise SettingsError where ``--data`` or ``--output`` is not given, or no photos are where they should be.

        Raises ModelError as ``check_models`` does.
        """
        if not self.data:
            raise SettingsError("--data is needed: a dataset made by catdog dataset, a folder of photos or an archive")
        if not self.output:
            raise SettingsError("--output is needed: the run folder to write")
        for path in (self.data, self.validation, self.test):
            if path and "://" not in path and not Path(path).exists():
                raise SettingsError(f"{path}: no such file or folder")
        self.check_models()

    def check_models(self) -> None:
        """Raise ModelError where ``--weights`` or ``--teacher`` names what is not there, before any photo is read."""
        from catdog.onnx_model import EMBEDDED, find_onnx  # whose ONNX Runtime --help need not wait for

        for name in [] if self.weights in ("none", "imagenet") else split_names("weights", self.weights):
            if os.path.isdir(name):  # noqa: PTH112 - a Path raises an error for a name that is too long
                raise ModelError(f"--weights {name}: is a folder; name a file in it, such as {name}/{WEIGHTS_NAME}")
            if name != EMBEDDED and not os.path.isfile(name):  # noqa: PTH113
                raise ModelError(f"--weights {name}: no such file")
        for name in split_names("teacher", self.teacher) if self.teacher else []:
            is_elsewhere = name == EMBEDDED or is_object_uri(name)
            if not is_elsewhere and not os.path.isfile(find_onnx(Path(name))):  # noqa: PTH113
                raise ModelError(f"--teacher {name}: no such file")

    def contract(self, class_names: tuple[str, ...], data_fingerprint: str) -> Contract:
        """Return the contract of the model that this run will train, before anything is measured."""
        return Contract(
            class_names=class_names,
            input_size=self.size,
            task=self.task,
            resize=self.resize,
            interpolation=self.interpolation,
            crop=self.crop,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            arch=self.arch,
            data_fingerprint=data_fingerprint,
        )

    def to_yaml(self) -> str:
        """Return the settings as a file that ``catdog train --config`` runs again."""
        import yaml  # --help need not have it

        return "# catdog train --config config.yaml\n" + yaml.safe_dump(asdict(self), sort_keys=False)


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings that a command line asks for.

    What isn't on it comes from SageMaker's variables, then from the ``--config`` file, then from the defaults of
    optimizer and architecture. The variables win over the file, whose paths come from another machine. ``--help``
    prints and exits. Raises SettingsError for an unknown argument (with the nearest known one), a bad value or a bad
    config file.
    """
    given = vars(_make_parser().parse_args(argv))
    from_config = _read_config(given.pop("config", None))
    from_environment = {
        f.name: environment[f.metadata["env"]]
        for f in fields(Settings)
        if f.metadata["env"] and environment.get(f.metadata["env"])
    }
    if JOB_VARIABLE in environment:
        from_environment["checkpoint_dir"] = CHECKPOINTS
    chosen = {**from_config, **from_environment, **given}
    return resolve(chosen)


def resolve(chosen: Mapping[str, Any]) -> Settings:
    """Return ``chosen``, completed by the defaults of optimizer, task and architecture and by all others.

    Raises SettingsError.
    """
    arch, task = ARCH_DEFAULTS.get(chosen.get("arch", ""), {}), TASK_DEFAULTS.get(chosen.get("task", ""), {})
    return Settings(**{**arch, **task, **OPTIMIZER_DEFAULTS.get(chosen.get("optimizer", ""), {}), **chosen})


def split_names(flag: str, text: str) -> list[str]:
    """Return the names of models in FILE,FILE; raises ModelError where one is empty. A file's own name wins."""
    names = [text] if os.path.exists(text) else text.split(",")  # noqa: PTH110 - a Path("") is the current folder
    if not all(names):
        raise ModelError(f"--{flag} {text!r}: names no model where one is expected; give FILE, or FILE,FILE")
    return names


def read_yaml(path: Path, named: str) -> Any:
    """Return what a YAML file holds; raises SettingsError, beginning with ``named``, where it is none."""
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{named}: can't be read ({error.strerror})") from error
    # Text that isn't UTF-8, and what PyYAML raises on dates, numbers and words that are none, and on deep nesting.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise SettingsError(f"{named}: not YAML ({first_line(error)})") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise SettingsError(f"unknown argument {unknown[0]}{suggest(unknown[0].split('=')[0], self._flags())}")
        return known

    def _flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="catdog train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fine-tune a ResNet to tell cats from dogs, measure it, and export it to ONNX.",
        epilog="examples:\n"
        "  catdog train --data photos.zip --output runs/first\n"
        "  catdog train --data data/ --output runs/second --arch resnet34 --epochs 12 --size 192\n"
        "  catdog train --config runs/first/config.yaml --output runs/again --seed 1\n\n"
        "exit codes: 0 done, 1 training failed (loss became NaN), 2 a setting or the data is unusable,\n"
        "130 Ctrl-C and 143 SIGTERM: stopped, and the same command goes on",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a config.yaml of an earlier run; other arguments win over it")
    for f in fields(Settings):
        kind, choices = _get_types()[f.name], _get_choices(_get_types()[f.name])
        flags = list(dict.fromkeys([f"--{f.name.replace('_', '-')}", f"--{f.name}"]))
        text = f.metadata["help"].replace("%", "%%")
        text += "" if f.default in (None, MISSING) else f" (default: {_describe_defaults(f.name, f.default)})"
        if f.metadata["env"]:
            text += f" [{f.metadata['env']}]"
        if _get_plain_type(kind) is bool:
            parser.add_argument(
                *flags, dest=f.name, type=_parse_bool, nargs="?", const=True, metavar="True|False", help=text
            )
        else:
            metavar = "|".join(choices) if choices else _get_plain_type(kind).__name__.upper()
            parser.add_argument(
                *flags, dest=f.name, type=_get_plain_type(kind), choices=choices, metavar=metavar, help=text
            )
    return parser


def _describe_defaults(name: str, default: Any) -> str:
    """Return a setting's default, and those that an architecture, a task or an optimizer has of its own."""
    tables = {"arch": ARCH_DEFAULTS, "task": TASK_DEFAULTS, "optimizer": OPTIMIZER_DEFAULTS}
    others = [
        f"{own[name]} with --{flag} {choice}"
        for flag, table in tables.items()
        for choice, own in table.items()
        if name in own
    ]
    return "; ".join([str(default), *others])


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    data = read_yaml(Path(path), f"--config {path}")
    if not isinstance(data, dict):
        raise SettingsError(f"--config {path}: not a mapping of settings")
    settings: dict[str, Any] = {}
    for name, value in data.items():
        if name not in _get_types():
            raise SettingsError(f"--config {path}: unknown setting {name}{suggest(str(name), list(_get_types()))}")
        try:
            settings[name] = check_type(name, value)
        except SettingsError as error:
            raise SettingsError(f"--config {path}: {name} {error}") from error
    return settings


def check_type(name: str, value: Any) -> Any:
    """Return a value of a YAML file as the type of the setting ``name``; raises SettingsError, "must be ..."."""
    kind = _get_plain_type(_get_types()[name])
    if value is None and type(None) in get_args(_get_types()[name]):
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and (kind is float or isinstance(value, int)) if kind in (int, float) else type(value) is kind):
        hint = " (YAML takes 1e-3 for text: write 1.0e-3)" if kind is float and isinstance(value, str) else ""
        raise SettingsError(f"must be {kind.__name__}, not {value!r}{hint}")
    try:
        return kind(value)
    except OverflowError as error:
        raise SettingsError("must be a number that a float can hold") from error


def suggest(word: str, known: Sequence[str], otherwise: str = "see --help") -> str:
    """Return the end of a message about an unknown word: the nearest known one, or where to look."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; {otherwise}"


@functools.cache
def _get_types() -> dict[str, Any]:
    return get_type_hints(Settings)


def _get_plain_type(kind: Any) -> type:
    """Return str for ``str | None`` and for a Literal of strings, and any other type itself."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    return type(get_args(kind)[0]) if get_origin(kind) is Literal else kind


def _get_choices(kind: Any) -> tuple[str, ...] | None:
    return get_args(kind) if get_origin(kind) is Literal else None


def _parse_bool(text: str) -> bool:
    # SageMaker passes hyperparameters as text: --amp True
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")


def _require(ok: bool, name: str, message: str) -> None:
    if not ok:
        raise SettingsError(f"--{name.replace('_', '-')} {message}")
