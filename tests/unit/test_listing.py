"""What SOURCE arguments and lists stand for, and that a listing goes on from every one of its cursors."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from catdog.errors import DataError, ImageError, SettingsError
from catdog.sources.contents import Failed, File, Web, file_version
from catdog.sources.folders import SORTED_AT_ONCE, walk
from catdog.sources.listing import Cursor, Input, SourceChangedError, can_count, list_inputs
from catdog.sources.names import expand_braces

ODD = os.fsdecode(b"caf\xe9.jpg")  # a name that is not UTF-8
TREE = (
    "b.jpg",
    "a.PNG",
    "z.webp",
    ODD,
    "a/1.jpg",
    "a/10.jpg",
    "a/2.jpg",
    "a/a/1.jpg",
    "a/a.b/1.jpg",
    "a b/new\nline.jpg",
    "a.b/1.jpg",
    "b.jpg.d/1.jpg",
    "ü/ü.jpg",
    "deep/er/and/deeper/1.jpg",
    "deep/er/2.jpg",
    "none/notes.txt",
    "f[1].jpg",
    "{1,2}.jpg",
)


def names(sources: Sequence[object], lists: Sequence[Path] = (), after: Cursor | None = None) -> list[str]:
    return [item.source for item in list_inputs([str(source) for source in sources], lists, after)]


def check_every_cursor(sources: Sequence[object], lists: Sequence[Path] = ()) -> list[Input]:
    """All inputs, having seen that behind the cursor of each come exactly those behind it."""
    arguments = [str(source) for source in sources]
    full = list(list_inputs(arguments, lists))
    for k, item in enumerate(full):
        assert list(list_inputs(arguments, lists, after=item.cursor)) == full[k + 1 :], item
        as_json = Cursor(*json.loads(json.dumps(item.cursor)))
        assert list(list_inputs(arguments, lists, after=as_json)) == full[k + 1 :], item
    return full


def message(item: Input) -> str:
    with pytest.raises(ImageError) as caught:
        item.content.read(item.source)
    return str(caught.value)


def write_tar(path: Path, members: Sequence[str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in members:
            member = tarfile.TarInfo(name)
            member.size = len(name.encode())
            archive.addfile(member, io.BytesIO(name.encode()))
    return path


def write_zip(path: Path, members: Sequence[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, name)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in TREE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    (root / "a/round").symlink_to(root)
    (root / "a/link.jpg").symlink_to(root / "b.jpg")
    for name in (".hidden.jpg", "__MACOSX/x.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


def test_a_folder_is_listed_in_scans_order_and_from_every_cursor(tree: Path) -> None:
    full = check_every_cursor([tree])
    assert [item.source for item in full] == [found.path for found in walk(tree)]
    assert len(full) == len(TREE)  # notes.txt is none, the link to a file is one
    first = str(tree / "a.PNG")
    assert full[0] == Input(first, File(first), Cursor(0, {"path": ["a.PNG"]}), file_version(first))
    assert all(item.content.read(item.source) for item in full)


def test_the_folder_one_is_in_gives_names_without_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "a")
    photos = ["1.jpg", "10.jpg", "2.jpg", "link.jpg", "a/1.jpg", "a.b/1.jpg"]
    assert [item.source for item in check_every_cursor(["."])] == photos
    assert names(["../a/"]) == [f"../a/{name}" for name in photos]


def test_a_folder_that_can_not_be_listed_is_one_failure_in_its_place(tree: Path) -> None:
    name = "long" * 60
    handle = os.open(tree / "deep", os.O_RDONLY)
    for _ in range(4096 // len(name) + 1):  # until its path is longer than the system takes
        os.mkdir(name, dir_fd=handle)
        inside = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inside
    os.close(os.open("lost.jpg", os.O_CREAT, dir_fd=handle))
    os.close(handle)
    full = check_every_cursor([tree])
    (failed,) = [item for item in full if isinstance(item.content, Failed)]
    assert message(failed) == f"{failed.source}: can't be listed (File name too long)"
    assert len(full) == len(TREE) + 1
    at = full.index(failed)
    assert full[at - 1].source.endswith("deep/er/and/deeper/1.jpg")
    assert full[at + 1].source.endswith("ü/ü.jpg")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["b.jpg", ODD, "f[1].jpg", "{1,2}.jpg"]),
        ("?.*", ["a.PNG", "b.jpg", "z.webp"]),
        ("a*/1.jpg", ["a/1.jpg", "a b/1.jpg", "a.b/1.jpg"]),
        ("**/1.jpg", None),
        ("a/**", ["a/1.jpg", "a/10.jpg", "a/2.jpg", "a/link.jpg", "a/a/1.jpg", "a/a.b/1.jpg"]),
        ("**/er/**/1.jpg", ["deep/er/and/deeper/1.jpg"]),
        ("**/*.jpg", None),
    ],
)
def test_a_pattern_is_those_of_the_folders_that_match_from_every_cursor(
    tree: Path, pattern: str, found: list[str] | None
) -> None:
    (tree / "a b/1.jpg").touch()
    full = [Path(item.source) for item in check_every_cursor([tree / pattern])]
    everything = [Path(found.path) for found in walk(tree)]
    ending = pattern.removeprefix("**/").removeprefix("*")
    wanted = [tree / name for name in found] if found else [path for path in everything if path.name.endswith(ending)]
    if not found and pattern == "**/1.jpg":
        wanted = [path for path in everything if path.name == "1.jpg"]
    assert full == sorted(wanted, key=everything.index)


def test_braces_are_ranges_and_alternatives(tmp_path: Path) -> None:
    assert list(expand_braces("p.tar")) == ["p.tar"]
    assert list(expand_braces("p-{008..011}.tar")) == ["p-008.tar", "p-009.tar", "p-010.tar", "p-011.tar"]
    assert list(expand_braces("{9..11}")) == ["9", "10", "11"]
    assert list(expand_braces("{3..1}")) == ["3", "2", "1"]
    assert list(expand_braces("{a,b}/{1..2}{,x}")) == ["a/1", "a/1x", "a/2", "a/2x", "b/1", "b/1x", "b/2", "b/2x"]
    assert list(itertools.islice(expand_braces("{0..999999999999}"), 2)) == ["000000000000", "000000000001"]
    with pytest.raises(SettingsError, match=r"x\{a\.\.c\}: \{a\.\.c\} is no range of numbers; write \{000\.\.099\}"):
        list(expand_braces("x{a..c}"))


def test_a_file_named_like_a_pattern_or_with_braces_wins(tree: Path) -> None:
    for name in ("{1,2}.jpg", "f[1].jpg"):
        (item,) = check_every_cursor([tree / name])
        path = str(tree / name)
        assert item == Input(path, File(path), Cursor(0, None), file_version(path))


@pytest.mark.parametrize("files", [1, 3])
def test_files_that_come_and_go_move_no_other(tree: Path, files: int) -> None:
    """Whatever happens to the rest, a listing goes on with all photos that come behind the last one, and no other."""
    new = [
        tree / name
        for name in ("0.jpg", "c.jpg", "zz.jpg", "a/0.jpg", "a/15.jpg", "a/a/2.jpg", "a.b/0.jpg", "a/c/1.jpg")
    ]
    before = list(list_inputs([str(tree)]))
    for k, item in enumerate(before):
        gone = {Path(other.source) for other in before[k % files :: files]}
        for path in new:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        for path in gone - {Path(item.source)}:
            path.rename(f"{path}.gone")
        now = names([tree])
        behind = now[now.index(item.source) + 1 :]
        assert {other.source for other in before[k + 1 :]} - set(map(str, gone)) <= set(behind)
        assert names([tree], after=item.cursor) == behind
        gone.add(Path(item.source))
        Path(item.source).rename(f"{item.source}.gone")
        assert names([tree], after=item.cursor) == behind
        for path in new:
            path.unlink()
        for path in gone:
            Path(f"{path}.gone").rename(path)
    assert list(list_inputs([str(tree)])) == before


def test_a_whole_folder_that_goes_moves_no_other(tree: Path) -> None:
    full = list(list_inputs([str(tree)]))
    inside = [k for k, item in enumerate(full) if f"{tree}/a/" in item.source]
    (tree / "a").rename(tree.parent / "elsewhere")
    for k in inside:
        assert names([tree], after=full[k].cursor) == [item.source for item in full[inside[-1] + 1 :]]


def test_a_folder_of_more_names_than_are_sorted_at_once_is_sorted(tmp_path: Path) -> None:
    expected = [str(tmp_path / f"{n:05}.jpg") for n in range(SORTED_AT_ONCE + 3)]
    for path in reversed(expected):
        os.close(os.open(path, os.O_CREAT))
    full = list(list_inputs([str(tmp_path)]))
    assert [item.source for item in full] == expected
    assert names([tmp_path], after=full[SORTED_AT_ONCE - 2].cursor) == expected[SORTED_AT_ONCE - 1 :]


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        ("l.txt", "a.jpg\nb c.jpg\n\n d.jpg\t\n  \n", ["a.jpg", "b c.jpg", "d.jpg"]),
        ("l", "\ufeffa.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        ("l.txt", "a,b.jpg\n'q'.jpg\nlast.jpg", ["a,b.jpg", "'q'.jpg", "last.jpg"]),
        ("l.csv", 'id,path\n1,a.jpg\n2,"b,c.jpg"\n3,"new\nline.jpg"\n', ["a.jpg", "b,c.jpg", "new\nline.jpg"]),
        ("l.CSV", "\ufeffFilename;x,Image\r\n1,a.jpg\r\n", ["a.jpg"]),
        ("l.csv", "path,source\na.jpg,b.jpg\n", ["b.jpg"]),
        ("l.csv", "x,path\n1,a.jpg\n2\n3,c.jpg,4\n", ["a.jpg", "", "c.jpg"]),
        ("l.tsv", "id\turi\n1\ta,b.jpg\n", ["a,b.jpg"]),
        ("l.csv", "path\n", []),
        ("l.txt", "", []),
    ],
)
def test_a_list_is_its_entries_in_order_from_every_cursor(
    tmp_path: Path, name: str, text: str, entries: list[str]
) -> None:
    (tmp_path / name).write_bytes(text.encode())
    full = check_every_cursor([], [tmp_path / name])
    assert [item.source for item in full] == entries
    state = file_version(tmp_path / name)
    assert [item.cursor for item in full] == [Cursor(0, {"at": n, "state": state}) for n in range(1, len(entries) + 1)]
    assert [item.content for item in full if item.source] == [File(entry) for entry in entries if entry]
    assert [message(item) for item in full if not item.source] == ["'': an empty path"] * entries.count("")


def test_a_list_names_files_that_are_not_utf8(tmp_path: Path) -> None:
    for name, head in (("l.txt", b""), ("l.csv", b"path\n")):
        (tmp_path / name).write_bytes(head + b"caf\xe9.jpg\n")
        assert names([], [tmp_path / name]) == [ODD]


def test_a_parquet_list_is_its_column_from_every_cursor(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    paths = ["a.jpg", None, "c d.jpg", "a.jpg"]
    raw = [None if path is None else path.encode() for path in paths]
    for kind, values in ((pa.string(), paths), (pa.large_string(), paths), (pa.binary(), raw)):
        path = tmp_path / "l.parquet"
        pq.write_table(pa.table({"id": [1, 2, 3, 4], "Path": pa.array(values, kind)}), path, row_group_size=3)
        assert [item.source for item in check_every_cursor([], [path])] == ["a.jpg", "", "c d.jpg", "a.jpg"]
    pq.write_table(pa.table({"file": pa.array([b"caf\xe9.jpg"], pa.binary())}), path)
    assert names([], [path]) == [ODD]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("no.txt", None, r"no.txt: can't be read (No such file or directory)"),
        (
            "l.csv",
            b"id,name\n1,a.jpg\n",
            "l.csv: needs a column named source or path or file or filename or image or uri ",
        ),
        ("l.csv", b"", "it has none"),
        ("l.csv", b"path\n" + b"x" * 200_000, "l.csv: can't be read (field larger than field limit (131072))"),
        ("l.parquet", b"PAR1 no", "l.parquet: not a Parquet file that can be read ("),
    ],
)
def test_a_list_that_can_not_be_read_says_why(tmp_path: Path, name: str, data: bytes | None, why: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        names([], [tmp_path / name])
    assert str(caught.value).startswith(f"--list {tmp_path / name}: ")
    assert why in str(caught.value)


def test_a_pipe_is_no_list_for_it_is_read_more_than_once(tmp_path: Path) -> None:
    """The counting and the scoring would each get some of its lines."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="pipe: is not a regular file; save the list to one"):
        names([], [tmp_path / "pipe"])
    with pytest.raises(SettingsError, match="is not a regular file"):
        names([], [tmp_path])


