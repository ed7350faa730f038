"""Sources of photos -> a dataset folder: everything here that writes to a disk, in the order that it happens.

    open and understand the sources -> check and copy each photo -> cluster -> split -> write -> rename

All is built in a hidden folder beside the target, ``.NAME.catdog``, and takes the target's place at the end, so the
target is whole at every moment (staging.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from catdog.ahead import map_in_order
from catdog.boxes import Box
from catdog.contract import NEITHER
from catdog.dataset.annotations import Fitted, Flaw, fit_boxes
from catdog.dataset.checks import MIN_SIDE_PX, Checked, TooSmall, check
from catdog.dataset.duplicates import THUMBNAIL_PX, clusters
from catdog.dataset.exclusions import Exclusions
from catdog.dataset.inputs import GivenSource, LabelledTree, open_trees, safe_part, unique
from catdog.dataset.layouts import Item
from catdog.dataset.manifest import MANIFEST_NAME, PETS, SHEET_NAME, Manifest, Photo, Split, is_dataset
from catdog.dataset.report import (
    REPORT_NAME,
    FlawedAnnotation,
    LeftOut,
    Reason,
    Relabelled,
    SourceSummary,
    make_report,
    missing_classes,
    write_report,
)
from catdog.dataset.splits import Candidate, Clustering, Dropped, Placed, Shares, assign
from catdog.dataset.staging import open_staging, replace_folder
from catdog.errors import DataError, ImageError, NothingUsableError, SettingsError
from catdog.files import check_local
from catdog.image import find_turn
from catdog.machine import usable_cores
from catdog.sources.archives import Bytes
from catdog.sources.contents import Content
from catdog.sources.names import check_apart, is_object_uri

DEFAULT_SPLIT: Final[Shares] = (0.8, 0.1, 0.1)
PHOTOS_FOLDER: Final = "photos"
_MAX_THREADS: Final = 16  # each may hold a decoded photo of catdog.image.MAX_PIXELS, 0.5 GB
_WAITING: Final = 8  # photos a thread, ahead of the checks
_WAITING_BYTES: Final = 256 * 2**20  # of them that came out of a stream and wait in memory

Progress = Callable[[int, int], None]
"""Called with (files done, files in all) after each file."""


@dataclass(frozen=True)
class _KeptPhoto:
    """A photo that was checked, and copied to ``path`` under the dataset's folder."""

    path: str
    source: str
    name: str
    """Inside the source."""
    given: Split | None
    """The split that the source puts it into."""
    label: str
    checked: Checked
    boxes: tuple[Box, ...] | None
    flaws: tuple[Flaw, ...] = ()
    """Of its annotation."""


@dataclass(frozen=True)
class _FoundPhotos:
    """What all files came to, each list in their order."""

    kept: list[_KeptPhoto]
    left_out: list[LeftOut]
    relabelled: list[Relabelled]
    reviewed: set[str]
    """The hashes of the exclusions that were met."""
    flaws: list[FlawedAnnotation]


