"""Labelling a folder of photos: catdog.score beside the bare model, a naive loop and five well-known libraries.

    python benchmarks/score.py PHOTOS --run runs/calibrated --photos 600 --chart docs/score.png

One run, rounds in turn, medians: photos/s, peak memory and answers of the ways in ``score_ways.py``, on the same files,
cores and ResNet-18 weights. PHOTOS holds JPEGs at their original size, named after their class: ``cat.1.jpg``.

- A way is a process of its own. "photos/s" is what it does once it has imported its packages and loaded its model, from
  the first file to the last label; "whole process" has all. catdog's photos/s are those of its --summary, between its
  first and its last finished task of 16 photos, which flatters it by 16 photos at most for every core after the first:
  give it many more than that.
- All ways get the same copies of the files, read from the page cache, and each reads, decodes and resizes with its own
  means, at its defaults but for these: a reading process for every core where there are such, channels_last where torch
  is used by hand (it is faster), and photos stretched to the model's size, as it was trained, where a way can.
  Ultralytics can't: it resizes the short side and crops.
- "naive loop, int8" runs catdog's own int8 file; the goals are measured against the ways with float weights.
- "bare model" is ONNX Runtime alone on pixels in memory: the better of one session on all cores and of a process with
  one thread for every core.
- Memory is the proportional set size (PSS) of a way's processes together, looked at ten times a second, or less often
  where looking takes long.

timm, transformers, fastai and Ultralytics are installed on the first run, each into its own
build/benchmark-environments/NAME, which sees the packages of the Python that runs this, so that torch and ONNX Runtime
are the same. Ultralytics is under the AGPL: it is run as a program of its own here and is no dependency of catdog.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from matplotlib.figure import Figure
from score_models import prepare
from score_processes import ROOT, WayError, environment_for, run, with_version
from score_ways import WAYS, Task

EMBEDDED: Final = ROOT / "catdog" / "assets" / "catdog.onnx"
OURS: Final = ("catdog, int8", "catdog, float")
FAST: Final = "catdog, int8, --fast"  # of a file that has such a pass
WITH_CATDOG: Final = (*OURS, FAST)
BARE: Final = ("bare model, int8", "bare model, float")
ANSWERS: Final = "answers"  # folder in the scratch space


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way in one round."""

    steady: float
    """Photos/s without imports and model loading."""
    whole: float
    """Photos/s of the whole process."""
    peak_mib: float
    labels: list[str]