def test_long_lists_stay_out_of_memory(tmp_path: Path) -> None:
    count = 200_000
    path = tmp_path / "l.txt"
    path.write_text("".join(f"photos/{n:0100}.jpg\n" for n in range(count)))
    assert path.stat().st_size > 20e6
    next(list_inputs([], [path]))  # which imports what it needs
    tracemalloc.start()
    try:
        assert sum(1 for _ in list_inputs([], [path])) == count
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz", "p.tgz", "p.tar.bz2", "p.TXZ", "old.tar"])
def test_an_archive_is_its_photos_in_its_own_order_from_every_cursor(tmp_path: Path, name: str) -> None:
    members = [
        "z.jpg",
        "notes.txt",
        "a/1.PNG",
        "a/1.json",
        "a/.hidden.jpg",
        "__MACOSX/a.jpg",
        "../up.jpg",
        "./here.jpg",
        "./.git/x.jpg",
        "ü.webp",
        "z.jpg",
    ]
    if name.endswith(".zip"):
        write_zip(tmp_path / name, members[:-1])
        members[-1:] = []
    else:
        packing = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "txz": "w:xz"}.get(name.lower().rpartition(".")[2], "w")
        write_tar(tmp_path / name, members, packing)
    full = check_every_cursor([tmp_path / name])
    photos = [member for member in members if member in ("z.jpg", "a/1.PNG", "../up.jpg", "./here.jpg", "ü.webp")]
    assert [item.source for item in full] == [f"{tmp_path / name}!/{member}" for member in photos]
    assert [item.content.read(item.source) for item in full] == [member.encode() for member in photos]


