"""A search space: which settings of a training run are fixed, and which are searched in what range.

    settings: {epochs: 2, size: 128}                    # any field of Settings
    search:
      lr: {min: 0.01, max: 0.2, scale: log}             # a range; whole numbers where the setting's are; scale: linear
      trainable_from: [layer2, layer3, layer4]          # choices, of two or more

It is plain data. Whoever searches (``catdog.training.study`` with optuna here, a tuning service elsewhere) maps it to
its own kinds of parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from catdog.errors import SettingsError
from catdog.training.settings import NOT_LEARNT, Settings, check_type, read_yaml, resolve, suggest

Value = float | int | str
FROM_COMMAND: Final = ("data", "output", "output_data", "checkpoint_dir", "find_lr")
"""Settings that each trial gets from the command that searches, or that make no sense for a trial."""
NOT_SEARCHED: Final = NOT_LEARNT | {"seed", "cache_gb", "amp", "device"}
"""Settings that say where and how to work; and the seed, whose best value is luck."""
_DEFAULTS: Final[Mapping[str, Any]] = {f.name: f.default for f in fields(Settings)}


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, both included; whole ones if both are. ``log``: on a logarithmic scale."""

    low: float | int
    high: float | int
    log: bool = False

    @property
    def ends(self) -> tuple[Value, Value]:
        """The smallest and the largest value."""
        return self.low, self.high

    def plain(self) -> dict[str, Value]:
        """Return it as it stands in the file."""
        return {"min": self.low, "max": self.high, "scale": "log" if self.log else "linear"}


@dataclass(frozen=True)
class Choices:
    """A few values, in no order."""

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, Value]:
        """The smallest and the largest value; text is ordered as words are."""
        ordered = sorted(self.values)  # all of one type, that of the setting
        return ordered[0], ordered[-1]

    def plain(self) -> list[Value]:
        """Return it as it stands in the file."""
        return list(self.values)


@dataclass(frozen=True)
class Space:
    """What a space file says."""

    path: Path
    settings: Mapping[str, Any]
    """Fixed for every trial."""
    search: Mapping[str, Range | Choices]

    def trial(self, params: Mapping[str, Value], data: str | None = None) -> Settings:
        """Return the settings of a trial: ``params``, completed by the fixed ones and the architecture's defaults.

        Raises SettingsError when values that are fine alone contradict each other.
        """
        try:
            settings = resolve({**self.settings, **params, "data": data})
        except SettingsError as error:
            raise SettingsError(f"{self.path}: {name_keys(str(error))}") from error
        if not settings.epochs + settings.frozen_epochs:
            raise SettingsError(f"{self.path}: epochs and frozen_epochs leave nothing to train")
        return settings


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What came of a trial."""

    number: int
    """From 0."""
    state: Literal["finished", "pruned", "failed", "interrupted"]
    """``pruned``: ended early as no better than the others; ``failed``: loss became NaN, out of memory, and such."""
    score: float | None = None
    """The best epoch's measure, less a ten thousandth of its loss, which decides between equals."""
    measure: float | None = None
    """Its validation accuracy, or a detector's average precision."""
    val_loss: float | None = None
    epochs: int | None = None
    """Finished ones."""
    minutes: float | None = None
    params: Mapping[str, Value]


def name_keys(message: str) -> str:
    """Return a message about the options of ``catdog train`` with the keys that a space file has for them."""

    def name(option: re.Match[str]) -> str:
        key = option[1].replace("-", "_")
        return key if key in _DEFAULTS and key not in FROM_COMMAND else option[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", name, message)


def read_space(path: str | Path) -> Space:
    """Read and check a space file; raises SettingsError with one line that names the place in it."""
    path = Path(path)
    data = read_yaml(path, str(path))
    if not isinstance(data, dict):
        raise SettingsError(f"{path}: must have the keys settings and search")
    _check_names(str(path), data, ("settings", "search"))
    fixed, searched = ({} if data.get(key) is None else data[key] for key in ("settings", "search"))
    for key, part in (("settings", fixed), ("search", searched)):
        if not isinstance(part, dict):
            raise SettingsError(f"{path}: {key}: must map names of settings to values")
        _check_names(f"{path}: {key}", part, list(_DEFAULTS))
    if not searched:
        raise SettingsError(f"{path}: search: is empty; name a setting and its range, as in lr: {{min: 0.01, max: 1}}")
    # A value is judged beside the task, since some belong to one of them.
    task = {"task": _check_value(f"{path}: settings: task", "task", fixed["task"], {})} if "task" in fixed else {}
    settings = {name: _check_fixed(f"{path}: settings: {name}", name, value, task) for name, value in fixed.items()}
    search = {name: _check_searched(f"{path}: search: {name}", name, value, task) for name, value in searched.items()}
    if both := [name for name in search if name in settings]:
        raise SettingsError(f"{path}: search: {both[0]}: is in settings too; keep one of them")
    space = Space(path, settings, search)
    for end in (0, 1):
        space.trial({name: choice.ends[end] for name, choice in search.items()})
    return space


def _check_fixed(where: str, name: str, value: Any, task: Mapping[str, Any]) -> Any:
    if name in FROM_COMMAND:
        raise SettingsError(f"{where}: is not for trials; leave it out (the command has --data and --output)")
    return _check_value(where, name, value, task)


def _check_searched(where: str, name: str, given: Any, task: Mapping[str, Any]) -> Range | Choices:
    if name in NOT_SEARCHED:
        raise SettingsError(f"{where}: can't be searched, only set under settings: it doesn't say what to learn")
    if name == "task":
        raise SettingsError(f"{where}: can't be searched, only set under settings: two tasks' scores can't be compared")
    if isinstance(given, list):
        values = tuple(_check_value(where, name, value, task) for value in given)
        if len(set(values)) < max(2, len(values)):
            raise SettingsError(f"{where}: needs two or more choices, all different; a single value goes into settings")
        return Choices(values)
    if not isinstance(given, dict):
        raise SettingsError(f"{where}: must be {{min: ..., max: ..., scale: log or linear}} or a list, not {given!r}")
    _check_names(where, given, ("min", "max", "scale"))
    if isinstance(_DEFAULTS[name], str):
        raise SettingsError(f"{where}: has no range; give a list of choices")
    if missing := [key for key in ("min", "max") if key not in given]:
        raise SettingsError(f"{where}: needs {missing[0]}")
    low, high = (_check_value(where, name, given[key], task) for key in ("min", "max"))
    scale = given.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise SettingsError(f"{where}: scale must be log or linear, not {scale!r}")
    if low >= high:
        raise SettingsError(f"{where}: min must be less than max, not {low} and {high}")
    if scale == "log" and low <= 0:
        raise SettingsError(f"{where}: a log scale needs min above 0, not {low}")
    return Range(low, high, scale == "log")


def _check_value(where: str, name: str, value: Any, task: Mapping[str, Any]) -> Any:
    """Return ``value`` as the setting's type; raises SettingsError where it is another or out of its bounds.

    ``task``: the setting of this name, where the file has it.
    """
    try:
        value = check_type(name, value)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{where}: must be a finite number, not {value}")
    try:
        resolve({**task, name: value})
    except SettingsError as error:
        message = str(error).removeprefix(f"--{name.replace('_', '-')} ")
        raise SettingsError(f"{where}: {value!r} {message}") from error
    return value


def _check_names(where: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise SettingsError(f"{where}: {name}: unknown{suggest(str(name), known, 'see catdog train --help')}")
