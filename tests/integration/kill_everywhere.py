"""Stops a scoring before each single thing that it does to a folder, and lets it go on: a line of JSON for each.

    python -m tests.integration.kill_everywhere kill|full-disk fresh|stale|update .csv FOLDER
    {"at": 1, "first": "killed", "left": ["r.csv", "r.csv.run.json"], "same": true}

A program of its own because it forks. Answers come from names alone, so that hundreds of runs take seconds.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catdog.errors import CatdogError
from catdog.score.rows import Row
from catdog.score.run import Task, score
from catdog.score.scorer import Answer, Job, Seconds

DONE, REFUSED, BUG = 0, 9, 8
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"}
"""Those of Python's audit events that are about files (PEP 578). They come before the thing is done."""


def answers(tasks: Iterator[Task], make: object) -> Iterator[Answer]:
    """An engine that asks no model."""
    for task in tasks:
        yield Answer([Row("ok", "cat", 0.75, (0.75, 0.25), 32, 24, item.source) for item in task], Seconds())


class Stop:
    """An audit hook for the ``at``-th event that is about ``folder``."""

    def __init__(self, how: str, at: int, folder: Path) -> None:
        self._how, self._at, self._folder, self._count = how, at, str(folder), 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(self._folder):
            self._count += 1
            if self._count == self._at and self._how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._count == self._at and self._how == "full-disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run(photos: Path, out: Path) -> None:
    score([str(photos)], [], str(out), Job(None, "sha256"), ("cat", "dog"), answers, 1, part_rows=16)


def attempt(photos: Path, out: Path, how: str = "", at: int = 0) -> str:
    """One run in a process of its own, which ends as it says."""
    child = os.fork()
    if child == 0:
        code = BUG
        try:
            sys.addaudithook(Stop(how, at, out.parent))
            run(photos, out)
            code = DONE
        except CatdogError as error:
            code = REFUSED if "\n" not in str(error) else BUG
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {DONE: "done", REFUSED: "refused", -signal.SIGKILL: "killed"}.get(code, f"exit code {code}")


def stale_parts(photos: Path, out: Path) -> None:
    """What is there when somebody removed the files of a run on other photos, but not its folder of parts."""
    for at in range(1, 100):
        attempt(photos, out, "kill", at)
        if len(list(out.parent.glob("*.parts/part-*"))) == 1:
            break
    for path in out.parent.iterdir():
        if path.is_file():
            path.unlink()


def change(photos: Path) -> None:
    """Some come, some go, some are replaced."""
    for name in ("00.jpg", "07.jpg", "19.jpg"):
        (photos / name).unlink()
    for name in ("05.jpg", "18.jpg"):
        (photos / name).write_bytes(b"replaced")
    for name in (*(f"new-{i:02}.jpg" for i in range(20)), "055.jpg"):
        (photos / name).touch()


def main(how: str, before: str, ending: str, folder: Path) -> None:
    photos, others, out = folder / "photos", folder / "others", folder / "out" / f"r{ending}"
    for each in (photos, others):
        each.mkdir()
        for i in range(20):
            (each / f"{i:02}.jpg").touch()
    out.parent.mkdir()
    run(photos, out)  # here, so that what it imports is imported once
    if before == "update":
        former = out.parent.rename(folder / "former")
        change(photos)
        run(photos, out)
    expected = out.read_bytes()
    shutil.rmtree(out.parent)
    if before == "update":
        former.rename(out.parent)
    else:
        out.parent.mkdir()
    if before == "stale":
        stale_parts(others, out)
    at_start = out.parent.rename(folder / "at-start")
    for at in range(1, 1000):
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(at_start, out.parent)
        first = attempt(photos, out, how, at)
        finished = first == "done"
        if not finished:
            attempt(photos, out, how, at * 7 % 19 + 1)
            finished = attempt(photos, out) == "done"
        left = sorted(path.name for path in out.parent.iterdir())
        same = finished and out.read_bytes() == expected
        print(json.dumps({"at": at, "first": first, "left": left, "same": same}), flush=True)
        if first == "done" and at > 20 and how == "kill":
            return
        if how == "full-disk" and at >= 45:  # some of them do no harm, so that it ends well says nothing
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
