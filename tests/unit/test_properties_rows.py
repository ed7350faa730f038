"""Names, lists, answers, rows, ledger: what is written is read back equal, what is damaged is refused in a line."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.answers import as_csv, as_json, as_jsonl
from catdog.errors import CatdogError, DataError, ImageError, SettingsError
from catdog.prediction import Prediction
from catdog.score import output
from catdog.score.ledger import Ledger
from catdog.score.rows import STATUSES, Row, table
from catdog.sources import Cursor, Input, list_inputs
from catdog.sources.lists import read_entries
from catdog.sources.names import expand_braces, is_object_uri, is_url, matches, safe_member_name
from catdog.sources.stores import FolderStore
from catdog.text import escape_name, printable, restore_name
from tests.properties import ANY_TEXT, bounded, damaged, refused_with, spoil

CLASSES = ("cat", "dog")
MODEL = "d" * 64
SHARES = st.floats(0, 1)
ERRORS = ANY_TEXT.filter(bool).map(lambda text: Prediction.failed("", text).error)
ANSWERS = st.one_of(
    st.builds(
        lambda source, cat, dog: Prediction(source, "cat", cat, {"cat": cat, "dog": dog}), ANY_TEXT, SHARES, SHARES
    ),
    st.builds(Prediction.failed, ANY_TEXT, ANY_TEXT.filter(bool)),
)
VERSIONS = st.text("0123456789abcdef-", min_size=1, max_size=9) | st.none()
ROWS = st.one_of(
    st.builds(
        lambda probabilities, width, version: Row(
            "ok", "cat", max(probabilities), probabilities, width, 7, "a" * 64, None, version
        ),
        st.tuples(SHARES, SHARES),
        st.integers(1, 2**28),
        VERSIONS,
    ),
    st.builds(
        lambda status, error, version: Row(status, error=printable(error), version=version),
        st.sampled_from(STATUSES[1:]),
        ANY_TEXT.filter(bool),
        VERSIONS,
    ),
)
NAMES = ANY_TEXT.filter(lambda name: len(name) < 1000)


@settings(bounded, max_examples=500)
@given(st.text(st.sampled_from("\\x5cud89abf0\udce9\ud800é"), max_size=20) | ANY_TEXT)
def test_a_name_is_escaped_to_unicode_and_back(name: str) -> None:
    assert restore_name(escape_name(name)) == name
    assert escape_name(name).encode().decode() == escape_name(name)
    assert "\\" in name or escape_name(name) == name or not name.isascii()


@bounded
@given(ANY_TEXT)
def test_a_member_stays_inside(name: str) -> None:
    safe = safe_member_name(name)
    if safe is not None:
        assert os.path.normpath(f"/tree/{safe}") == f"/tree/{safe}"
        assert safe_member_name(safe) == safe


@bounded
@given(ANY_TEXT, ANY_TEXT)
def test_patterns_of_anything_are_expanded_and_compared(pattern: str, name: str) -> None:
    with refused_with(SettingsError, pattern) if pattern.isprintable() else suppress(SettingsError):
        for found in islice(expand_braces(pattern), 50):
            matches(tuple(name.split("/")), tuple(found.split("/")))


def test_a_pattern_of_many_stars_is_compared_at_once() -> None:
    path = ("a",) * 40
    assert matches(path, (*("**", "a") * 12, "**"))
    assert not matches(path, (*("**", "a") * 12, "b"))
    assert not matches(path, (*["**"] * 30, "b"))


def test_braces_without_end_are_refused() -> None:
    for source in ("{a,b}" * 2000, "{0..1" + "0" * 5000 + "}"):
        with refused_with(SettingsError):
            assert len(list(islice(expand_braces(source), 3))) == 3


@settings(bounded, max_examples=150)
@given(source=NAMES)
def test_a_source_of_anything_gives_inputs_that_are_read_or_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / "1.png").touch()
    if source.startswith("/") or ".." in source or is_url(source) or is_object_uri(source):
        return  # leads out of here
    with suppress(CatdogError):
        for item in islice(list_inputs([source]), 20):
            with pytest.raises(ImageError):  # nothing here is a photo
                raise_if_empty(item)


def raise_if_empty(item: Input) -> None:
    if not item.content.read(item.source):
        raise ImageError("empty", "empty")


def is_entry(name: str) -> bool:
    return bool(name) and name.strip() == name and not set(name) & set("\0\r\n\ufeff") and not has_high_surrogate(name)


def has_high_surrogate(name: str) -> bool:
    """Whether a name holds what no file name can: surrogates that stand for no byte."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return True
    return os.fsdecode(os.fsencode(name)) != name


