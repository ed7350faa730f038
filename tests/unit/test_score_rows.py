"""Rows, the formats they are written in, the record that a run goes on from, its bound of errors, its progress."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from catdog.errors import ContractError, DataError, ImageError, ImageReason, SettingsError
from catdog.score import output
from catdog.score.ledger import Ledger, Totals
from catdog.score.rows import MAX_ERROR_LENGTH, STATUS_OF, STATUSES, Row, Status, columns, table
from catdog.score.run import MIN_JUDGED, MaxErrors, batch_inputs
from catdog.sources.archives import Bytes
from catdog.sources.contents import File
from catdog.sources.listing import Cursor, Input
from catdog.sources.stores import FolderStore

pa = pytest.importorskip("pyarrow")
CLASSES = ("cat", "dog")
MODEL = "0" * 64
CAT = Row("ok", "cat", 0.1 + 0.2, (0.1 + 0.2, 1e-300), 32, 24, "a" * 64, version="17d2f-3a0c")
UNSURE = Row("ok", "unsure", 0.5, (0.5, 0.5), 1, 100_000, "b" * 64)
BAD = Row("corrupt", sha256="c" * 64, error='x.jpg: damaged, "truly"')
MISSING = Row("missing", error="y.jpg: no such file")
SOURCES = ["a/1.jpg", "b/1.jpg", 'odd ,"\n\r\t;é🐈.jpg', os.fsdecode(b"caf\xe9.jpg")]
ROWS = [CAT, UNSURE, BAD, MISSING]
EXPECTED: list[dict[str, Any]] = [
    {
        "source": source, "status": row.status, "label": row.label, "confidence": row.confidence,
        "cat": row.probabilities[0] if row.probabilities else None,
        "dog": row.probabilities[1] if row.probabilities else None,
        "width": row.width, "height": row.height, "sha256": row.sha256, "error": row.error, "model": MODEL,
        "version": row.version,
    }
    for source, row in zip([*SOURCES[:3], "caf\\udce9.jpg"], ROWS, strict=True)
]  # fmt: skip
OpenLedger = Callable[..., Ledger]


@pytest.fixture
def ledger(tmp_path: Path) -> OpenLedger:
    """ledger(asked, restart=...) -> that of results.jsonl, opened."""

    def go(asked: dict[str, Any] | None = None, restart: bool = False, name: str = "results.jsonl") -> Ledger:
        made = Ledger(FolderStore(tmp_path), name, asked or {"threshold": None}, CLASSES, MODEL, restart)
        made.open()
        return made

    return go


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_reason_why_a_photo_fails_has_a_status() -> None:
    assert set(STATUS_OF) == set(get_args(ImageReason))
    assert STATUSES == ("ok", "corrupt", "unsupported", "missing", "too_large", "out_of_memory")
    assert set(STATUS_OF.values()) == set(STATUSES) - {"ok"}


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("missing", "missing"),
        ("unreadable", "missing"),
        ("empty", "corrupt"),
        ("corrupt", "corrupt"),
        ("unsupported", "unsupported"),
        ("too_large", "too_large"),
    ],
)
def test_a_failed_row_has_a_status_and_an_error_and_no_answer(reason: ImageReason, status: Status) -> None:
    row = Row.failed(ImageError("a\x1b[31m\n.jpg: why", reason), "f" * 64)
    assert row == Row(status, None, None, (), None, None, "f" * 64, "a\\x1b[31m\\n.jpg: why")
    assert Row.failed(ImageError("x" * 10_000, reason)).error == "x" * MAX_ERROR_LENGTH


def test_columns_are_those_promised_and_no_class_hides_one() -> None:
    assert columns(CLASSES) == [
        "source", "status", "label", "confidence", "cat", "dog", "width", "height", "sha256", "error", "model",
        "version",
    ]  # fmt: skip
    with pytest.raises(ContractError, match="a class named 'error' would be mistaken for the column"):
        columns(["cat", "error"])


def test_a_table_has_one_row_an_input_and_typed_columns() -> None:
    made = table(SOURCES, ROWS, CLASSES, MODEL)
    assert made.to_pylist() == EXPECTED
    assert [str(kind) for kind in made.schema.types] == [
        *["string"] * 3, *["double"] * 3, *["int32"] * 2, *["string"] * 4
    ]  # fmt: skip
    empty = table([], [], CLASSES, MODEL)
    assert (empty.num_rows, empty.schema) == (0, made.schema)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_every_format_holds_the_same_rows(tmp_path: Path, ending: str) -> None:
    store = FolderStore(tmp_path)
    for n in range(2):
        part = table(SOURCES[2 * n : 2 * n + 2], ROWS[2 * n : 2 * n + 2], CLASSES, MODEL)
        store.put(f"p/{n}", output.encode(part))
    output.write(store, ["p/0", "p/1"], f"r.{ending}", "p")
    path = tmp_path / f"r.{ending}"
    if ending == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(path).to_pylist() == EXPECTED
        assert pq.read_schema(path).metadata is None
    elif ending == "jsonl":
        assert lines(path) == EXPECTED
        assert path.read_bytes().count(b"\n") == 4
    else:
        assert list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))) == [
            {name: "" if value is None else str(value) for name, value in row.items()} for row in EXPECTED
        ]
        assert path.read_bytes().startswith(
            b"source,status,label,confidence,cat,dog,width,height,sha256,error,model,version\n"
        )
    read = [row for batch in output.read_columns(store, path.name) for row in zip(*batch.values(), strict=True)]
    assert [row[0] for row in read] == [row["source"] for row in EXPECTED]
    assert [row[2] or None for row in read] == [row["label"] for row in EXPECTED]
    assert [float(row[3]) for row in read[:2]] == [0.1 + 0.2, 0.5]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [f"r.{ending}"]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_result_without_rows_still_has_its_columns(tmp_path: Path, ending: str) -> None:
    store = FolderStore(tmp_path)
    store.put("p/0", output.encode(table([], [], CLASSES, MODEL)))
    output.write(store, ["p/0"], f"r.{ending}", "p")
    if ending == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_schema(tmp_path / "r.parquet").names == columns(CLASSES)
    else:
        assert (tmp_path / f"r.{ending}").read_text() == (",".join(columns(CLASSES)) + "\n" if ending == "csv" else "")


@pytest.mark.parametrize("name", ["r.json", "r", "r.parquet.gz", ".csv", "a.csv/r"])
def test_another_ending_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"must end in \.parquet, \.csv or \.jsonl"):
        output.ending(name)
    assert output.ending("s3://bucket/R.CSV") == ".csv"


def test_totals_count_statuses_and_labels_and_survive_json() -> None:
    totals = Totals()
    totals.add(ROWS)
    totals.add([CAT])
    assert totals.rows == 5
    assert totals.failed == {"corrupt": 1, "missing": 1}
    assert totals.labels == {"cat": 2, "unsure": 1}
    assert Totals.from_json(json.loads(json.dumps(totals.to_json()))) == totals


def test_a_run_goes_on_behind_its_last_part(ledger: OpenLedger, tmp_path: Path) -> None:
    first = ledger()
    assert (first.cursor, first.listed, first.finished, first.totals.rows) == (None, False, False, 0)
    first.commit(SOURCES[:2], ROWS[:2], Cursor(0, {"path": ["b", os.fsdecode(b"\xe9")]}))
    second = ledger()
    assert second.cursor == Cursor(0, {"path": ["b", os.fsdecode(b"\xe9")]})
    assert (second.listed, second.finished, second.totals.rows) == (False, False, 2)
    second.commit(SOURCES[2:], ROWS[2:], None)
    third = ledger()
    assert (third.listed, third.finished, third.totals.rows) == (True, False, 4)
    assert not (tmp_path / "results.jsonl").exists()
    third.finish()
    assert lines(tmp_path / "results.jsonl") == EXPECTED
    done = ledger()
    assert (done.listed, done.finished) == (True, True)
    assert done.totals.failed == {"corrupt": 1, "missing": 1}
    done.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "results.jsonl.run.json"]


def test_killed_while_it_finishes_it_finishes_again(ledger: OpenLedger, tmp_path: Path) -> None:
    run = ledger()
    run.commit(SOURCES, ROWS, None)
    saved = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run.finish()
    record = (tmp_path / "results.jsonl.run.json").read_bytes()
    for kept in ("nothing", "the result", "the result and the record"):
        for path, data in saved.items():  # as it is when the kill comes just before the parts go
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        if kept == "nothing":
            (tmp_path / "results.jsonl").unlink()
        if kept.endswith("record"):
            (tmp_path / "results.jsonl.run.json").write_bytes(record)
        again = ledger()
        assert again.listed
        again.finish()
        assert lines(tmp_path / "results.jsonl") == EXPECTED
        assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "results.jsonl.run.json"]


def test_a_run_that_asks_for_something_else_is_refused_unless_restarted(ledger: OpenLedger, tmp_path: Path) -> None:
    ledger({"threshold": 0.5, "model": "a"}).commit(SOURCES, ROWS, Cursor(0, 4))
    with pytest.raises(SettingsError, match=r"results\.jsonl was begun with another threshold \(0\.5, now 0\.7\);"):
        ledger({"threshold": 0.7, "model": "a"})
    with pytest.raises(SettingsError, match=r"another model \(\"a\", now null\)"):
        ledger({"threshold": 0.5})
    assert ledger({"threshold": 0.5, "model": "a"}).totals.rows == 4
    anew = ledger({"threshold": 0.7}, restart=True)
    assert (anew.cursor, anew.totals.rows) == (None, 0)
    anew.commit(SOURCES[:1], ROWS[:1], None)
    anew.finish()
    with pytest.raises(SettingsError, match="another threshold"):
        ledger({"threshold": 0.5})
    assert lines(tmp_path / "results.jsonl") == EXPECTED[:1]


def test_a_file_that_is_not_from_this_command_is_not_replaced(ledger: OpenLedger, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("mine")
    with pytest.raises(SettingsError, match=r"results\.jsonl is there already, and not from this command"):
        ledger()
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]
    assert (tmp_path / "results.jsonl").read_text() == "mine"
    ledger(restart=True).commit(SOURCES, ROWS, None)
    ledger().finish()
    assert lines(tmp_path / "results.jsonl") == EXPECTED


@pytest.mark.parametrize("damage", ["a part is gone", "a stranger", "cut", "another table"])
def test_parts_that_do_not_belong_together_are_refused(ledger: OpenLedger, tmp_path: Path, damage: str) -> None:
    run = ledger()
    run.commit(SOURCES[:2], ROWS[:2], Cursor(0, 1))
    run.commit(SOURCES[2:], ROWS[2:], Cursor(0, 2))
    first, last = sorted((tmp_path / "results.jsonl.parts").iterdir())
    if damage == "a part is gone":
        first.unlink()
    elif damage == "a stranger":
        (first.parent / "part-x.parquet").touch()
    elif damage == "cut":
        last.write_bytes(last.read_bytes()[:100])
    else:
        last.write_bytes(output.encode(table(SOURCES, ROWS, CLASSES, MODEL)))
    with pytest.raises(DataError, match="give --restart"):
        ledger()
    assert ledger(restart=True).totals.rows == 0


@pytest.mark.parametrize("record", [b"", b"[]", b"null", b"{}", b'{"version": 99, "asked": {}}', b"\xff"])
def test_a_record_of_something_else_is_refused(ledger: OpenLedger, tmp_path: Path, record: bytes) -> None:
    (tmp_path / "results.jsonl.run.json").write_bytes(record)
    with pytest.raises(SettingsError, match=r"jsonl\.run\.json: is no record of this catdog's; give --restart"):
        ledger()
    assert ledger(restart=True).totals.rows == 0


def test_a_finished_run_whose_result_is_gone_is_not_taken_for_done(ledger: OpenLedger, tmp_path: Path) -> None:
    run = ledger()
    run.commit(SOURCES, ROWS, None)
    run.finish()
    (tmp_path / "results.jsonl").unlink()
    again = ledger()
    assert (again.finished, again.listed, again.totals.rows, again.cursor) == (False, False, 0, None)


def test_a_begun_run_without_rows_may_be_asked_for_something_else(ledger: OpenLedger) -> None:
    """A list that can't be read, say, stops a run before its first row; when it is mended, nothing is in the way."""
    ledger({"files": [1]})
    assert ledger({"files": [2]}).totals.rows == 0
    ledger({"files": [2]}).commit(SOURCES, ROWS, Cursor(0, 1))
    with pytest.raises(SettingsError, match="other files"):
        ledger({"files": [1]})


