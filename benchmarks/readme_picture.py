"""The README's picture: what ``catdog predict`` prints for scikit-image's photos, as docs/predict.svg.

python benchmarks/readme_picture.py
"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = ("catdog", "predict", "build/demo/")
# rich's own format loads a font from the web; a picture in a README must not.
FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
line-height: {line_height}px; }} {styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def run_in_terminal(command: tuple[str, ...]) -> str:
    """Return what a command prints to a terminal, colours included."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, stdout=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    return shown.replace("\r\n", "\n")


def main() -> None:
    """Download the photos, run the command, draw its terminal."""
    subprocess.run([sys.executable, "benchmarks/demo_photos.py"], cwd=ROOT, check=True, capture_output=True)
    console = Console(record=True, width=64, file=io.StringIO())
    console.print(f"$ {' '.join(COMMAND)}", style="bold")
    console.print(Text.from_ansi(run_in_terminal(COMMAND)))
    console.print()
    console.save_svg(
        str(ROOT / "docs" / "predict.svg"), title="catdog", theme=MONOKAI, code_format=FORMAT, unique_id="catdog"
    )


if __name__ == "__main__":
    main()
