"""Kills the building of a dataset before each single thing that it does, and builds it again: a line of JSON for each.

    python -m tests.integration.kill_dataset FOLDER
    {"killed": "old", "again": "new", "left": ["out", "photos"]}

A program of its own because it forks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from catdog.dataset import Manifest, build
from tests.integration.kill_everywhere import Stop
from tests.unit.test_dataset_build import class_folders, make


def main(folder: Path) -> None:
    photos, out = folder / "photos", folder / "out"
    make(photos, class_folders(count=2))
    old = build([photos], out).fingerprint
    at, status = 0, -1
    while status:
        at += 1
        names = {old: "old"}
        build([photos], out, replace=True)
        make(photos, class_folders(count=3))
        child = os.fork()
        if child == 0:
            sys.addaudithook(Stop("kill", at, folder))
            build([photos], out)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = names.get(Manifest.read(out).fingerprint, "new")
        again = names.get(build([photos], out).fingerprint, "new")
        print(
            json.dumps({"killed": killed, "again": again, "left": sorted(path.name for path in folder.iterdir())}),
            flush=True,
        )
        for name in ("Cats/2.png", "Dogs/2.png"):
            (photos / name).unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
