"""Kills the building of a dataset before each single thing that it does, and builds it again: a line of JSON for each.

    python -m tests.integration.kill_dataset FOLDER
    {"killed": "old", "again": "new", "left": ["out", "photos"]}

A program of its own because it forks.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from catdog.dataset import Manifest, build
from tests.integration.kill_everywhere import Stop
from tests.unit.test_dataset_build import class_folders, make


def main(folder: Path) -> None:
    photos, out = folder / "photos", folder / "out"
    names = {}
    for name, count in (("old", 2), ("new", 3)):
        make(photos, class_folders(count=count))
        names[build([photos], out).fingerprint] = name
    for at in itertools.count(1):
        for extra in ("Cats/2.png", "Dogs/2.png"):
            (photos / extra).unlink()
        assert names[build([photos], out, replace=True).fingerprint] == "old"
        make(photos, class_folders(count=3))
        status = build_and_stop(photos, out, at)
        killed, again = (names[manifest.fingerprint] for manifest in (Manifest.read(out), build([photos], out)))
        left = sorted(path.name for path in folder.iterdir())
        print(json.dumps({"killed": killed, "again": again, "left": left}), flush=True)
        if status == 0:
            return
        assert status == -signal.SIGKILL, status


def build_and_stop(photos: Path, out: Path, at: int) -> int:
    """Build in a process of its own, which is killed before the ``at``-th thing it does; return its exit code."""
    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(Stop("kill", at, out.parent))
            build([photos], out)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