def test_a_pattern_of_shards_is_all_their_photos_from_every_cursor(tmp_path: Path) -> None:
    for shard in ("s-000.tar", "s-001.tar.gz", "s-002.tar", "s-003.tar", "deep/s-004.tar", "s-005.zip"):
        (tmp_path / shard).parent.mkdir(exist_ok=True)
        members = [f"{shard[-9:]}{n}.jpg" for n in range(3)]
        if shard.endswith("zip"):
            write_zip(tmp_path / shard, members)
        else:
            write_tar(tmp_path / shard, [*members, "x.json"], "w:gz" if shard.endswith("gz") else "w")
    write_tar(tmp_path / "s-002.tar", ["no.txt"])
    (tmp_path / "s-003.tar").write_bytes(b"")
    (tmp_path / "s-006.jpg").touch()
    full = check_every_cursor([tmp_path / "**/s-*.tar"])
    failed = {item.source: message(item) for item in full if isinstance(item.content, Failed)}
    assert list(failed) == [str(tmp_path / "s-002.tar"), str(tmp_path / "s-003.tar")]
    assert "no photo in this archive" in failed[str(tmp_path / "s-002.tar")]
    assert "the archive can't be read to its end (empty file)" in failed[str(tmp_path / "s-003.tar")]
    assert [item.source.rpartition("/")[2] for item in full if item.source not in failed] == [
        *(f"s-000.tar{n}.jpg" for n in range(3)),
        *(f"s-004.tar{n}.jpg" for n in range(3)),
    ]
    assert len(check_every_cursor([tmp_path / "s-00{0,1,5}.{tar,tar.gz,zip}"])) == 9 + 6  # six names are of no file
    assert len(check_every_cursor([tmp_path / "s-00?.tar.gz"])) == 3


