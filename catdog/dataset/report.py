"""What happened, for people: report.json. Pure but for the one function that writes it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from catdog.dataset.annotations import FlawKind
from catdog.dataset.manifest import SPLITS, Manifest, Photo
from catdog.dataset.splits import Conflict
from catdog.errors import ImageReason

REPORT_NAME: Final = "report.json"
REPORT_VERSION: Final = 1

Reason = Literal[ImageReason, Conflict, "too_small", "wrong_class", "excluded"]


@dataclass(frozen=True)
class LeftOut:
    """A file that is not in the dataset, and why."""

    source: str
    path: str
    """Inside the source."""
    reason: Reason
    message: str


@dataclass(frozen=True)
class Relabelled:
    """A photo that a person gave another label than its source."""

    source: str
    path: str
    """Inside the source."""
    was: str
    label: str


@dataclass(frozen=True)
class FlawedAnnotation:
    """Something wrong with what a source says of where pets are."""

    source: str
    path: str
    """Of the annotation, inside the source."""
    reason: FlawKind
    message: str


@dataclass(frozen=True)
class SourceSummary:
    """A source as the report shows it."""

    name: str
    path: str
    layout: str


def make_report(
    manifest: Manifest,
    sources: Sequence[SourceSummary],
    left_out: Sequence[LeftOut],
    relabelled: Sequence[Relabelled],
    flaws: Sequence[FlawedAnnotation],
    settings: dict[str, Any],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Counts, copies, files left out or relabelled, settings and warnings, ready for JSON."""
    photos = manifest.photos
    return {
        "version": REPORT_VERSION,
        "fingerprint": manifest.fingerprint,
        "settings": settings,
        "warnings": list(warnings),
        "photos": len(photos),
        "counts": {
            split: dict(sorted(Counter(p.label for p in photos if p.split == split).items())) for split in SPLITS
        },
        "sources": [
            asdict(source)
            | {
                "photos": dict(sorted(Counter(p.label for p in photos if p.source == source.name).items())),
                "left_out": sum(entry.source == source.name for entry in left_out),
            }
            for source in sources
        ],
        "reasons": dict(sorted(Counter(entry.reason for entry in left_out).items())),
        "left_out": [asdict(entry) for entry in left_out],
        "relabelled": [asdict(entry) for entry in relabelled],
        "copies": _summarise_copies(photos),
        "boxes": {
            "photos": sum(photo.boxes is not None for photo in photos),
            "counts": dict(sorted(Counter(box.label for photo in photos for box in photo.boxes or ()).items())),
            "reasons": dict(sorted(Counter(flaw.reason for flaw in flaws).items())),
            "left_out": [asdict(flaw) for flaw in flaws],
        },
    }


def missing_classes(manifest: Manifest) -> list[str]:
    """A warning for each class without photos, and for each split that lacks a class."""
    found = {(p.split, p.label) for p in manifest.photos}
    labels = {label for _, label in found}
    if absent := [label for label in manifest.class_names if label not in labels]:
        return [
            f"there is no photo of a {label}, so nothing can be trained on it; --add some, in a folder {label}s/"
            for label in absent
        ]
    return [
        f"{split} holds no {label}; add photos, or give other shares with --split"
        for split in SPLITS
        for label in manifest.class_names
        if (split, label) not in found
    ]


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """``report.json`` into ``folder``."""
    # Names from a foreign file system may be no valid Unicode; they must not keep the report from being written.
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (folder / REPORT_NAME).write_text(text, encoding="utf-8", errors="backslashreplace")


def _summarise_copies(photos: Sequence[Photo]) -> dict[str, Any]:
    """The clusters of two photos and more; ``exact``: all files the same to the byte, ``near``: not all."""
    members: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        members[photo.cluster].append(photo)
    groups = {cluster: group for cluster, group in sorted(members.items()) if len(group) > 1}
    kinds = {cluster: "exact" if len({p.sha256 for p in group}) == 1 else "near" for cluster, group in groups.items()}
    return {
        "clusters": len(groups),
        "exact": sum(kind == "exact" for kind in kinds.values()),
        "near": sum(kind == "near" for kind in kinds.values()),
        "across_sources": sum(len({p.source for p in group}) > 1 for group in groups.values()),
        "sizes": {str(size): n for size, n in sorted(Counter(len(group) for group in groups.values()).items())},
        "groups": [
            {"cluster": cluster, "kind": kinds[cluster], "split": group[0].split, "paths": [p.path for p in group]}
            for cluster, group in groups.items()
        ],
    }
