"""YOLO: a text file a photo and one with the classes' names, as Ultralytics, Roboflow and LabelImg write it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from catdog.dataset.annotations import Annotation, Corners, sort_marks
from catdog.errors import DataError, SettingsError

MAX_BYTES: Final = 2**20  # of one photo's file
MAX_NAMES_BYTES: Final = 2**18  # of data.yaml: PyYAML takes a second for this
NAMES_FILES: Final = ("classes.txt", "obj.names")  # of LabelImg and Label Studio; of Darknet and CVAT
YAML_ENDINGS: Final = (".yaml", ".yml")


def is_names_file(path: str) -> bool:
    """Whether a file of this path may say what the classes are called."""
    return PurePosixPath(path).name in NAMES_FILES or path.lower().endswith(YAML_ENDINGS)


def parse_names(data: bytes, path: str) -> dict[int, str] | None:
    """Return the classes' names by their number, None where a YAML file has something else to say.

    In ``data.yaml`` the key ``names`` holds a list or a mapping (docs.ultralytics.com, "Object detection datasets");
    other files have a name a line. Raises DataError, which names ``path``, where it is damaged, and SettingsError
    where PyYAML is missing.
    """
    if not path.lower().endswith(YAML_ENDINGS):
        return dict(enumerate(line.strip() for line in _decode(data, path).strip().splitlines()))
    try:
        import yaml  # the extra train brings it, and who has no data.yaml needs none
    except ImportError as error:
        raise SettingsError(f"{path}: needs one more package: pip install pyyaml; or write a classes.txt") from error
    try:
        loaded = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError, LookupError) as error:
        raise DataError(f"{path}: is no YAML") from error
    names: Any = loaded.get("names") if isinstance(loaded, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(key) is int and isinstance(n, str) for key, n in names.items()):
        return None
    return names


def parse_yolo(data: bytes, path: str, names: Mapping[int, str]) -> Annotation:
    """Return what a photo's file says; raises DataError, which names ``path`` and the line, where it is damaged.

    A line is ``class x y width height``: the class's number, and the box's middle and sides as shares of the upright
    photo's; or ``class x y x y x y ...``, an outline (docs.ultralytics.com, "Object detection datasets" and "Instance
    segmentation datasets"). An empty file says that there is nothing.
    """
    marks, others = sort_marks(_read_lines(_decode(data, path), path, names))
    return Annotation(path, marks, in_shares=True, others=others)


def _read_lines(text: str, path: str, names: Mapping[int, str]) -> Iterator[tuple[str, Corners]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            which, *values = map(float, line.split())
            kind = int(which)
            if kind != which:
                raise ValueError("no class's number")
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}, line {number}: has to be a class's number and shares, not {line[:60]!r}"
            ) from error
        name = names.get(kind, f"class {kind}")
        if len(values) == 4:
            x, y, width, height = values
            yield name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(values) >= 6 and len(values) % 2 == 0:
            yield name, (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        else:
            raise DataError(f"{path}, line {number}: has to be 'class x y width height', not {line[:60]!r}")


def _decode(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8") from error
