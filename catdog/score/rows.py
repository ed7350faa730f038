"""The answer for one input, and the table that many of them make.

    source  status  label  confidence  <a column a class>  width  height  sha256  error  model  version

One input gives one row, whatever happens to it. Of a detector it is one a head, and one where a photo has none; it has
BOX_COLUMNS where a classifier has its classes. Parquet, CSV and JSON lines have the same columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from catdog.boxes import Box
from catdog.detection.answers import BOX_COLUMNS, HEAD, group_photos
from catdog.detection.decoding import DetectedObject
from catdog.errors import ContractError, ImageError, ImageReason
from catdog.text import escape_name, printable

if TYPE_CHECKING:
    import pyarrow as pa

Status = Literal["ok", "corrupt", "unsupported", "missing", "too_large", "out_of_memory"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
STATUS_OF: Final[Mapping[ImageReason, Status]] = {
    "missing": "missing",
    "unreadable": "missing",  # nothing is known of a photo whose bytes can't be had; the error says why
    "empty": "corrupt",
    "unsupported": "unsupported",
    "corrupt": "corrupt",
    "too_large": "too_large",
    "out_of_memory": "out_of_memory",
}
MAX_ERROR_LENGTH: Final = 500  # characters


class Row(NamedTuple):
    """What is known of one input besides its name. A failed one has no label, confidence, probabilities and heads."""

    status: Status
    label: str | None = None
    confidence: float | None = None
    probabilities: tuple[float, ...] = ()
    """In the order of the contract's classes."""
    width: int | None = None
    """Of the upright photo, px; None where its bytes don't say."""
    height: int | None = None
    sha256: str | None = None
    """Of the encoded bytes, hex; None where there are none."""
    error: str | None = None
    version: str | None = None
    """Of the input when it was listed, by which a later run knows whether it was replaced; None: unknown."""
    heads: tuple[DetectedObject, ...] = ()
    """What a detector found, the surest first; such a row itself has no label, confidence and probabilities."""

    @property
    def labels(self) -> list[str]:
        """The label of the photo, or those of its heads."""
        return [self.label] if self.label is not None else [head.label for head in self.heads]

    @classmethod
    def failed(cls, error: ImageError, sha256: str | None = None) -> Row:
        """The row of an input that can't be answered."""
        return cls(STATUS_OF[error.reason], sha256=sha256, error=printable(str(error))[:MAX_ERROR_LENGTH])

    @classmethod
    def from_columns(
        cls, values: Mapping[str, Any], class_names: Sequence[str], others: Sequence[Mapping[str, Any]] = ()
    ) -> Row:
        """The row that a table's values by column name were made of; a CSV's are all text.

        ``others``: those of the photo's second head and of all after it. Raises KeyError, TypeError, ValueError,
        AttributeError or OverflowError for values that no row has.
        """
        if values["status"] not in STATUSES:
            raise ValueError(f"no status: {values['status']!r}")

        def convert(name: str, kind: Callable[[Any], Any]) -> Any:
            return None if values.get(name) in (None, "") else kind(values[name])

        has_heads = HEAD in class_names
        probabilities = () if has_heads else tuple(convert(name, float) for name in class_names)
        return cls(
            values["status"],
            None if has_heads else convert("label", _read_text),
            None if has_heads else convert("confidence", float),
            () if None in probabilities else probabilities,
            width=convert("width", _read_side),
            height=convert("height", _read_side),
            sha256=convert("sha256", _read_text),
            error=convert("error", _read_text),
            version=convert("version", _read_text),
            heads=tuple(map(_read_head, [values, *others])) if has_heads and convert(HEAD, int) else (),
        )


def join_heads(values: Iterable[dict[str, Any]], class_names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Sources and Rows of which a table was made, given its rows by column name. Raises as ``Row.from_columns``."""
    for photo in group_photos(values) if HEAD in class_names else ([row] for row in values):
        yield photo[0]["source"], Row.from_columns(photo[0], class_names, photo[1:])


def _read_head(values: Mapping[str, Any]) -> DetectedObject:
    corners = [float(values[name]) for name in BOX_COLUMNS[1:]]
    return DetectedObject(float(values["confidence"]), Box(_read_text(values["label"]), *corners))


def _read_text(value: Any) -> str:
    value.encode()  # JSON's text may hold half of a surrogate pair, which no table can
    return str(value)


def _read_side(value: Any) -> int:
    if not 0 <= int(value) < 2**31:
        raise ValueError(f"no side of a photo: {value}")
    return int(value)


def columns(class_names: Sequence[str]) -> list[str]:
    """The names of all columns in order; raises ContractError for a class that has another column's name."""
    fixed = ["source", "status", "label", "confidence"], ["width", "height", "sha256", "error", "model", "version"]
    taken = {*fixed[0], *fixed[1], *(() if class_names == BOX_COLUMNS else [HEAD])}
    if clash := set(class_names) & taken:
        raise ContractError(f"a class named {min(clash)!r} would be mistaken for the column; rename the class")
    return [*fixed[0], *class_names, *fixed[1]]


def table(sources: Sequence[str], rows: Sequence[Row], class_names: Sequence[str], model: str) -> pa.Table:
    """Rows as an Arrow table: text, doubles for confidence, probabilities and boxes, int32 for sizes and ``head``.

    ``model``: its SHA-256.
    """
    import pyarrow as pa

    if HEAD in class_names:
        sources = [source for source, row in zip(sources, rows, strict=True) for _ in row.heads or [None]]
        rows = list(chain.from_iterable(map(_spread_heads, rows)))
    missing = (None,) * len(class_names)
    data: list[tuple[Any, Any]] = [
        ([escape_name(source) for source in sources], pa.string()),
        ([row.status for row in rows], pa.string()),
        ([row.label for row in rows], pa.string()),
        ([row.confidence for row in rows], pa.float64()),
        *(
            ([(row.probabilities or missing)[i] for row in rows], pa.int32() if name == HEAD else pa.float64())
            for i, name in enumerate(class_names)
        ),
        ([row.width for row in rows], pa.int32()),
        ([row.height for row in rows], pa.int32()),
        ([row.sha256 for row in rows], pa.string()),
        ([row.error for row in rows], pa.string()),
        ([model] * len(rows), pa.string()),
        ([row.version for row in rows], pa.string()),
    ]
    return pa.table([pa.array(values, kind) for values, kind in data], names=columns(class_names))


def _spread_heads(row: Row) -> list[Row]:
    """One row a head, with what BOX_COLUMNS name where a classifier's has probabilities; of no head, the row itself."""
    return [
        row._replace(label=head.label, confidence=head.confidence, probabilities=(number, *head.box.corners))
        for number, head in enumerate(row.heads, start=1)
    ] or [row]