Round = dict[str, Measured]
"""By the name of the way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="PHOTOS", help="a folder of JPEGs named like cat.1.jpg")
    parser.add_argument("--run", type=Path, required=True, help="a run folder: model.safetensors and contract.json")
    parser.add_argument("--int8", type=Path, default=EMBEDDED, help="its int8 model; default: the embedded one")
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--ways", metavar="A,B", default="", help=f"of: {'; '.join((*WITH_CATDOG, *WAYS))}; by any part"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write a PNG bar chart")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what each round measured")
    chosen = parser.parse_args()
    parts = [part.strip().lower() for part in chosen.ways.split(",")]
    names = [name for name in (*WITH_CATDOG, *WAYS) if any(part in name.lower() for part in parts)]
    if not names:
        parser.error(f"--ways: none of: {'; '.join((*WITH_CATDOG, *WAYS))}")
    with tempfile.TemporaryDirectory(prefix="catdog-benchmark-") as folder:
        scratch = Path(folder)
        task = prepare(chosen.run, chosen.int8, copies(chosen.folder, chosen.photos, scratch / "photos"), scratch)
        (scratch / "task.json").write_text(json.dumps(dataclasses.asdict(task)))
        rounds: list[Round] = []
        errors: dict[str, str] = {}
        commands = dict(ready(names, task, scratch, errors))
        for number in range(chosen.rounds):
            rounds.append({})
            for name in [name for name in commands if name not in errors]:
                try:
                    rounds[-1][name] = measure(name, commands[name], task, scratch)
                except WayError as error:
                    errors[name] = str(error)
                    print(f"round {number + 1}: {name}: {error}", file=sys.stderr)
                else:
                    print(f"round {number + 1}: {name}: {rounds[-1][name].steady:.1f} photos/s", file=sys.stderr)
    if chosen.json:
        plain = [{name: dataclasses.asdict(measured) for name, measured in r.items()} for r in rounds]
        chosen.json.write_text(json.dumps({"files": task.files, "rounds": plain}))
    truth = [Path(file).name.partition(".")[0] for file in task.files]
    title = f"ResNet-18, {task.size} px, {len(truth)} photos from files, CPU, {task.cores} cores"
    print(f"{title}; medians of {chosen.rounds} rounds (lowest to highest)\n")
    rounds = [with_best_bare(measured) for measured in rounds]
    report(rounds, errors, truth)
    goals(rounds)
    if chosen.chart:
        chart(rounds, title, chosen.chart)


def copies(folder: Path, count: int, place: Path) -> list[Path]:
    """Copies of ``count`` photos in one folder, classes in turn: cat.1, dog.1, cat.2, ..."""
    place.mkdir()
    photos = [path for path in folder.rglob("*.jpg") if len(path.name.split(".")) == 3]
    photos.sort(key=lambda path: (path.name.split(".")[1].zfill(9), path.name))
    copied = [Path(shutil.copy(photo, place / photo.name)) for photo in photos[:count]]
    if not copied or len(set(copied)) != len(copied):
        raise SystemExit(f"{folder}: no JPEGs named like cat.1.jpg, or several of one name")
    return copied


def ready(names: list[str], task: Task, scratch: Path, errors: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The command of each way, its packages installed; what can't be installed goes to ``errors``."""
    for name in names:
        if name in WITH_CATDOG:
            model = task.int8_onnx if "int8" in name else task.float_onnx
            out, summary = (str(scratch / ANSWERS / f"a.{ending}") for ending in ("parquet", "json"))
            program = [sys.executable, "-m", "catdog.score", task.folder, "--model", model, "--threshold", "0"]
            yield name, [*program, "--out", out, "--summary", summary, *["--fast"] * (name == FAST)]
            continue
        try:
            python = environment_for(name)
        except WayError as error:
            errors[name] = f"not installed: {error}"
            continue
        script = str(Path(__file__).with_name("score_ways.py"))
        told = str(scratch / ANSWERS / "a.json")
        yield name, [python, "-W", "ignore", script, name, str(scratch / "task.json"), told]


def measure(name: str, command: list[str], task: Task, scratch: Path) -> Measured:
    """Run a way once; raises WayError."""
    place = scratch / ANSWERS
    shutil.rmtree(place, ignore_errors=True)  # nothing to go on from
    place.mkdir()
    seconds, peak = run(command, scratch)
    count = len(task.files)
    try:
        told = json.loads((place / "a.json").read_text())
        if name in WITH_CATDOG:
            rate, labels = told["photos_per_second"], parquet_labels(place / "a.parquet", task)
        else:
            rate, labels = count / told["seconds"], told["labels"]
    except (ImportError, KeyError, OSError, ValueError) as error:
        raise WayError(f"no usable answers ({type(error).__name__}: {error})") from error
    return Measured(rate, count / seconds, peak / 2**20, labels)


def parquet_labels(path: Path, task: Task) -> list[str]:
    """The labels that catdog.score wrote, in the order of the photos."""
    import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]

    table: dict[str, list[Any]] = pq.read_table(path, columns=["source", "label"]).to_pydict()
    labels = {Path(source).name: label for source, label in zip(table["source"], table["label"], strict=True)}
    if set(labels) != {Path(file).name for file in task.files}:
        raise WayError(f"{len(labels)} answers, not one for each of {len(task.files)} photos")
    return [labels[Path(file).name] for file in task.files]


def with_best_bare(measured: Round) -> Round:
    """One line for each bare model, that of its faster form in this round."""
    best = {
        name: max((measured[form] for form in measured if form.startswith(name)), key=lambda m: m.steady, default=None)
        for name in BARE
    }
    ways = [name for name in measured if not name.startswith(BARE)]
    ordered = {name: measured[name] for name in ways if name in WITH_CATDOG}
    ordered |= {name: found for name, found in best.items() if found}
    return ordered | {name: measured[name] for name in ways}