def test_shards_that_come_and_go_move_no_other(tmp_path: Path) -> None:
    for n in range(4):
        write_tar(tmp_path / f"{n}.tar", [f"{n}{m}.jpg" for m in range(3)])
    pattern = tmp_path / "*.tar"
    full = list(list_inputs([str(pattern)]))
    (tmp_path / "1.tar").unlink()
    write_tar(tmp_path / "00.tar", ["new.jpg"])
    write_tar(tmp_path / "22.tar", ["new.jpg"])
    two, three = ([f"{tmp_path}/{n}.tar!/{n}{m}.jpg" for m in range(3)] for n in (2, 3))
    behind_one = [*two, f"{tmp_path}/22.tar!/new.jpg", *three]
    for k, item in enumerate(full[:6]):
        first = [*(other.source for other in full[k + 1 : 3]), f"{tmp_path}/00.tar!/new.jpg"] if k < 3 else []
        assert names([pattern], after=item.cursor) == first + behind_one
    assert names([pattern], after=full[7].cursor) == behind_one[2:]


@pytest.mark.parametrize("name", ["s.tar", "s.zip", "s.tar.gz"])
def test_an_archive_that_was_replaced_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    def write(*members: str) -> Path:
        if name.endswith(".zip"):
            return write_zip(tmp_path / name, members)
        return write_tar(tmp_path / name, members, "w:gz" if name.endswith("gz") else "w")

    write("1.jpg", "2.jpg", "3.jpg")
    for source in (tmp_path / name, f"{tmp_path}/{{s,t}}{name[1:]}", f"{tmp_path}/s*{name[1:]}"):
        first = next(list_inputs([str(source)]))
        write("other.jpg", "2.jpg", "a longer one.jpg")
        with pytest.raises(SourceChangedError, match="has changed since the run began"):
            list(list_inputs([str(source)], after=first.cursor))