@bounded
@given(names=st.lists(NAMES.filter(is_entry), max_size=5), kind=st.sampled_from([".txt", ".csv", ".tsv", ".parquet"]))
def test_a_list_is_read_back_equal(tmp_path: Path, names: list[str], kind: str) -> None:
    path = tmp_path / f"list{kind}"
    path.write_bytes(write_list(names, kind))
    assert list(read_entries(str(path))) == names


def write_list(names: list[str], kind: str) -> bytes:
    if kind == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({"label": [1] * len(names), "path": [os.fsencode(name) for name in names]}), buffer)
        return buffer.getvalue()
    if kind == ".txt":
        return b"".join(os.fsencode(name) + b"\n" for name in names)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t" if kind == ".tsv" else ",")
    writer.writerows([("label", "path"), *((1, name) for name in names)])
    return os.fsencode(text.getvalue())


@bounded
@given(data=st.data(), kind=st.sampled_from([".txt", ".csv", ".tsv", ".parquet", ".parquet"]))
def test_a_damaged_list_is_read_or_refused(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    path = tmp_path / f"list{kind}"
    path.write_bytes(data.draw(damaged(write_list(["a/1.jpg", "b,2.jpg", 'c"3.jpg'], kind))))
    with refused_with(SettingsError, f"--list {path}: "):
        assert all(isinstance(entry, str) for entry in read_entries(str(path)))


@bounded
@given(st.lists(ANSWERS, max_size=4))
def test_answers_are_read_back_equal(answers: list[Prediction]) -> None:
    expected = [answer.to_dict() for answer in answers]
    jsonl, whole, table = ("".join(form(answers, CLASSES)) for form in (as_jsonl, as_json, as_csv))
    assert [json.loads(line) for line in jsonl.encode().split(b"\n")[:-1]] == expected
    assert json.loads(whole.encode()) == expected
    assert [restore_name(answer["source"]) for answer in expected] == [answer.source for answer in answers]
    read = list(csv.reader(io.StringIO(table.encode().decode(), newline="")))
    assert read[0] == ["source", "label", "confidence", "cat", "dog", "error"]
    for row, answer in zip(read[1:], answers, strict=True):
        assert restore_name(row[0]) == answer.source
        assert (row[2] and float(row[2]), row[5]) == (answer.confidence or (row[2] and 0.0), answer.error or "")


@bounded
@given(rows=st.lists(st.tuples(NAMES, ROWS), min_size=1, max_size=4), kind=st.sampled_from(output.ENDINGS))
def test_rows_are_read_back_equal(tmp_path: Path, rows: list[tuple[str, Row]], kind: str) -> None:
    store = FolderStore(tmp_path)
    part = table([name for name, _ in rows], [row for _, row in rows], CLASSES, MODEL)
    store.put("part.parquet", output.encode(part))
    output.write(store, ["part.parquet"], f"rows{kind}", "scratch")
    found = []
    for batch in output.read_columns(store, f"rows{kind}"):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            found.append((restore_name(row["source"]), Row.from_columns(row, CLASSES)))
    assert found == rows


ROW = Row("ok", "cat", 0.75, (0.75, 0.25), 4, 3, "a" * 64, None, "1-2")


@bounded
@given(data=st.data(), kind=st.sampled_from(output.ENDINGS))
def test_damaged_rows_are_read_or_refused(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    store = FolderStore(tmp_path)
    store.put("part.parquet", output.encode(table(["a.jpg", "b.jpg"], [ROW, ROW], CLASSES, MODEL)))
    output.write(store, ["part.parquet"], f"rows{kind}", "scratch")
    path = tmp_path / f"rows{kind}"
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    take_rows(store, path.name)


def test_rows_with_anything_in_any_place_are_read_or_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    good = table(["a.jpg"], [ROW], CLASSES, MODEL).to_pylist()[0]
    for text in (*map(json.dumps, spoil(good)), "[" * 100_000, '{"source": ' * 10_000):
        (tmp_path / "rows.jsonl").write_text(text)
        take_rows(store, "rows.jsonl")


def take_rows(store: FolderStore, name: str) -> None:
    """Take the rows of a finished result, as an update does."""
    with refused_with(DataError, f"{name}: "):
        ledger = Ledger(store, name, {}, CLASSES, MODEL)
        store.put(ledger.record_name, json.dumps(RECORD | {"finished": True}).encode())
        ledger.open()
        ledger.begin_update()
        former = ledger.find_former()
        assert former is not None
        former.sources_of("a.zip", "1-2")
        found = former.take("a.jpg", "1-2")[1]
        former.take("zzz.jpg", None)
        if found:
            assert table(["a.jpg"], [found], CLASSES, MODEL).num_rows == 1


RECORD: dict[str, Any] = {
    "version": 1,
    "asked": {},
    "finished": False,
    "totals": {"statuses": {"ok": 2}, "labels": {"cat": 2}},
    "former": {"statuses": {"ok": 2}, "labels": {"cat": 2}},
}


def test_a_record_with_anything_in_any_place_works_or_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("rows.csv", b"")
    for data in (*spoil(RECORD), *spoil(RECORD | {"finished": True})):
        ledger = Ledger(store, "rows.csv", {}, CLASSES, MODEL)
        store.put(ledger.record_name, json.dumps(data).encode())
        with refused_with(CatdogError):
            ledger.open()
            assert ledger.totals.rows >= 0
            assert isinstance(ledger.totals.failed, dict)


def test_a_part_with_anything_in_any_place_of_its_metadata_works_or_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    good = {"cursor": [0, {"path": ["a.jpg"]}], "totals": RECORD["totals"], "changes": {"new": 2}}
    part = table(["a.jpg"], [ROW], CLASSES, MODEL)
    for data in spoil(good):
        ledger = Ledger(store, "rows.csv", {}, CLASSES, MODEL)
        store.put(ledger.record_name, json.dumps(RECORD).encode())
        text = json.dumps(data).encode()
        store.put(
            "rows.csv.parts/part-00000000.parquet", output.encode(part.replace_schema_metadata({b"catdog.score": text}))
        )
        with refused_with(DataError, "rows.csv.parts/part-00000000.parquet: "):
            ledger.open()
            assert ledger.totals.rows >= 0
            assert ledger.cursor is None or isinstance(ledger.cursor.source, int)


@bounded
@given(data=st.data())
def test_a_damaged_part_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    store = FolderStore(tmp_path)
    ledger = Ledger(store, "rows.csv", {}, CLASSES, MODEL, restart=True)
    ledger.open()
    ledger.commit(["a.jpg"], [ROW], Cursor(0, {"path": ["a.jpg"]}))
    path = tmp_path / "rows.csv.parts/part-00000000.parquet"
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    again = Ledger(store, "rows.csv", {}, CLASSES, MODEL)
    with refused_with(DataError, "rows.csv.parts/part-00000000.parquet: "):
        again.open()
        again.commit(["b.jpg"], [ROW], None)
        again.finish()