def report(rounds: list[Round], errors: dict[str, str], truth: list[str]) -> None:
    """Print the table."""
    print(
        "| way | photos/s | photos/s, whole process | peak, MiB | times slower than catdog, int8 "
        "| same label as catdog, float | right |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in rounds[0]:
        found = [measured[name] for measured in rounds if name in measured]
        labels = found[-1].labels
        slower = ratio(rounds, OURS[0], name)
        reference = rounds[-1].get(OURS[1]) or rounds[-1].get(BARE[1])
        same = f"{agreement(labels, reference.labels):.2%}" if reference else ""
        cells = [with_version(name), spread([m.steady for m in found])]
        if name in BARE:
            cells += ["", ""]
        else:
            cells += [spread([m.whole for m in found]), f"{statistics.median(m.peak_mib for m in found):.0f}"]
        cells += [f"{slower:.2f}" if slower else "", same, f"{agreement(labels, truth):.2%}"]
        print(f"| {' | '.join(cells)} |")
    for name, error in errors.items():
        print(f"| {name} | {error} | | | | | |")


def goals(rounds: list[Round]) -> None:
    """Print what was measured beside the goals."""
    others = [name for name in rounds[0] if name not in (*WITH_CATDOG, *BARE) and not name.endswith("int8")]
    print()
    if times := ratio(rounds, FAST, OURS[0]):
        fast, whole = ([r[name].labels for r in rounds if name in r][-1] for name in (FAST, OURS[0]))
        print(f"{FAST}: {times:.2f} times {OURS[0]}, {agreement(fast, whole):.2%} of the labels are the same")
    for ours, bare_model, goal in zip((FAST, *OURS), (BARE[0], *BARE), (4, 4, 1), strict=True):
        ratios = {name: (ratio(rounds, ours, name), ratio(rounds, ours, name, "whole")) for name in others}
        for number, what in enumerate(("without start-up", "whole process")):
            if known := [(found, name) for name in others if (found := ratios[name][number])]:
                times, best = min(known)
                print(f"{ours}, {what}: {times:.2f} times the best other way, {best} (goal: {goal})")
        if share := ratio(rounds, ours, bare_model):
            print(f"{ours}: {share:.0%} of the bare model's photos/s (goal: 90%)")


def ratio(rounds: list[Round], name: str, other: str, rate: Literal["steady", "whole"] = "steady") -> float | None:
    """How many times as fast as the other one, median of the rounds that have both."""
    ratios = [getattr(r[name], rate) / getattr(r[other], rate) for r in rounds if name in r and other in r]
    return statistics.median(ratios) if ratios else None


def agreement(labels: list[str], others: list[str]) -> float:
    """Share of equal labels."""
    return sum(a == b for a, b in zip(labels, others, strict=True)) / len(labels)


def spread(values: list[float]) -> str:
    """Median, and the lowest and the highest of several."""
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def chart(rounds: list[Round], title: str, path: Path) -> None:
    """Bars: photos/s left, peak memory right."""
    names = [*rounds[0]][::-1]
    found = {name: [measured[name] for measured in rounds if name in measured] for name in names}
    rates = {name: statistics.median(m.steady for m in found[name]) for name in names}
    figure = Figure(figsize=(11, 1.2 + 0.4 * len(names)), layout="constrained")
    speed, memory = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    colors = ["#0072b2" if name in WITH_CATDOG else "#bbbbbb" if name in BARE else "#888888" for name in names]
    labels = [f"{rates[name]:.0f}" for name in names]
    if OURS[0] in names:
        slower = {name: ratio(rounds, OURS[0], name) for name in names if name not in (*WITH_CATDOG, *BARE)}
        labels = [f"{rates[name]:.0f}" + (f" ({slower[name]:.1f})" if slower.get(name) else "") for name in names]
    speed.bar_label(speed.barh(names, [rates[name] for name in names], color=colors), labels, padding=3)
    speed.set(xlabel="photos/s, without start-up", title="speed (times slower than catdog, int8)")
    speed.margins(x=0.2)
    peaks = [0 if name in BARE else statistics.median(m.peak_mib for m in found[name]) for name in names]
    bars = memory.barh(names, peaks, color=colors)
    memory.bar_label(bars, [f"{peak:.0f}" if peak else "" for peak in peaks], padding=3)
    memory.set(xlabel="MiB", title="peak memory")
    memory.margins(x=0.15)
    for axes in (speed, memory):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
