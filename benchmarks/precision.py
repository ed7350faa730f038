"""Float32 against bf16 autocast on this machine's CPU: one ResNet-18 training step, in turn, medians and ratio.

    python benchmarks/precision.py

``catdog.training.processes.choose_precision`` turns autocast on where this ratio is above 1.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from catdog.training.loop import keep_freed_memory
from catdog.training.model import new_network


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=160, help="px")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    network = new_network("resnet18", 2).train()
    shape = (arguments.batch_size, 3, arguments.size, arguments.size)
    images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 2, (arguments.batch_size,))

    def seconds(amp: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    pairs = [(seconds(False), seconds(True)) for _ in range(arguments.rounds + 1)][1:]
    float32, bf16 = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"float32 {arguments.batch_size / float32:.0f} photos/s, bf16 {arguments.batch_size / bf16:.0f} photos/s")
    print(f"bf16 over float32, median of {arguments.rounds} pairs: {ratio:.2f}")


if __name__ == "__main__":
    main()