def test_two_results_in_one_folder_do_not_meet(ledger: OpenLedger, tmp_path: Path) -> None:
    ledger(name="a.jsonl").commit(SOURCES[:1], ROWS[:1], None)
    ledger(name="b.jsonl").commit(SOURCES[1:], ROWS[1:], None)
    for name in ("a.jsonl", "b.jsonl"):
        ledger(name=name).finish()
    assert [len(lines(tmp_path / name)) for name in ("a.jsonl", "b.jsonl")] == [1, 3]


def counted(ok: int, failed: int) -> Totals:
    return Totals.from_json({"statuses": {"ok": ok, "corrupt": failed}, "labels": {}})


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("0", MaxErrors(number=0)),
        ("100", MaxErrors(number=100)),
        ("0%", MaxErrors(share=0)),
        ("0.5%", MaxErrors(share=0.005)),
        ("100%", MaxErrors(share=1)),
    ],
)
def test_a_bound_of_errors_is_a_number_or_a_share(text: str, bound: MaxErrors) -> None:
    assert MaxErrors.parse(text) == bound


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "%", "101%", "-1%", "nan%", "1 000", "1e3", "²", "inf%"])
def test_another_bound_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=f"--max-errors {text}: must be a number of rows like 100, or a share like"):
        MaxErrors.parse(text)


