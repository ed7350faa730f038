"""Scorers for tests of run_workers that crash, hang or fail for one certain input; imported by the worker processes.

Each is made like ``partial(Odd, "kill")`` and answers with the input's name in ``error``, so that a test sees which
row came where.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from catdog.errors import DataError, ModelError
from catdog.score.rows import Row
from catdog.score.scorer import Answer, Seconds
from catdog.sources.listing import Input

BAD = "bad"
"""The name of the input that the trouble is with."""


def _hang_without_python() -> None:
    """As a decoder in C does that never lets go of the interpreter: no other thread of the process runs either."""
    ctypes.PyDLL(None).sleep(600)


def _no_credentials() -> None:
    raise DataError("s3://photos: the AWS credentials are refused (ExpiredToken); renew them")


TROUBLES: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(3),
    "": lambda: None,
    "slow": lambda: time.sleep(1.5),
    "hang in C": _hang_without_python,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "bug": lambda: 1 // 0,
    "credentials": _no_credentials,
}


class Odd:
    """Gives each input a row with its name and its bytes' length; does TROUBLES[trouble] for the one named BAD.

    ``note``: a file that is made at the first trouble, after which there is no more.
    """

    def __init__(self, trouble: str = "", note: Path | None = None, pause_s: float = 0.0, answer: int = 0) -> None:
        self._trouble, self._note, self._pause_s, self._padding = trouble, note, pause_s, "x" * answer

    def __call__(self, inputs: Sequence[Input], reads: Sequence[Callable[[], bytes]]) -> Answer:
        rows = []
        for item, read in zip(inputs, reads, strict=True):
            if item.source == BAD and not (self._note and self._note.exists()):
                if self._note:
                    self._note.touch()
                TROUBLES[self._trouble]()
            rows.append(Row("ok", width=len(read()), error=item.source, sha256=self._padding))
        time.sleep(self._pause_s * (zlib.crc32(inputs[0].source.encode()) % 5))
        return Answer(rows, Seconds(decoding=1.0))


def no_model() -> Odd:
    raise ModelError("tiny.onnx: the file was replaced during the run; give --restart to begin anew")


def dies_at_start() -> Odd:
    os._exit(7)


def dies_twice_at_start(notes: Path) -> Odd:
    """``notes``: a folder, where each process leaves a file."""
    (notes / str(os.getpid())).touch()
    if len(list(notes.iterdir())) <= 2:
        os._exit(7)
    return Odd()
