"""What a run has finished, so that it can go on after any end: kill -9, a power cut, a full disk.

    results.parquet                             the result; while it is brought up to date, the former one
    results.parquet.run.json                    what the run was asked for; when it is finished, its totals
    results.parquet.parts/part-00000000.parquet rows, with the cursor behind them and the totals up to them as metadata
    results.parquet.parts/former.parquet        rows of parts whose listing could not go on, since a source was replaced

A part appears whole or not at all, and it alone says where to go on, so there is no second record that could
contradict it. When all rows are there the parts become the result, and go.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from catdog.errors import DataError, SettingsError
from catdog.score import output
from catdog.score.former import FormerRows, Table, read_sources
from catdog.score.rows import STATUSES, Row, table
from catdog.sources import Cursor
from catdog.sources.stores import Store
from catdog.text import first_line

VERSION: Final = 1
_SHOWN_CHARACTERS: Final = 100  # characters of a value in a message
_KEY: Final = b"catdog.score"  # of a part's metadata
_FORMER: Final = "former.parquet"
_FORMER_SETTING: Final = "files"  # in records of earlier versions, which refused a list or archive that had changed


@dataclass
class Totals:
    """How many inputs of which status there are, and how many labels: a detector's are those of heads."""

    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Sequence[Row]) -> None:
        """Count these, too."""
        self.statuses.update(row.status for row in rows)
        self.labels.update(label for row in rows for label in row.labels)

    @property
    def rows(self) -> int:
        return self.statuses.total()

    @property
    def failed(self) -> dict[str, int]:
        """Rows without an answer, by status."""
        return {status: self.statuses[status] for status in STATUSES[1:] if self.statuses[status]}

    def to_json(self) -> dict[str, dict[str, int]]:
        """Plain dicts."""
        return {"statuses": dict(self.statuses), "labels": dict(self.labels)}

    @classmethod
    def from_json(cls, data: dict[str, dict[str, int]]) -> Totals:
        """What ``to_json`` gave; raises ValueError, KeyError or TypeError for anything else."""
        return cls(read_counts(data["statuses"]), read_counts(data["labels"]))


def read_counts(data: Any) -> Counter[str]:
    """Return counts that were written as JSON; raises ValueError for anything else."""
    if not isinstance(data, dict) or not all(type(count) is int and count >= 0 for count in data.values()):
        raise ValueError("what should be counts is something else")
    return Counter(data)


