"""A sample of a result as a contact sheet: as many photos of each label, and the same ones for the same result."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from hashlib import sha256
from operator import itemgetter
from pathlib import Path

from PIL import Image

from catdog.classifier import Classifier
from catdog.colours import BLUE, ORANGE
from catdog.contact_sheet import MOST, THUMBNAIL_PX, Cell, contact_sheet, thumbnail
from catdog.contract import UNSURE
from catdog.detection.answers import HEAD, NO_PET, begins_photo
from catdog.detection.pictures import draw_heads
from catdog.errors import ImageError
from catdog.explain import explain
from catdog.image import JPEG_MARGIN, open_sized_photo
from catdog.score import output
from catdog.score.former import read_heads
from catdog.sources import content_for
from catdog.sources.stores import Store, open_store
from catdog.text import restore_name


def draw_sample(out: str, path: Path, looking: Classifier | None) -> None:
    """Draw a sample of the result ``out`` to the PNG ``path``, with the boxes of a detector. Raises OSError.

    ``looking``: the model that gave the answers, to show where it looked.
    """
    store, table = open_store(out)
    samples: dict[str, list[tuple[str, str, str]]] = {}
    has_heads = False
    for label, source, verdict in _list_verdicts(store, table):
        has_heads |= not verdict
        chosen = samples.setdefault(label, [])
        entry = (sha256(source.encode()).hexdigest(), source, verdict)
        if len(chosen) < MOST or entry < chosen[-1]:
            chosen.append(entry)
            samples[label] = heapq.nsmallest(MOST, chosen)
    share = MOST // max(1, len(samples))
    shown = {source for chosen in samples.values() for _, source, _ in chosen[:share]}
    heads = dict(read_heads(store, table, shown)) if has_heads else {}
    cells = []
    for label, chosen in sorted(samples.items()):
        for _, source, verdict in sorted(chosen[:share], key=itemgetter(1)):  # archives are read in their order
            try:
                name = restore_name(source)
                photo: bytes | ImageError | Image.Image = content_for(name).read(name)
                if looking:
                    photo = explain(looking, photo, name).picture or photo
                elif heads.get(source):
                    image, size = open_sized_photo(photo, name, JPEG_MARGIN * THUMBNAIL_PX)
                    photo = draw_heads(thumbnail(image), heads[source], size)
            except ImageError as error:
                photo = error
            verdict = verdict or ", ".join(f"{head.label} {head.confidence:.0%}" for head in heads[source]) or NO_PET
            cells.append(Cell(thumbnail(photo), verdict, source, ORANGE if label == UNSURE else BLUE))
    contact_sheet(cells, f"A sample of {out}", path)


def _list_verdicts(store: Store, table: str) -> Iterator[tuple[str, str, str]]:
    """Yield the label, the source and the verdict of each photo that has an answer.

    A detector's photo has the label of its surest head or NO_PET, and no verdict yet.
    """
    for batch in output.read_columns(store, table):
        heads = batch.get(HEAD)
        answers = zip(*(batch[column] for column in ("label", "source", "confidence", "status")), strict=True)
        for row, (label, source, confidence, status) in enumerate(answers):
            if heads is None and label:
                yield label, source, f"{label} {float(confidence):.1%}"
            elif heads is not None and status == "ok" and begins_photo(heads[row]):
                yield label or NO_PET, source, ""
