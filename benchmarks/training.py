"""Training speed, catdog's beside a plain PyTorch loop's, fastai's and timm's: whole steps, and the data path alone.

    python benchmarks/training.py --data data/ --weights FILE.safetensors

One run, rounds in turn, medians: photos/s of the ways in ``training_ways.py``, on the same photos, weights, batch and
crop size, trainable layers, precision (float32), threads and optimizer. Every way lives in a process of its own, and
all but the one whose turn it is wait. fastai and timm are installed on the first run into build/benchmark-train-venv,
which sees the packages of the Python that runs this, so that torch is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from training_ways import WAYS, Catdog, Task

from catdog.machine import usable_cores

ROOT: Final = Path(__file__).resolve().parents[1]
ENVIRONMENT: Final = ROOT / "build" / "benchmark-train-venv"
# pip's arguments. fastai 2.8.12 takes torch 2.11 as it is; left out are spacy, for texts, and a web framework that
# fastprogress needs from 1.1 on.
INSTALLED: Final[dict[str, list[list[str]]]] = {
    "fastai": [
        ["--no-deps", "fastai==2.8.12", "fastprogress==1.0.5"],
        ["fastcore==2.2.39", "fasttransform==0.0.5", "fastdownload==0.0.8", "plum-dispatch<2.10", "pandas>=2",
         "scikit-learn>=1.5", "requests", "cloudpickle"],
    ],
    "timm": [["timm==1.0.31"]],
}  # fmt: skip
KEPT: Final = ("torch", "torchvision", "pillow", "numpy")  # versions that stay those of the running Python

Measured = dict[str, float]
"""Photos/s by what was measured: "train", "data" and, for catdog only, "step"."""


class Worker:
    """A way in a process of its own; ``error`` says why it can't go on."""

    def __init__(self, name: str, python: str, task: Task, amounts: dict[str, tuple[int, int]], log: Path) -> None:
        self.name, self.log, self.about = name, log, ""
        environment = os.environ | {"OMP_NUM_THREADS": str(task.threads)}
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [python, "-W", "ignore", __file__, "worker", name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment, cwd=ROOT,
            )  # fmt: skip
        self.error = ""
        self.about = (self.ask({"task": asdict(task), "amounts": amounts}) or {}).get("about", "")

    def ask(self, question: object) -> dict[str, Any] | None:
        """Its answer, or None with ``error`` set where it has ended."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            lines = self.log.read_text().strip().splitlines()
            self.error = lines[-1] if lines else "ended without a word"
            return None
        return answer

    def close(self) -> None:
        """End it, and the processes that it started."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="a dataset made by catdog.dataset")
    parser.add_argument("--weights", required=True, help="a safetensors file in torchvision's names; may be partial")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu" if gpu else "cpu")
    parser.add_argument("--size", type=int, default=192, help="size when serving, px; sets the cached photos' size")
    parser.add_argument("--train-size", type=int, default=160, help="side of the training crops, px")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--trainable-from", default="layer3", help="first stage that learns")
    parser.add_argument("--photos", type=int, default=2048, help="how many photos of the training split")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--workers", type=int, default=min(usable_cores(), 16), help="reading processes of the others")
    parser.add_argument("--channels-last", action="store_true", help="give the others catdog's memory layout as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="training steps a round; default 8, on a GPU 60")
    parser.add_argument("--warmup", type=int, default=0, help="steps before them; default 1, on a GPU 60")
    parser.add_argument("--batches", type=int, default=12, help="batches a round of the data path")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS], metavar="WAY")
    parser.add_argument("--chart", metavar="FILE", help="write a PNG bar chart")
    chosen = parser.parse_args()
    on_gpu = chosen.device == "gpu"
    steps, warmup = chosen.steps or (60 if on_gpu else 8), chosen.warmup or (60 if on_gpu else 1)
    # What readers have ready when a round begins was not made in its time: 4 batches each, catdog's prefetch_factor.
    ready = 4 * max(chosen.workers, 4 if on_gpu else 0)
    amounts = {"train": (warmup, steps), "data": (ready, chosen.batches), "step": (warmup, steps)}
    with tempfile.TemporaryDirectory(prefix="catdog-benchmark-") as scratch:
        task = Task(
            **{k: v for k, v in vars(chosen).items() if k in Task.__dataclass_fields__},
            longest=max(sum(amount) for amount in amounts.values()), scratch=scratch,
        )  # fmt: skip
        workers, errors = [], {}
        for name in dict.fromkeys(["catdog", *chosen.ways]):
            python, problem = environment_for(name)
            if problem:
                errors[name] = f"not installed: {problem}"
                continue
            print(f"starting {name}", file=sys.stderr)
            workers.append(Worker(name, python, task, amounts, Path(scratch) / f"{name}.log"))
        rounds: list[dict[str, Measured]] = []
        try:
            for number in range(chosen.rounds):
                rounds.append(dict(one_round(workers)))
                print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
        finally:
            for worker in workers:
                worker.close()
        errors |= {worker.name: worker.error for worker in workers if worker.error}
        about = {worker.name: worker.about for worker in workers}
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {chosen.threads} threads"
    title = (
        f"ResNet-18 from {chosen.trainable_from} on, {chosen.train_size} px crops, batches of {chosen.batch_size}, "
        f"float32, {device}"
    )
    print(f"{title}; medians of {chosen.rounds} rounds of {steps} steps, {chosen.batches} batches\n")
    medians = report(rounds, errors, about)
    if chosen.chart:
        chart(medians, title, Path(chosen.chart))