def test_sources_of_all_kinds_mixed_come_one_after_the_other_from_every_cursor(tree: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "p.tar", ["1.jpg", "2.jpg"])
    write_tar(tmp_path / "q.tgz", ["1.jpg", "2.jpg"], "w:gz")
    write_zip(tmp_path / "r.zip", ["1.jpg", "2.jpg"])
    (tmp_path / "l.txt").write_text("x.jpg\ny.jpg\n")
    (tmp_path / "l.csv").write_text(f"path\n{tmp_path}/r.zip!/2.jpg\nhttps://tom:pw@example.org/a.jpg?b=*\n")
    sources = [
        tree / "b.jpg", tmp_path / "r.zip", tree / "a/*.jpg", tmp_path / "none.jpg", tree / "none", tmp_path / "p.tar",
        tree / "no*.jpg", tmp_path / "{p,q}.t{ar,gz}", tree / "a", tmp_path / "none.zip", tree / "b.jpg", "",
    ]  # fmt: skip
    full = check_every_cursor(sources, [tmp_path / "l.txt", tmp_path / "l.csv"])
    assert [item.source.removeprefix(f"{tmp_path}/") for item in full] == [
        "photos/b.jpg",
        "r.zip!/1.jpg", "r.zip!/2.jpg",
        "photos/a/1.jpg", "photos/a/10.jpg", "photos/a/2.jpg", "photos/a/link.jpg",
        "none.jpg",
        "photos/none",
        "p.tar!/1.jpg", "p.tar!/2.jpg",
        "photos/no*.jpg",
        "p.tar!/1.jpg", "p.tar!/2.jpg", "p.tgz", "q.tar", "q.tgz!/1.jpg", "q.tgz!/2.jpg",
        "photos/a/1.jpg", "photos/a/10.jpg", "photos/a/2.jpg", "photos/a/link.jpg",
        "photos/a/a/1.jpg", "photos/a/a.b/1.jpg",
        "none.zip",
        "photos/b.jpg",
        "",
        "x.jpg", "y.jpg",
        "r.zip!/2.jpg", "https://***@example.org/a.jpg?b=*",
    ]  # fmt: skip
    assert full[-2].content.read(full[-2].source) == b"2.jpg"
    assert full[-1].content == Web("https://tom:pw@example.org/a.jpg?b=*", typed=False)
    assert [item.cursor.source for item in full] == sorted(item.cursor.source for item in full)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("none", "no photo in this folder (looked for .apng .avif"),
        ("*.tiff", "no photo matches this pattern (looked for"),
        ("no/such/*.jpg", "no photo matches this pattern"),
        ("no.jpg", "no such file"),
        ("no.zip", "no such file"),
        ("", "is a folder"),
    ],
)
def test_a_source_that_stands_for_no_photo_is_one_failure_that_says_so(tree: Path, source: str, why: str) -> None:
    if not source:
        (tree / "l.txt").write_text(f"{tree}\n")
    (item,) = check_every_cursor([tree / source] if source else [], [] if source else [tree / "l.txt"])
    assert item.source == str(tree / source)
    assert message(item).startswith(f"{item.source}: {why}")


