"""Until when AWS patches what ``catdog aws`` runs on; a table of 2026-11-29, never asked from AWS.

Days and tags are those of AWS's own list of its containers (github.com/aws/deep-learning-containers, docs/src/data);
of 2.14, which is newer than the copy that was read, those of an example by AWS.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Final, NamedTuple

AS_OF: Final = date(2026, 11, 29)


class Container(NamedTuple):
    """An image of AWS's, in one form for machines with a GPU and one for those without."""

    repository: str
    gpu_tag: str
    cpu_tag: str
    last_day: date
    """After it no patches come."""


class Support(NamedTuple):
    """One thing that is in use."""

    name: str
    used_by: str
    last_day: date | None
    """After it no patches come; None where AWS names no day."""
    note: str


TRAINING: Final[Mapping[str, Container]] = {
    "2.6.0": Container("pytorch-training", "2.6.0-gpu-py312", "2.6.0-cpu-py312", date(2026, 1, 29)),
    "2.7.1": Container("pytorch-training", "2.7.1-gpu-py312", "2.7.1-cpu-py312", date(2026, 4, 23)),
    "2.8.0": Container("pytorch-training", "2.8.0-gpu-py312", "2.8.0-cpu-py312", date(2026, 8, 6)),
    "2.9.0": Container("pytorch-training", "2.9.0-gpu-py312", "2.9.0-cpu-py312", date(2026, 10, 15)),
    "2.10.0": Container("pytorch-training", "2.10.0-gpu-py313", "2.10.0-cpu-py313", date(2027, 1, 21)),
    "2.11": Container("pytorch", "2.11-cu130-amzn2023-sagemaker", "2.11-cpu-amzn2023-sagemaker", date(2027, 4, 30)),
    "2.12": Container("pytorch", "2.12-cu130-amzn2023-sagemaker", "2.12-cpu-amzn2023-sagemaker", date(2027, 7, 2)),
    "2.13": Container("pytorch", "2.13-cu133-amzn2023-sagemaker", "2.13-cpu-amzn2023-sagemaker", date(2027, 7, 20)),
    "2.14": Container("pytorch", "2.14-cu133-amzn2023-sagemaker", "2.14-cpu-amzn2023-sagemaker", date(2027, 9, 28)),
}
"""AWS's PyTorch training containers, by version, the oldest first; all have SageMaker's training toolkit."""
NEWEST: Final = "2.14"
INFERENCE: Final = Container("pytorch-inference", "2.6.0-gpu-py312", "2.6.0-cpu-py312", date(2026, 6, 30))
"""AWS's last PyTorch container with a serving toolkit."""

SUPPORT: Final = (
    Support(
        "PyTorch inference container 2.6",
        "catdog aws deploy, transform",
        INFERENCE.last_day,
        "the last there is; deploy --image takes catdog's own",
    ),
    Support("TorchServe, inside it", "catdog aws deploy, transform", None, "its makers plan no updates or fixes"),
    Support(
        "catdog's own image", "catdog aws deploy --image", None, "patched whenever you build it (catdog aws image)"
    ),
    Support(
        f"PyTorch training container {NEWEST}",
        "catdog aws train, tune",
        TRAINING[NEWEST].last_day,
        "pytorch-training, its predecessor, ends with 2.10 on 2027-01-21",
    ),
    Support(
        "SageMaker Python SDK 2",
        "catdog aws train, tune, where it is installed",
        date(2027, 7, 6),
        "version 3 has no PyTorch estimator; boto3 sends the same requests",
    ),
)