def build(
    sources: Sequence[GivenSource],
    out: str | Path,
    *,
    split: Shares | None = None,
    min_side: int = MIN_SIDE_PX,
    add: bool = False,
    replace: bool = False,
    exclusions: Exclusions | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Turn folders and archives of photos into the dataset folder ``out``, and return its manifest.

    ``sources``: paths, or pairs (path, split) that put all photos of a source into that split. ``split``: shares of
    train, val and test for the photos whose source gives them none. ``min_side``: px, of the shorter side.
    A dataset that is already at ``out`` is replaced when the new one is complete. Its photos keep their splits, unless
    ``split`` is given, which divides all anew. Where some of its photos would be gone, it takes ``add``, which joins
    them and the new ones, or ``replace``, which lets them go. ``exclusions``: photos to leave out or to relabel; see
    ``read_exclusions``.
    Raises SettingsError for a bad setting, and DataError for a source or target that can't be used, where no photo at
    all is left, and where photos would be gone without a word.
    """
    shares = DEFAULT_SPLIT if split is None else split
    exclusions = exclusions or {}
    _check_settings(shares, min_side)
    if add and split:  # it no longer knows what their sources gave as test photos, and would train on them
        raise SettingsError("--add keeps the splits of the photos that are there; leave --split out")
    check_local("--out", out)
    target = Path(out).resolve()
    try:
        _read_existing(target)  # whatever else is there is refused before anything is read
        trees = open_trees(sources)
        _check_apart(trees, target)
        with open_staging(target, is_dataset) as staging:
            before = _read_existing(target)
            photos_before = before.photos if before else ()
            found = _check_all(trees, before if add else None, exclusions, staging, min_side, progress)
            kept, left_out = found.kept, found.left_out
            photos, warnings = _split_photos(kept, left_out, () if split else photos_before, shares)
            if not photos:
                raise NothingUsableError(_explain_nothing_usable(left_out))
            if not replace:
                _check_none_lost(out, photos_before, photos, exclusions, add)
            warnings += _compare_splits(photos_before, photos)
            if absent := len(exclusions) - len(found.reviewed):
                warnings.append(f"{absent} of the {len(exclusions)} excluded photos are not among the usable ones here")
            for path in {k.path for k in kept}.difference(photo.path for photo in photos):
                (staging / path).unlink()
            others = (NEITHER,) if any(photo.label == NEITHER for photo in photos) else ()
            manifest = Manifest(staging, (*PETS, *others), tuple(photos))
            manifest.write()
            summaries = [SourceSummary(entry.name, entry.tree.place, entry.layout.kind) for entry in trees]
            new = {summary.name for summary in summaries}
            former = sorted({photo.source for photo in photos} - new)
            summaries += [SourceSummary(name, str(target), "joined") for name in former]
            settings = {"split": list(shares), "min_side": min_side}
            warnings += missing_classes(manifest)
            write_report(
                staging, make_report(manifest, summaries, left_out, found.relabelled, found.flaws, settings, warnings)
            )
            replace_folder(staging, target)
    except OSError as error:
        raise DataError(f"{out}: the dataset can't be written there ({error.strerror or error})") from error
    return Manifest(Path(out), manifest.class_names, manifest.photos)


def _check_none_lost(
    out: str | Path, before: Sequence[Photo], after: Sequence[Photo], exclusions: Exclusions, add: bool
) -> None:
    here = {photo.sha256 for photo in after} | {digest for digest, label in exclusions.items() if label is None}
    lost = [photo for photo in before if photo.sha256 not in here]
    if not lost:
        return
    cause = "give --add to join them and the new ones, --replace to let them go, or --out another folder"
    if add:
        cause = f"the new ones have a copy of {lost[0].path!r} under another label; leave the wrong one out"
    raise DataError(f"{out}: {len(lost)} of the {len(before)} photos in this dataset would be gone; {cause}")


def _compare_splits(before: Sequence[Photo], after: Sequence[Photo]) -> list[str]:
    """Return a warning where photos that were there before are in another split now."""
    now = {photo.sha256: photo.split for photo in after}
    moved = sum(now.get(photo.sha256, photo.split) != photo.split for photo in before)
    if not moved:
        return []
    return [f"{moved} of {len(before)} photos changed their split; train anew before you measure on val or test"]


def _check_settings(split: Shares, min_side: int) -> None:
    if len(split) != 3 or not all(math.isfinite(s) and 0 <= s <= 1 for s in split) or abs(sum(split) - 1) > 1e-6:
        given = ",".join(f"{share:g}" for share in split)
        raise SettingsError(f"--split must be three shares that sum to 1, like 0.8,0.1,0.1, not {given}")
    if min_side < 1:
        raise SettingsError(f"--min-side must be 1 px or more, not {min_side}")


def _read_existing(target: Path) -> Manifest | None:
    """The dataset that is to be replaced, if any; raises DataError where the target holds anything else."""
    if not target.exists():
        return None
    if not target.is_dir():
        raise DataError(f"{target}: is a file; give --out a folder that is new, empty or holds a dataset")
    entries = {entry.name for entry in target.iterdir()}
    if not entries:
        return None
    if not is_dataset(target):
        raise DataError(f"{target}: is not empty and holds no dataset; give --out another folder")
    if others := sorted(entries - {MANIFEST_NAME, REPORT_NAME, PHOTOS_FOLDER, SHEET_NAME}):
        raise DataError(f"{target}: holds {others[0]!r}, which would be lost with the old dataset; move it elsewhere")
    return Manifest.read(target)


def _check_apart(trees: Sequence[LabelledTree], target: Path) -> None:
    """Sources are never changed, so none may lie in the folder that is replaced; nor may it lie in one of them."""
    check_apart("--out", target, [entry.tree.place for entry in trees])
    for entry in trees:
        if is_object_uri(entry.tree.place):
            continue
        path = Path(entry.tree.place).resolve()
        if path.is_relative_to(target):
            raise DataError(f"{target}: --out holds the source {path}; give --out another folder")


def _check_all(
    trees: Sequence[LabelledTree],
    joined: Manifest | None,
    exclusions: Exclusions,
    staging: Path,
    min_side: int,
    progress: Progress | None,
) -> _FoundPhotos:
    """Check every file of the dataset that is joined and of the sources, and copy the good ones.

    They come in the order of the dataset and then of the sources, whatever thread was first. A source's photo that the
    dataset has already, under the same label or excluded from it, is passed over; only its boxes are taken where the
    former one has none.
    """
    found = _FoundPhotos([], [], [], set(), [])
    former = joined.photos if joined else ()
    known = {(photo.sha256, exclusions.get(photo.sha256, photo.label)) for photo in former}
    taken = {photo.path.casefold() for photo in former}  # as ``unique`` has it
    total = len(former) + sum(len(entry.layout.items) for entry in trees)
    threads = min(usable_cores(), _MAX_THREADS)
    joining = map_in_order(partial(_check_former, joined, staging), former, threads) if joined else ()
    for done, photo in enumerate(joining, 1):
        _apply_review(photo, exclusions, staging, found)
        if progress:
            progress(done, total)
    unmarked = {photo.checked.sha256: i for i, photo in enumerate(found.kept) if photo.boxes is None}
    checked = _check_each(trees, staging, min_side, taken, threads)
    for done, (entry, item, result) in enumerate(checked, len(former) + 1):
        flaws = result.flaws if isinstance(result, _KeptPhoto) else ()
        found.flaws.extend(FlawedAnnotation(entry.name, *flaw) for flaw in flaws)
        if not isinstance(result, _KeptPhoto):
            found.left_out.append(LeftOut(entry.name, item.name, *result))
        elif (digest := result.checked.sha256, exclusions.get(digest, result.label)) in known:
            (staging / result.path).unlink()
            if result.boxes is not None and (i := unmarked.pop(digest, None)) is not None:
                found.kept[i] = dataclasses.replace(found.kept[i], boxes=result.boxes)
        else:
            _apply_review(result, exclusions, staging, found)
        if progress:
            progress(done, total)
    for entry in trees:
        refused = entry.tree.refused
        found.left_out.extend(LeftOut(entry.name, name, "unreadable", f"{name}: {why}") for name, why in refused)
        found.flaws.extend(FlawedAnnotation(entry.name, *flaw) for flaw in entry.annotations.flaws)
    return found


def _apply_review(photo: _KeptPhoto, exclusions: Exclusions, staging: Path, found: _FoundPhotos) -> None:
    """Add a good photo to what is kept, unless a person excluded it; with the label that they gave it."""
    digest = photo.checked.sha256
    if digest not in exclusions:
        found.kept.append(photo)
        return
    found.reviewed.add(digest)
    label = exclusions[digest]
    if label is None:
        (staging / photo.path).unlink()
        message = f"{photo.name}: was found to be no good {photo.label} and excluded by hand"
        found.left_out.append(LeftOut(photo.source, photo.name, "excluded", message))
        return
    if label != photo.label:
        found.relabelled.append(Relabelled(photo.source, photo.name, photo.label, label))
    boxes = _relabel_boxes(photo.boxes, photo.label, label)
    found.kept.append(dataclasses.replace(photo, label=label, boxes=boxes))


def _relabel_boxes(boxes: tuple[Box, ...] | None, was: str, label: str) -> tuple[Box, ...] | None:
    """Return the boxes that a photo has under a person's label: those of its wrong class get the right one."""
    if boxes is None or (was == NEITHER and label != NEITHER):
        return None  # whoever marked nothing overlooked a pet
    if label == NEITHER:
        return ()
    return tuple(dataclasses.replace(box, label=label) if box.label == was else box for box in boxes)


def _check_former(joined: Manifest, staging: Path, photo: Photo) -> _KeptPhoto:
    """Check and copy a photo of the dataset that is joined; raises DataError where it is no longer what it was."""
    path = joined.root / photo.path
    try:
        data = path.read_bytes()
        checked = check(data, str(path), 1)
    except (OSError, ImageError) as error:
        raise DataError(
            f"{path}: can't be read ({error}); give --replace to build without the former photos"
        ) from error
    if hashlib.sha256(data).hexdigest() != photo.sha256 or isinstance(checked, TooSmall):
        raise DataError(f"{path}: was changed since the dataset was made; give --replace to build without it")
    _write(staging / photo.path, data)
    return _KeptPhoto(photo.path, photo.source, photo.path, None, photo.label, checked, photo.boxes)


def _check_each(
    trees: Sequence[LabelledTree], staging: Path, min_side: int, taken: set[str], threads: int
) -> Iterator[tuple[LabelledTree, Item, _KeptPhoto | tuple[Reason, str]]]:
    """Each file with its copy, or with the reason and message why there is none.

    Threads read and decode (Pillow lets go of the interpreter lock); what a stream brings along is read by this one,
    front to back, and no more than _WAITING_BYTES of it wait. ``taken``: paths that no photo may get, case-folded.
    """
    waiting: deque[tuple[LabelledTree, Item, int, Future[_KeptPhoto | tuple[Reason, str]]]] = deque()
    with ThreadPoolExecutor(threads, "catdog-dataset") as pool:
        for entry in trees:
            items = {item.name: item for item in entry.layout.items if item.label is not None}
            for item in entry.layout.items:
                if item.label is None:
                    what = "its folder, name and boxes say none of cat, dog and neither"
                    yield entry, item, ("wrong_class", f"{item.name}: {what}")
            for name, content in entry.tree.contents(items.keys()):
                path = "/".join([PHOTOS_FOLDER, entry.name, *map(safe_part, name.split("/"))])
                job = pool.submit(_check_one, entry, items[name], content, staging, unique(path, taken), min_side)
                carried = content.size() or 0 if isinstance(content, Bytes) else 0
                waiting.append((entry, items[name], carried, job))
                while len(waiting) >= threads * _WAITING or sum(size for _, _, size, _ in waiting) > _WAITING_BYTES:
                    oldest = waiting.popleft()
                    yield *oldest[:2], oldest[3].result()
        for entry, item, _, job in waiting:
            yield entry, item, job.result()


def _check_one(
    entry: LabelledTree, item: Item, content: Content, staging: Path, path: str, min_side: int
) -> _KeptPhoto | tuple[Reason, str]:
    try:
        data = content.read(item.name)
        checked = check(data, item.name, min_side)
    except ImageError as error:
        if error.reason == "out_of_memory":  # says nothing about the photo, which would be missed in silence
            raise DataError(f"{error}; free some memory, and start it again") from error
        return ("unreadable" if error.reason == "missing" else error.reason), str(error)
    if isinstance(checked, TooSmall):
        return "too_small", checked.message
    _write(staging / path, data)
    assert item.label is not None  # the others were never read
    fitted = Fitted(None, ())
    if annotation := entry.annotations.of.get(item.name):
        size = (checked.width, checked.height)
        fitted = fit_boxes(annotation, item.name, item.label, size, partial(find_turn, data, item.name))
    return _KeptPhoto(path, entry.name, item.name, entry.split_of(item), item.label, checked, *fitted)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _split_photos(
    kept: Sequence[_KeptPhoto], left_out: list[LeftOut], former: Sequence[Photo], shares: Shares
) -> tuple[list[Photo], list[str]]:
    """Return the photos that stay and warnings; add the others to ``left_out``. ``former`` keep their split."""
    pins = {photo.sha256: photo.split for photo in former}
    candidates = [
        Candidate(
            name=f"{k.source}/{k.name}",
            sha256=k.checked.sha256,
            label=k.label,
            given=k.given,
            pinned=pins.get(k.checked.sha256),
        )
        for k in kept
    ]
    answers, warnings = assign(candidates, _make_clustering(kept), shares)
    boxes = _hand_over_boxes(kept, answers)
    photos = []
    for k, answer, own_boxes in zip(kept, answers, boxes, strict=True):
        if isinstance(answer, Dropped):
            left_out.append(LeftOut(k.source, k.name, answer.reason, f"{k.name}: {answer.message}"))
        else:
            photos.append(
                Photo(
                    path=k.path,
                    label=k.label,
                    split=answer.split,
                    width=k.checked.width,
                    height=k.checked.height,
                    sha256=k.checked.sha256,
                    cluster=answer.cluster,
                    source=k.source,
                    boxes=own_boxes,
                )
            )
    return sorted(photos, key=lambda photo: photo.path), warnings


def _hand_over_boxes(kept: Sequence[_KeptPhoto], answers: Sequence[Placed | Dropped]) -> list[tuple[Box, ...] | None]:
    """Return the boxes of each photo; one that has none gets those of a copy of its size that doesn't stay."""
    boxes = [k.boxes for k in kept]
    for gone, answer in zip(kept, answers, strict=True):
        for i in answer.copies if isinstance(answer, Dropped) else ():
            heir = kept[i].checked
            if boxes[i] is None and (heir.width, heir.height) == (gone.checked.width, gone.checked.height):
                boxes[i] = gone.boxes
    return boxes


def _make_clustering(kept: Sequence[_KeptPhoto]) -> Clustering:
    digests = [k.checked.sha256 for k in kept]
    thumbnails = np.zeros((len(kept), THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    for i, k in enumerate(kept):
        thumbnails[i] = k.checked.thumbnail

    def clustering(indices: Sequence[int]) -> list[int]:
        labels: list[int] = clusters([digests[i] for i in indices], thumbnails[np.array(indices, np.int64)]).tolist()
        return labels

    return clustering


def _explain_nothing_usable(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return "the sources hold no photos"
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(entry.reason for entry in left_out).most_common())
    first = left_out[0]
    return f"no photo can be used: {reasons}; the first one: {first.source}: {first.message}"
