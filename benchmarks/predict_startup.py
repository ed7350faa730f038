"""Cold start of the command line against the least that any ONNX script must do.

    python benchmarks/predict_startup.py [--model FILE] [--photo FILE] [--pairs 10]

Both open the same model and classify the same photo once, each in a new process, in turn:

    bare     import numpy, onnxruntime, PIL; open the photo, shrink it, open the model, run it once
    predict  python -m catdog.predict PHOTO --model FILE

Goal: predict takes at most twice as long as bare. Needs the core only. The figures are in the README.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

EMBEDDED = Path(__file__).parents[1] / "catdog" / "assets" / "catdog.onnx"
GOAL = 2.0
BARE = """
import sys
import numpy as np
import onnxruntime as ort
from PIL import Image
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = session.get_inputs()[0]
pixels = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((224, 224)))[None]
print(session.run(["probabilities"], {image.name: pixels}))
"""


def main(
    model: Annotated[Path, typer.Option(exists=True, help="The ONNX model of both.")] = EMBEDDED,
    photo: Annotated[Path | None, typer.Option(exists=True, help="Default: 500x375 px of noise as JPEG.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Runs of each; their medians are compared.")] = 10,
) -> None:
    """Time cold starts."""
    with tempfile.TemporaryDirectory() as folder:
        if photo is None:
            photo = Path(folder, "noise.jpg")
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)).save(photo)
        commands = {
            "bare": [sys.executable, "-c", BARE, str(model), str(photo)],
            "predict": [sys.executable, "-m", "catdog.predict", str(photo), "--model", str(model)],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for pair in range(pairs + 1):
            for name, command in commands.items():
                elapsed = run(command)
                if pair:  # the first pair fills the disk cache and writes .pyc files
                    seconds[name].append(elapsed)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    typer.echo(f"{'':8} {'median':>8} {'fastest':>8} {'slowest':>8}   {pairs} runs each, seconds")
    for name, times in seconds.items():
        typer.echo(f"{name:8} {medians[name]:8.3f} {min(times):8.3f} {max(times):8.3f}")
    typer.echo(f"{'ratio':8} {medians['predict'] / medians['bare']:8.2f}   goal: at most {GOAL}")


def run(command: list[str]) -> float:
    """Seconds that the command took; it must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
