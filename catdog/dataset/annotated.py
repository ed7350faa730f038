"""Which files of a source annotate which of its photos. Reads annotations, and no photo."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from catdog.dataset import voc
from catdog.dataset.annotations import Annotation, Flaw
from catdog.errors import DataError, ImageError
from catdog.sources.trees import Tree


@dataclass
class Annotations:
    """What a source says of its photos."""

    of: dict[str, Annotation] = field(default_factory=dict)
    """By the photo's path inside the source."""
    flaws: list[Flaw] = field(default_factory=list)

    def add(self, photo: str, annotation: Annotation) -> None:
        """Enter what a file says of a photo; where another one has said something before, that stays."""
        if (first := self.of.setdefault(photo, annotation)) is not annotation:
            message = f"{annotation.path}: {photo} is annotated already, by {first.path}"
            self.flaws.append(Flaw(annotation.path, "duplicate", message))


def read_annotations(photos: Iterable[str], notes: Tree) -> Annotations:
    """Return what the files in ``notes`` say of photos with these paths; lists what is wrong, and raises nothing."""
    found = Annotations()
    by_stem: dict[str, list[str]] = defaultdict(list)
    for photo in photos:
        by_stem[PurePosixPath(photo).stem].append(photo)
    files = {name for name in notes.names if name.lower().endswith(".xml")}
    for name, content in notes.contents(files):
        try:
            annotation = voc.parse_voc(content.read(name, voc.MAX_BYTES), name)
        except (DataError, ImageError) as error:
            found.flaws.append(Flaw(name, "damaged", str(error)))
            continue
        chosen = _choose(by_stem[PurePosixPath(name).stem], name)
        if isinstance(chosen, Flaw):
            found.flaws.append(chosen)
        else:
            found.add(chosen, annotation)
    return found


def _choose(photos: list[str], path: str) -> str | Flaw:
    """Return the one photo that a file of this path can mean: the only one, or else the one beside it."""
    beside = [photo for photo in photos if PurePosixPath(photo).parent == PurePosixPath(path).parent]
    if len(photos) == 1 or len(beside) == 1:
        return (beside or photos)[0]
    if not photos:
        return Flaw(path, "no_photo", f"{path}: its photo isn't in the source")
    return Flaw(path, "ambiguous", f"{path}: may be of {photos[0]} or of {photos[1]}")