class Ledger:
    """The record of one run beside its result; one process at a time writes it (``Store.lock``)."""

    def __init__(
        self,
        store: Store,
        name: str,
        asked: dict[str, Any],
        class_names: Sequence[str],
        model: str,
        restart: bool = False,
    ) -> None:
        """``name``: of the result in ``store``. ``asked``: what the rows depend on, as JSON. ``restart``: forget what
        there is; the former result stays until the new one is whole.
        """
        self._store, self._name, self._asked = store, name, asked
        self._class_names, self._model = class_names, model
        self._parts = 0
        self.totals = Totals()
        self.cursor: Cursor | None = None
        """Where to go on; None at the start."""
        self.listed = False
        """Whether the rows of all inputs are in the parts."""
        self.finished = False
        """Whether the result is written, and no update of it was begun."""
        self.changes: Counter[str] = Counter()
        """Of an update so far: inputs that were ``kept``, ``new``, ``changed`` or ``retried``."""
        self._restarted = restart
        self._former_totals: Totals | None = None
        self._is_noted = True
        """Whether the record says that this run is not finished."""

    @property
    def record_name(self) -> str:
        return f"{self._name}.run.json"

    @property
    def parts_folder(self) -> str:
        return f"{self._name}.parts"

    def open(self) -> None:
        """Find out where to go on.

        Raises SettingsError when the result is another run's: of another model, other settings or other sources.
        """
        record = None if self._restarted else self._store.get(self.record_name)
        if record is None and not self._restarted and self._store.exists(self._name):
            raise SettingsError(
                f"{self._name} is there already, and not from this command; name another --out, or give --restart"
            )
        found = None if record is None else self._read_record(record)
        if found and not (self._store.exists(self._name) or self._has_parts(found)):
            found = None  # its result was taken away, or it ended before its first part
        if found is None:
            self._store.clear(self.parts_folder)  # first: beside a record they would be taken for this run's
            self._store.put(self.record_name, self._make_record(finished=False))
            return
        if difference := _find_difference(found["asked"], self._asked):
            raise SettingsError(
                f"{self._name} was begun with {difference}; give the same again to go on with it, --restart to begin "
                "anew, or another --out"
            )
        self.finished = bool(found["finished"])
        if "former" in found and self._store.exists(self._name):
            self._former_totals = Totals.from_json(found["former"])
        if self.finished:
            self.totals, self.listed = Totals.from_json(found["totals"]), True
        else:
            self._find_parts()

    @property
    def has_result(self) -> bool:
        """Whether there is a former result, which an update brings up to date."""
        return self._former_totals is not None

    def find_former(self, retry_failed: bool = False) -> FormerRows | None:
        """Find the rows of the former result and of a listing that could not go on; None in a first run."""
        aside = f"{self.parts_folder}/{_FORMER}"
        tables: list[Table] = [(self._store, aside)] if self._store.exists(aside) else []
        if self.has_result:
            tables.append((self._store, self._name))
        if not tables:
            return None
        only_result = tables[0][1] == self._name  # what was put aside may end inside an archive
        former = FormerRows(tables, self._class_names, retry_failed, has_whole_archives=only_result)
        for number in range(self._parts):
            for source in read_sources(self._store, self._name_part(number)):
                former.forget(source)
        return former

    def begin_update(self) -> None:
        """List once more. The result stays, and so does its record until the first part is put."""
        self._former_totals, self._restarted = self.totals, False
        self.finished = self.listed = False
        self._is_noted = False
        self._begin_listing()

    def keep_result(self, totals: Totals) -> None:
        """End an update that found nothing to do."""
        self.totals, self.finished, self.listed = totals, True, True
        if self._is_noted:
            self._store.put(self.record_name, self._make_record(finished=True))
        self._store.clear(self.parts_folder)

    def abandon_update(self) -> None:
        """Forget an update, and all that it scored."""
        assert self._former_totals is not None
        self.keep_result(self._former_totals)

    def _begin_listing(self) -> None:
        self.totals, self.cursor, self._parts, self.changes = Totals(), None, 0, Counter()

    def put_parts_aside(self) -> None:
        """List from the start once more, since a source was replaced; the rows that are done can be taken over."""
        aside = f"{self.parts_folder}/{_FORMER}"
        names = [self._name_part(number) for number in range(self._parts)]
        before = [aside] if self._store.exists(aside) else []
        output.write(self._store, [*before, *names], aside, self.parts_folder)
        for name in reversed(names):  # the first to the last: after a kill, the rest is taken for what it is once more
            self._store.delete(name)
        self._begin_listing()

    def commit(self, sources: Sequence[str], rows: Sequence[Row], cursor: Cursor | None) -> None:
        """Put a part with these rows; ``cursor``: behind the last of them, None behind the very last input."""
        if not self._is_noted:
            self._store.clear(self.parts_folder)  # what a kill after the end has left
            self._store.put(self.record_name, self._make_record(finished=False))
            self._is_noted = True
        self.totals.add(rows)
        self.cursor, self.listed = cursor, cursor is None
        about = {"cursor": cursor, "totals": self.totals.to_json(), "changes": self.changes}
        part = table(sources, rows, self._class_names, self._model).replace_schema_metadata({_KEY: json.dumps(about)})
        self._store.put(self._name_part(self._parts), output.encode(part), new=True)
        self._parts += 1

    def finish(self) -> None:
        """Make the parts the result, note the end, and remove them; done again, it gives the same."""
        if not self.finished:
            output.write(self._store, [self._name_part(n) for n in range(self._parts)], self._name, self.parts_folder)
            self._store.put(self.record_name, self._make_record(finished=True))
            self.finished = True
        self._store.clear(self.parts_folder)
        self._parts = 0

    def _has_parts(self, found: dict[str, Any]) -> bool:
        return not found["finished"] and bool(self._store.names(self.parts_folder))

    def _find_parts(self) -> None:
        names = [name for name in self._store.names(self.parts_folder) if name != _FORMER]
        self._parts = len(names)
        if [f"{self.parts_folder}/{name}" for name in names] != [self._name_part(n) for n in range(len(names))]:
            raise DataError(f"{self.parts_folder}: a part is missing or doesn't belong there; give --restart")
        if not names:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        last = self._name_part(len(names) - 1)
        try:
            with self._store.open(last) as file:
                about = json.loads(pq.read_schema(file).metadata[_KEY])
            self.totals = Totals.from_json(about["totals"])
            self.changes = read_counts(about.get("changes", {}))
            self.cursor = None if about["cursor"] is None else Cursor(*about["cursor"])
            if self.cursor and type(self.cursor.source) is not int:
                raise ValueError("its cursor has no source")
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{last}: is not a part of this run ({first_line(error)}); give --restart") from error
        self.listed = self.cursor is None

    def _name_part(self, number: int) -> str:
        return f"{self.parts_folder}/part-{number:08d}.parquet"

    def _make_record(self, finished: bool) -> bytes:
        record = {"version": VERSION, "asked": self._asked, "finished": finished, "totals": self.totals.to_json()}
        if not finished and self._former_totals is not None:
            record["former"] = self._former_totals.to_json()
        return json.dumps(record, indent=1).encode()

    def _read_record(self, data: bytes) -> dict[str, Any]:
        try:
            record = json.loads(data)
            if record["version"] == VERSION and isinstance(record["asked"], dict) and "finished" in record:
                record["asked"].pop(_FORMER_SETTING, None)
                for totals in (record["totals"], *([record["former"]] if "former" in record else [])):
                    Totals.from_json(totals)
                return dict(record)
        except (KeyError, TypeError, ValueError, RecursionError):
            pass
        raise SettingsError(f"{self.record_name}: is no record of this catdog's; give --restart, or another --out")


def _find_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            was, now_is = (_shorten(values.get(name)) for values in (before, now))
            return f"{'other' if name.endswith('s') else 'another'} {name} ({was}, now {now_is})"
    return ""


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