def test_a_number_of_errors_is_exceeded_by_one_more_at_once() -> None:
    assert not MaxErrors(number=2).are_exceeded(counted(0, 2))
    assert MaxErrors(number=2).are_exceeded(counted(0, 3))
    assert MaxErrors(number=0).are_exceeded(counted(10**6, 1))
    assert not MaxErrors().are_exceeded(counted(0, 10**6), at_end=True)


def test_a_share_of_errors_is_judged_when_there_are_enough_rows_or_at_the_end() -> None:
    tenth = MaxErrors(share=0.1)
    assert not tenth.are_exceeded(counted(0, MIN_JUDGED - 1))
    assert tenth.are_exceeded(counted(0, MIN_JUDGED))
    assert not tenth.are_exceeded(counted(900, 100))
    assert tenth.are_exceeded(counted(899, 101))
    assert not tenth.are_exceeded(counted(9, 1), at_end=True)
    assert tenth.are_exceeded(counted(8, 2), at_end=True)
    assert not tenth.are_exceeded(counted(0, 0), at_end=True)


def test_tasks_are_full_unless_they_carry_too_much() -> None:
    files = [Input(str(n), File(str(n)), Cursor(0, n)) for n in range(7)]
    assert [len(task) for task in batch_inputs(iter(files), 3, 10)] == [3, 3, 1]
    heavy = [item._replace(content=Bytes(bytes(6))) for item in files]
    assert [len(task) for task in batch_inputs(iter(heavy), 3, 10)] == [2, 2, 2, 1]
    assert [item for task in batch_inputs(iter(heavy), 3, 10) for item in task] == heavy
    assert list(batch_inputs(iter([]), 3, 10)) == []