def test_a_url_is_no_pattern_and_shows_no_password() -> None:
    (item,) = check_every_cursor(["HTTPS://tom:pw@example.org/a.jpg?size=*"])
    assert item.source == "HTTPS://***@example.org/a.jpg?size=*"
    assert item.content == Web("HTTPS://tom:pw@example.org/a.jpg?size=*")


def test_a_listing_reads_no_folder_before_its_turn(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    inputs = list_inputs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert next(inputs).source == str(tmp_path / "a/1.jpg")
    (tmp_path / "b/0.jpg").touch()
    assert [item.source for item in inputs] == [str(tmp_path / "b/0.jpg"), str(tmp_path / "b/1.jpg")]


def test_what_has_to_be_unpacked_to_be_counted_is_not_counted(tmp_path: Path) -> None:
    for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz")):
        write_tar(tmp_path / name, ["1.jpg"], mode)
    write_zip(tmp_path / "c.zip", ["1.jpg"])
    counted = {
        name: can_count([str(tmp_path / name)]) for name in ("a.tar", "b.tar.gz", "c.zip", "none.tgz", "*.tar", ".")
    }
    assert counted == {"a.tar": True, "b.tar.gz": False, "c.zip": True, "none.tgz": True, "*.tar": False, ".": True}
    for pattern in ("[ab].tar", "?.tar.gz", "{a.tar,b.tar.gz}"):
        assert not can_count([str(tmp_path / pattern)]), pattern
    assert can_count([str(tmp_path / "{a.tar,c.zip}")])
    assert can_count(["s3://bucket/photos/"])


def test_a_version_is_another_one_when_what_is_listed_was_replaced(tmp_path: Path) -> None:
    """A file's by its time of change and size, a zip's member's by its checksum, a tar's by the whole archive."""

    def versions() -> dict[str, str | None]:
        found = list_inputs([str(tmp_path / name) for name in ("a.jpg", "gone.jpg", "s.zip", "s.tar", "s.tgz")])
        return {item.source.removeprefix(f"{tmp_path}/"): item.version for item in found}

    (tmp_path / "a.jpg").write_bytes(b"one")
    write_zip(tmp_path / "s.zip", ["1.jpg", "2.jpg"])
    write_tar(tmp_path / "s.tar", ["1.jpg"])
    write_tar(tmp_path / "s.tgz", ["1.jpg"], "w:gz")
    before = versions()
    assert [name for name, version in before.items() if version is None] == ["gone.jpg"]
    assert versions() == before
    (tmp_path / "a.jpg").write_bytes(b"other")
    write_zip(tmp_path / "s.zip", ["0.jpg", "1.jpg", "2.jpg"])
    write_tar(tmp_path / "s.tar", ["1.jpg", "2.jpg"])
    write_tar(tmp_path / "s.tgz", ["1.jpg", "2.jpg"], "w:gz")
    now = versions()
    same = {name for name in before if now[name] == before[name]}
    assert same == {"gone.jpg", "s.zip!/1.jpg", "s.zip!/2.jpg"}


def test_an_archive_whose_members_are_known_is_not_read_again(tmp_path: Path) -> None:
    archive = str(write_tar(tmp_path / "s.tgz", ["1.jpg", "2.jpg", "3.jpg"], "w:gz"))
    first = list(list_inputs([archive]))
    version = first[0].version
    sources = [item.source for item in first]

    def recall_sources(place: str, at: str) -> list[str] | None:
        return sources if (place, at) == (archive, version) else None

    with Path(archive).open("r+b") as file:
        file.write(bytes(10))  # so that reading it would fail
    os.utime(archive, ns=(0, int((version or "").partition("-")[0], 16)))
    full = list(list_inputs([archive], recall_sources=recall_sources))
    assert [(item.source, item.version) for item in full] == [(source, version) for source in sources]
    for k, item in enumerate(full[:-1]):
        left = sources[k + 1 :]
        rest = list_inputs([archive], after=item.cursor, recall_sources=lambda place, at: left)  # noqa: B023
        assert list(rest) == full[k + 1 :]
        with pytest.raises(SourceChangedError, match="is not known any more"):
            list(list_inputs([archive], after=item.cursor))


def test_a_source_that_went_while_its_listing_was_not_at_the_end_is_no_missing_photo(tree: Path) -> None:
    """Or a mount that is away for a moment would cost all that was not listed yet."""
    first = next(list_inputs([str(tree)]))
    tree.rename(tree.parent / "elsewhere")
    with pytest.raises(DataError, match="photos: is not there now, and was when the run began; bring it back"):
        list(list_inputs([str(tree)], after=first.cursor))


def test_a_source_that_became_something_else_is_not_gone_on_with(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.tar"
    tree.rename(place)
    first = next(list_inputs([str(place)]))
    place.rename(tree)
    write_tar(place, ["1.jpg"])
    with pytest.raises(SourceChangedError):
        list(list_inputs([str(place)], after=first.cursor))


@pytest.mark.parametrize("source", [f"{'x' * 300}.jpg", f"{'y' * 300}/1.jpg", "a\0b.jpg", f"{'z' * 300}.zip!/1.jpg"])
def test_a_name_that_no_file_system_takes_is_one_failure(tree: Path, source: str) -> None:
    (item,) = check_every_cursor([tree / source])
    assert message(item).startswith(str(tree / source))


def test_a_password_in_a_url_is_shown_nowhere(tree: Path) -> None:
    for source in (
        "https://bob:hunter2@h/p.zip!/a.jpg",
        "https://bob:hunter2@h/a.jpg?x=1",
        "https://bob:hunter2@h/{a..b}",
    ):
        (item,) = check_every_cursor([source])
        assert item.source.startswith("https://***@h/")
        assert "hunter2" not in item.source


def test_what_systems_leave_behind_is_a_photo_nowhere(tmp_path: Path) -> None:
    """macOS, Synology and Windows; in folders, patterns, zip and tar files alike."""
    junk = ("__MACOSX/a.jpg", "@eaDir/b.jpg", ".hidden/c.jpg", "x/.d.jpg", "x/@EADIR/e.jpg", ".git/f.jpg")
    for name in (*junk, "good/1.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    write_zip(tmp_path / "s.zip", [*junk, "good/1.jpg"])
    write_tar(tmp_path / "s.tar", [*junk, "good/1.jpg"])
    assert names([tmp_path / "in"]) == names([tmp_path / "in/**/*.jpg"]) == [f"{tmp_path}/in/good/1.jpg"]
    assert names([tmp_path / "s.zip", tmp_path / "s.tar"]) == [
        f"{tmp_path}/s.{kind}!/good/1.jpg" for kind in ("zip", "tar")
    ]
