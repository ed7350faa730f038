"""How to run a model on the cores of a machine: sessions x threads, spinning, arena, batch, graph, provider.

    python benchmarks/execution.py [--model FILE] [--rounds 5] [--seconds 4] [--busy 1]

Every way is a set of processes, each with one ONNX Runtime session, that answer noise from memory for some seconds;
the ways take turns, so that a machine others share treats them alike. Medians over the rounds, ratios to what
``--workers auto`` of catdog.score does: a one-thread session a core, batches of 8, no spinning. ``--busy`` adds
processes that do nothing but take time, as on a machine that has another job.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort

from catdog.classifier import OUTPUT_NAME, load
from catdog.machine import usable_cores
from catdog.onnx_model import CPU_PROVIDER, INPUT_NAME

ASSET: Final = Path(__file__).resolve().parents[1] / "catdog" / "assets" / "catdog.onnx"
WARM_UP_CALLS: Final = 3


@dataclass(frozen=True)
class Way:
    """One way to run the model."""

    name: str
    sessions: int
    threads: int = 1
    batch: int = 8
    spinning: bool = False
    arena: bool = True
    optimisation: str = "ORT_ENABLE_ALL"
    saved: bool = False
    """The optimised graph is saved first, and loaded without optimising."""
    provider: str = CPU_PROVIDER


def ways(cores: int) -> list[Way]:
    """``--workers auto`` first; then each choice changed on its own."""
    auto = Way(f"{cores} x 1", cores)
    splits = [(cores // t, t) for t in range(2, cores + 1) if cores % t == 0]
    return [
        auto,
        *(Way(f"{s} x {t}", s, t) for s, t in splits),
        *(Way(f"{s} x {t}, spinning", s, t, spinning=True) for s, t in splits),
        *(replace(auto, name=f"{2 * cores} x 1", sessions=2 * cores) for _ in range(1)),
        *(replace(auto, name=f"{cores} x 1, batch {b}", batch=b) for b in (1, 4, 16, 32)),
        replace(auto, name=f"{cores} x 1, no arena", arena=False),
        *(
            replace(auto, name=f"{cores} x 1, graph {level}", optimisation=f"ORT_{level}")
            for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED")
        ),
        replace(auto, name=f"{cores} x 1, saved graph", saved=True),
        *(
            replace(auto, name=f"{cores} x 1, {provider}", provider=provider)
            for provider in ort.get_available_providers()
            if provider not in (CPU_PROVIDER, "AzureExecutionProvider")  # which calls a server
        ),
    ]


def session(way: Way, model: str) -> ort.InferenceSession:
    """A session as the way has it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = way.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(way.spinning)))
    options.enable_cpu_mem_arena = way.arena
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, way.optimisation)
    options.log_severity_level = 4
    if not way.saved:
        return ort.InferenceSession(model, options, providers=[way.provider])
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(model, options, providers=[way.provider])
        again = ort.SessionOptions()
        again.intra_op_num_threads, again.log_severity_level = way.threads, 4
        again.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(options.optimized_model_filepath, again, providers=[way.provider])


def answer(way: Way, model: str, size: int, go: Event, seconds: float, results: Connection) -> None:
    """A process: opens a session, waits, answers for ``seconds``, sends photos/s, seconds to open and peak MiB."""
    begin = time.perf_counter()
    network = session(way, model)
    opened = time.perf_counter() - begin
    images = np.random.default_rng(0).integers(0, 256, (way.batch, size, size, 3), np.uint8)
    for _ in range(WARM_UP_CALLS):
        network.run([OUTPUT_NAME], {INPUT_NAME: images})
    results.send(None)
    go.wait()
    begin, photos = time.perf_counter(), 0
    while (now := time.perf_counter()) - begin < seconds:
        network.run([OUTPUT_NAME], {INPUT_NAME: images})
        photos += way.batch
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.send((photos / (now - begin), opened, peak))


def measure(way: Way, model: str, size: int, seconds: float) -> tuple[float, float, float]:
    """Photos/s of all its sessions together, seconds to open one, peak MiB of one."""
    context = multiprocessing.get_context("spawn")
    go = context.Event()
    pipes = [context.Pipe(duplex=False) for _ in range(way.sessions)]
    processes = [context.Process(target=answer, args=(way, model, size, go, seconds, theirs)) for _, theirs in pipes]
    for process in processes:
        process.start()
    for ours, theirs in pipes:
        theirs.close()
        ours.recv()
    go.set()
    found = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    rates, opened, peaks = zip(*found, strict=True)
    return sum(rates), statistics.median(opened), max(peaks)


def burn() -> None:
    """A process that takes a core's time."""
    for _ in itertools.count():
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(ASSET))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--busy", type=int, default=0, help="processes that only take time")
    parser.add_argument("--only", help="ways whose name contains this, besides the first")
    arguments = parser.parse_args()
    size = load(arguments.model).contract.input_size
    first, *others = ways(usable_cores())
    chosen = [first, *(way for way in others if not arguments.only or arguments.only in way.name)]
    burners = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(arguments.busy)]
    for burner in burners:
        burner.start()
    found: dict[str, list[tuple[float, float, float]]] = {way.name: [] for way in chosen}
    for _ in range(arguments.rounds):
        for way in chosen:
            found[way.name].append(measure(way, arguments.model, size, arguments.seconds))
    for burner in burners:
        burner.kill()
    print(f"onnxruntime {ort.__version__}, {usable_cores()} cores, {arguments.busy} busy with other work\n")
    print("| sessions x threads | photos/s | ratio | by round | opens in, s | peak MiB a process |")
    print("| --- | --- | --- | --- | --- | --- |")
    base = [rate for rate, _, _ in found[chosen[0].name]]
    for name, measured in found.items():
        rates, opened, peaks = zip(*measured, strict=True)
        ratios = [rate / of for rate, of in zip(rates, base, strict=True)]
        print(
            f"| {name} | {statistics.median(rates):.1f} | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {statistics.median(opened):.2f} | {max(peaks):.0f} |"
        )


if __name__ == "__main__":
    main()