def one_round(workers: list[Worker]) -> Iterator[tuple[str, Measured]]:
    """Photos/s of each way, asked in turn; a way that failed is left out."""
    for worker in workers:
        measured: Measured = {}
        for what in ("train", "data", *(("step",) if worker.name == "catdog" else ())):
            if not worker.error and (answer := worker.ask(what)):
                measured[what] = answer["photos_per_second"]
        if not worker.error:
            yield worker.name, measured


def report(rounds: list[dict[str, Measured]], errors: dict[str, str], about: dict[str, str]) -> dict[str, Measured]:
    """Print the table and catdog's own ratio; gives the medians."""
    medians: dict[str, Measured] = {}
    print("| way | training, photos/s | catdog against it | data path alone, photos/s |\n| --- | --- | --- | --- |")
    for name in dict.fromkeys([*about, *errors]):
        measured = [r[name] for r in rounds if name in r]
        if name in errors or not measured:
            print(f"| {name} | {errors.get(name, 'not measured')} | | |")
            continue
        medians[name] = {what: statistics.median(m[what] for m in measured) for what in measured[0]}
        ratio = statistics.median(r["catdog"]["train"] / r[name]["train"] for r in rounds if name in r)
        rates = medians[name]
        print(f"| {about[name]} | {rates['train']:.1f} | {ratio:.2f} | {rates['data']:.0f} |")
    if "catdog" in medians:
        ours = medians["catdog"]
        ratio = statistics.median(r["catdog"]["data"] / r["catdog"]["step"] for r in rounds)
        print(f"\ncatdog's step alone, photos in memory: {ours['step']:.1f} photos/s; its data path: {ratio:.1f} times")
    return medians


def chart(medians: dict[str, Measured], title: str, path: Path) -> None:
    """Bars: whole training steps left, the data path alone right."""
    figure = Figure(figsize=(10, 0.8 + 0.5 * len(medians)), layout="constrained")
    names = [*medians][::-1]
    colors = ["#0072b2" if name == "catdog" else "#888888" for name in names]
    for axes, what, label in zip(
        figure.subplots(1, 2, sharey=True), ("train", "data"), ("whole training steps", "data path alone"), strict=True
    ):
        bars = axes.barh(names, [medians[name][what] for name in names], color=colors)
        axes.bar_label(bars, fmt="%.0f", padding=3)
        axes.margins(x=0.12)
        axes.set(xlabel="photos/s", title=label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def environment_for(name: str) -> tuple[str, str]:
    """The Python that runs a way, and why it can't; installs what it needs on the first run."""
    if name not in INSTALLED:
        return sys.executable, ""
    python = ENVIRONMENT / "bin" / "python"
    installed = ENVIRONMENT / f"{name}.json"
    kept = [f"{package}=={version(package).partition('+')[0]}" for package in KEPT]
    content = json.dumps([sys.executable, INSTALLED[name], kept])
    if installed.exists() and installed.read_text() == content:
        return str(python), ""
    print(f"installing {name} into {ENVIRONMENT}", file=sys.stderr)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    place = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    # A venv made from a venv sees the packages of neither; this line shows it those of the running Python.
    (Path(place) / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    constraints = ENVIRONMENT / "constraints.txt"
    constraints.write_text("\n".join(kept) + "\n")
    for packages in INSTALLED[name]:
        command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return "", (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    installed.write_text(content)
    return str(python), ""


def worker(name: str) -> None:
    """Build a way, then measure whatever a line of standard input asks for, and answer in JSON."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever libraries print goes to the log
        given = json.loads(sys.stdin.readline())
        task, amounts = Task(**given["task"]), given["amounts"]
        torch.set_num_threads(task.threads)
        torch.manual_seed(0)
        way = WAYS[name](task)
        steps(way.train, 1, 0, task)
        about = f"{name} {version(name)}" if name in INSTALLED else name
        print(json.dumps({"about": about}), file=answers, flush=True)
        for line in sys.stdin:
            what = json.loads(line)
            if what == "data":
                rate = reading(way.batches(), amounts[what][0], amounts[what][1], task)
            elif what == "step":
                assert isinstance(way, Catdog)
                rate = steps(way.step_alone, amounts[what][0], amounts[what][1], task)
            else:
                rate = steps(way.train, amounts[what][0], amounts[what][1], task)
            print(json.dumps({"photos_per_second": rate}), file=answers, flush=True)


def steps(train: Callable[[Callable[[], bool]], None], warmup: int, count: int, task: Task) -> float:
    """Photos/s of ``count`` steps after ``warmup`` ones, 1 or more."""
    done, began, ended = 0, 0.0, 0.0

    def enough() -> bool:
        nonlocal done, began, ended
        done += 1
        if done == warmup:
            began = _now(task)
        if done >= warmup + count:
            ended = _now(task)
        return done >= warmup + count

    train(enough)
    assert done == warmup + count, f"only {done} steps"
    return count * task.batch_size / (ended - began) if count else 0.0


def reading(batches: Iterator[object], discard: int, count: int, task: Task) -> float:
    """Photos/s of ``count`` batches after ``discard`` ones."""
    for _ in range(discard):
        next(batches)
    began = _now(task)
    for _ in range(count):
        next(batches)
    return count * task.batch_size / (_now(task) - began)


def _now(task: Task) -> float:
    if task.device == "gpu":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2])
    else:
        main()
