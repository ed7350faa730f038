"""Commands that need torch in real processes, which need not import it: each is forked from one that has.

    run = Forked("train", "--data", "photos", "--output", "run")    # catdog train --data photos --output run
    run.kill()      # what it said on stderr until then
    run.end()       # where it ends by itself: .returncode, .stdout, .stderr

An import of all that training needs takes a processor 5 seconds.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

PATIENCE_S: Final = 300.0
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["catdog.training.study", "catdog.training.evaluation", "catdog.export"])


class Forked:
    """``catdog COMMAND ARGUMENTS`` in a session of its own, with some variables more; a warning is an error there."""

    def __init__(self, command: str, *arguments: object, **variables: str) -> None:
        self._words = [command, *map(str, arguments)]
        self._folder = TemporaryDirectory()
        given = (self._words, {**os.environ, **variables}, self._folder.name)
        self._process = _CONTEXT.Process(target=_run, args=given)
        self._process.start()
        atexit.register(self._process.kill)  # else a test that fails is waited for until it has trained
        assert self._process.pid
        self.pid: Final = self._process.pid

    def runs(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> str:
        """End it with SIGKILL, and return what went to stderr."""
        self._process.kill()
        ended = self.end()
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        return ended.stderr

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait until it ends, and take what it said; once. One that hangs is killed, and the test fails."""
        self._process.join(PATIENCE_S)
        hangs = self._process.is_alive()
        self._process.kill()
        self._process.join()
        atexit.unregister(self._process.kill)
        assert self._process.exitcode is not None
        with self._folder as folder:
            said = [Path(folder, name).read_text() for name in ("out", "error")]
        assert not hangs, f"{' '.join(self._words)}: no end after {PATIENCE_S} s: {said[1][-2000:]}"
        return subprocess.CompletedProcess(self._words, self._process.exitcode, *said)


def end_together(count: int, command: str, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Start so many processes of a command with what torchrun tells its own, and wait until they end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "forked"}
    group |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    runs = [Forked(command, *arguments, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]
    return [run.end() for run in runs]


def _run(words: list[str], variables: Mapping[str, str], folder: str) -> None:
    from catdog.start import start

    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ResourceWarning)  # torch 2.6 leaves a folder of its own to the interpreter's end
    sys.argv = ["catdog", *words[1:]]
    start(words[0])
