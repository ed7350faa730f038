"""The checkpoint from which a run that was cut off goes on, and the signals that ask a run to write it and stop.

The file is opened without unpickling anything but tensors, numbers, text, lists and dictionaries.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch

from catdog.errors import DataError, ModelError, SettingsError
from catdog.files import replace_file
from catdog.text import first_line
from catdog.training.settings import NOT_LEARNT, Settings

FILE_NAME: Final = "run.ckpt"
PAUSE: Final = 30  # times as long as writing took: short epochs write no more often, so that it costs 3% of the time


class Checkpoint:
    """A run's state in one file, with the settings and photos that say which run it is."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        data_fingerprint: str,
        processes: int = 1,
        is_writer: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``is_writer``: whether this is the one of the processes that writes the file. ``clock``: s."""
        self.path = folder / FILE_NAME
        self._is_writer, self._clock = is_writer, clock
        self._every_s = settings.checkpoint_minutes * 60
        self._written, self._took_s = clock(), 0.0
        self._identity = {name: value for name, value in vars(settings).items() if name not in NOT_LEARNT} | {
            "data": data_fingerprint,
            "processes": processes,
        }

    def is_due(self, epoch_ended: bool) -> bool:
        """Return whether this process should write now: the last one is older than ``--checkpoint-minutes``.

        At an epoch's end it is due earlier: when the last one is ``PAUSE`` times as old as it took to write.
        """
        pause = min(self._every_s, PAUSE * self._took_s) if epoch_ended else self._every_s
        return self._is_writer and self._clock() - self._written > pause

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the file by ``state``, unless another process writes it; raises DataError where it can't be written.

        ``state``: tensors, numbers, text, lists, dictionaries.
        """
        if not self._is_writer:
            return
        began = self._clock()
        try:
            with replace_file(self.path) as temporary, temporary.open("wb") as file:
                torch.save({"identity": self._identity, "state": dict(state)}, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's, after an OSError of the file's
            cause = error if isinstance(error, OSError) else error.__context__
            why = cause.strerror if isinstance(cause, OSError) else first_line(error)
            raise DataError(f"{self.path}: the checkpoint can't be written ({why}); make room and go on") from error
        self._written = self._clock()
        self._took_s = self._written - began

    def read(self) -> dict[str, Any] | None:
        """Return the state that was written last, or None; raises SettingsError (another run's) or ModelError."""
        self._delete_half_written()
        foreign = f"{self.path}: not a checkpoint of this version of catdog train; remove it to start anew"
        try:
            data = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (PermissionError, IsADirectoryError) as error:
            raise ModelError(f"{self.path}: can't be read ({error.strerror})") from error
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
            raise ModelError(foreign) from error
        if not isinstance(data, dict) or not isinstance(identity := data.get("identity"), dict):
            raise ModelError(foreign)
        state = data.get("state")
        if not isinstance(state, dict) or state.keys() != {"progress", "learner", "best"}:
            raise ModelError(foreign)
        for name in self._identity.keys() | identity.keys():
            there, here = identity.get(name), self._identity.get(name)
            if there != here:
                what = (
                    "of a run on other photos"
                    if name == "data"
                    else f"of a run with {there} processes, this one has {here}"
                    if name == "processes"
                    else f"of a run with --{name.replace('_', '-')} {there}, this one has {here}"
                )
                raise SettingsError(
                    f"{self.path}: the checkpoint is {what}; go on as it began, give another --checkpoint-dir, or "
                    "remove it to start anew"
                )
        return dict(state)

    def remove(self) -> None:
        """Delete the file of a finished run, and its folder if nothing else is there."""
        self.path.unlink(missing_ok=True)
        self._delete_half_written()
        try:
            self.path.parent.rmdir()
        except OSError:
            return  # it holds something else, or is a mount

    def _delete_half_written(self) -> None:
        for file in self.path.parent.glob(f".{FILE_NAME}.*.tmp"):
            file.unlink(missing_ok=True)


class StopRequest:
    """A handler of signals that keeps the number of the last one in ``signal``; a second Ctrl-C interrupts at once."""

    signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; raise KeyboardInterrupt where it is a second Ctrl-C."""
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def handle_signals(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """Let ``handler`` answer these signals while the block runs."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
