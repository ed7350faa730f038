"""Photos into folders by their label: links, copies, names, races, and never over anything."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest

from catdog.errors import ContractError, DataError
from catdog.score.sorting import MAX_NAME, Sorter, safe_name

LABELS = ("cat", "dog", "unsure")
LEFTOVER = f".catdog-{'0' * 32}.tmp"


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file and link under a folder: bytes, or a link's target."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def tree_names(folder: Path) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "0.jpg").write_bytes(name.encode())
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "sorted"


@pytest.fixture(params=["hard links", "no hard links"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no hard links":

        def link(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", link)


def test_a_file_becomes_a_link(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    placed = Sorter(os.path.relpath(out), LABELS).place("cat", "a/0.jpg", Path("a/0.jpg"))
    assert placed.is_absolute()
    assert placed.resolve(strict=True) == photos / "a" / "0.jpg"
    assert tree(out) == {"cat/0.jpg": str(photos / "a" / "0.jpg")}
    assert {path.name for path in out.iterdir()} == set(LABELS)


@pytest.mark.usefixtures("file_system")
def test_a_file_is_copied_on_request_and_bytes_always(photos: Path, out: Path) -> None:
    Sorter(out, LABELS, copy=True).place("cat", "a/0.jpg", photos / "a" / "0.jpg")
    Sorter(out, LABELS).place("dog", "photos.zip!/train/1.jpg", b"bytes")
    Sorter(out, LABELS).place("unsure", "s3://bucket/x/2.jpg", b"")
    assert tree(out) == {"cat/0.jpg": b"a", "dog/1.jpg": b"bytes", "unsure/2.jpg": b""}
    umask = os.umask(0)
    os.umask(umask)
    assert (out / "dog" / "1.jpg").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("copy", [False, True])
def test_names_that_clash_get_longer_and_stay_the_same(copy: bool, photos: Path, out: Path) -> None:
    def run(order: tuple[str, ...]) -> dict[str, Path]:
        sorter = Sorter(out, LABELS, copy=copy)
        return {name: sorter.place("cat", f"{name}/0.jpg", photos / name / "0.jpg") for name in order}

    first = run(("a", "b"))
    assert first["a"].name == "0.jpg"
    assert first["b"].name.startswith("0-")
    assert len(first["b"].name) == len("0-12345678.jpg")
    assert {name: path.read_bytes() for name, path in first.items()} == {"a": b"a", "b": b"b"}
    before = tree(out)
    assert len(before) == 2
    assert run(("a", "b")) == first
    assert run(("b", "a")) == first
    assert tree(out) == before


def test_a_longer_name_that_is_taken_too_gets_more_digits(out: Path) -> None:
    sorter = Sorter(out, LABELS)
    for content in (b"1", b"22", b"3"):  # a file of the same source that has changed since
        sorter.place("cat", "x.zip!/0.jpg", content)
    assert sorted(map(len, tree(out / "cat"))) == [len("0.jpg"), len("0-.jpg") + 8, len("0-.jpg") + 16]
    sorter.place("cat", "x.zip!/0.jpg", b"4")
    sorter.place("cat", "x.zip!/0.jpg", b"5")
    with pytest.raises(DataError, match="all names"):
        sorter.place("cat", "x.zip!/0.jpg", b"6")


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("copy", [False, True])
def test_what_a_user_put_there_stays(copy: bool, photos: Path, out: Path, tmp_path: Path) -> None:
    sorter = Sorter(out, LABELS, copy=copy)
    secret = tmp_path / "secret"
    secret.write_bytes(b"a")  # the very bytes of the photo
    taken = {name: out / name / "0.jpg" for name in LABELS}
    taken["cat"].symlink_to(secret)
    taken["dog"].mkdir()
    os.mkfifo(taken["unsure"])
    for label in LABELS:
        placed = sorter.place(label, "a/0.jpg", photos / "a" / "0.jpg")
        assert placed != taken[label]
        assert placed.read_bytes() == b"a"
    assert taken["cat"].readlink() == secret
    assert taken["dog"].is_dir()
    assert taken["unsure"].is_fifo()
    assert secret.read_bytes() == b"a"

    for label, content in (("dog", b""), ("unsure", b"no photo")):
        (out / label / "1.jpg").write_bytes(content)
        sorter.place(label, "x.zip!/1.jpg", b"photo")
        assert (out / label / "1.jpg").read_bytes() == content
    (out / "cat" / "2.jpg").symlink_to(tmp_path / "nothing yet")
    assert sorter.place("cat", "x.zip!/2.jpg", b"photo").name != "2.jpg"
    assert not (tmp_path / "nothing yet").exists()


def test_the_same_bytes_are_the_photo_placed_already(photos: Path, out: Path) -> None:
    Sorter(out, LABELS, copy=True).place("cat", "a/0.jpg", photos / "a" / "0.jpg")
    Sorter(out, LABELS).place("cat", "a/0.jpg", photos / "a" / "0.jpg")
    Sorter(out, LABELS).place("cat", "x.tar!/0.jpg", b"a")
    assert tree(out) == {"cat/0.jpg": b"a"}


def test_links_do_not_pass_for_copies(photos: Path, out: Path) -> None:
    photo = photos / "a" / "0.jpg"
    Sorter(out, LABELS).place("cat", "a/0.jpg", photo)
    copied = Sorter(out, LABELS, copy=True).place("cat", "a/0.jpg", photo)
    assert not copied.is_symlink()
    assert copied.read_bytes() == b"a"


@pytest.mark.parametrize("linked", [False, True], ids=["killed while writing", "killed before removing"])
def test_what_a_killed_copy_left_goes(linked: bool, out: Path) -> None:
    Sorter(out, LABELS).place("dog", "x.zip!/1.jpg", b"other")
    leftover = out / "cat" / LEFTOVER
    leftover.write_bytes(b"photo" if linked else b"ph")
    if linked:
        (out / "cat" / "0.jpg").hardlink_to(leftover)
    (out / "cat" / ".mine.tmp").write_bytes(b"")
    Sorter(out, LABELS).place("cat", "x.zip!/0.jpg", b"photo")
    assert tree(out) == {"cat/0.jpg": b"photo", "cat/.mine.tmp": b"", "dog/1.jpg": b"other"}


@pytest.mark.parametrize("hard_links", [True, False])
def test_another_sorter_that_starts_now_disturbs_nothing(
    hard_links: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one takes the copy in the making for a leftover."""
    sorter, link, times = Sorter(out, LABELS), os.link, []

    def interrupted(source: Path, target: Path, *, follow_symlinks: bool) -> None:
        times.append(source)
        if len(times) == 1:
            Sorter(out, LABELS)
            assert not source.exists()
        if not hard_links:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        link(source, target, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", interrupted)
    sorter.place("cat", "x.zip!/0.jpg", b"photo")
    assert len(times) == 2
    assert tree(out) == {"cat/0.jpg": b"photo"}


def place_all(out: Path, photos: Path, start: int) -> None:
    sorter = Sorter(out, LABELS)
    for k in range(200):
        i = (start + k) % 200
        sorter.place("cat", f"{i % 4}.zip!/{i // 4}.jpg", b"photo %d" % i)
        sorter.place("dog", f"{photos}/{i % 4}/{i // 4}.jpg", photos / str(i % 4) / f"{i // 4}.jpg")


def test_processes_that_sort_the_same_photos_at_once(tmp_path: Path, out: Path) -> None:
    """Four photos a name, each sorted by two processes: every photo comes once, whoever was first."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=place_all, args=(out, tmp_path, start)) for start in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for _ in range(2):
        found = tree(out)
        copies = [content for name, content in found.items() if name.startswith("cat/")]
        links = [target for name, target in found.items() if name.startswith("dog/")]
        assert sorted(map(str, copies)) == sorted(str(b"photo %d" % i) for i in range(200))
        assert sorted(map(str, links)) == sorted(f"{tmp_path}/{i % 4}/{i // 4}.jpg" for i in range(200))
        place_all(out, tmp_path, 77)


def test_photos_sorted_again_after_a_kill(tmp_path: Path, out: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for placed in (1, 30, 100):
        process = context.Process(target=place_all, args=(out, tmp_path, 0))
        process.start()
        while process.is_alive() and (not out.exists() or len(tree_names(out)) < placed):
            time.sleep(0.001)
        process.kill()
        process.join()
    place_all(out, tmp_path, 0)
    found = tree(out)
    assert len(found) == 400
    assert sorted(str(found[name]) for name in found if name.startswith("cat/")) == sorted(
        str(b"photo %d" % i) for i in range(200)
    )


def test_a_sorter_can_be_handed_to_another_process(photos: Path, out: Path) -> None:
    sorter = pickle.loads(pickle.dumps(Sorter(out, LABELS, copy=True)))
    sorter.place("cat", "a/0.jpg", photos / "a" / "0.jpg")
    assert tree(out) == {"cat/0.jpg": b"a"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos.zip!/train/cat.0.jpg", "cat.0.jpg"),
        ("s3://b/x/cat.0.jpg", "cat.0.jpg"),
        ("cat.0.jpg", "cat.0.jpg"),
        ("x.zip!/new\nline\x1b[31m.jpg", "new_line_[31m.jpg"),
        ("x.zip!/..\\..\\cat.jpg", "_.._cat.jpg"),
        ("x.zip!/evil\u202egpj.exe", "evil_gpj.exe"),
        (".", "photo"),
        ("x.zip!/..", "photo"),
        ("...", "photo"),
        ("", "photo"),
        ("/", "photo"),
        (" ", "photo"),
        ("dir/.hidden.jpg", "hidden.jpg"),
        ("dir/", "dir"),
        ("猫 1.jpg", "猫 1.jpg"),
        ("\udcff\udc80.jpg", "\udcff\udc80.jpg"),
        ("\ud800.jpg", "_.jpg"),
        ("nul\0.jpg", "nul_.jpg"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("猫" * 100 + ".jpg", "猫" * 83 + ".jpg"),
        ("\udcff" * 300, "\udcff" * 255),
        ("a." + "b" * 300, "a." + "b" * 253),
    ],
)
def test_names(source: str, name: str, out: Path) -> None:
    assert safe_name(source) == name
    sorter = Sorter(out, LABELS)
    sorter.place("cat", source, b"1")
    longer = sorter.place("cat", f"elsewhere/{source}", b"2")
    assert tree(out / "cat") == {name: b"1", longer.name: b"2"}
    assert len(os.fsencode(longer.name)) <= MAX_NAME
    assert sorter.place("cat", source, b"1").name == name
    assert all(path.parent == out / "cat" for path in (out / "cat").rglob("*"))


@pytest.mark.parametrize(
    "label", ["../x", "..", ".", "", "a/b", "a\\b", "/etc", ".git", "a\nb", "nul\0", " ", "x" * 256, "\udcff"]
)
def test_a_label_that_leads_elsewhere_is_refused(label: str, out: Path) -> None:
    with pytest.raises(ContractError, match="can't name a folder"):
        Sorter(out, ("cat", label))
    assert not out.exists()


def test_a_label_of_any_script_is_fine(out: Path) -> None:
    assert Sorter(out, ("Wild cat", "猫")).place("猫", "0.jpg", b"").parent == out / "猫"


def test_a_label_s_folder_that_is_a_link_or_a_file_is_refused(out: Path, tmp_path: Path) -> None:
    (out / "x").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (out / "cat").symlink_to(tmp_path / "elsewhere")
    (out / "dog").write_bytes(b"")
    with pytest.raises(DataError, match="cat: is a link"):
        Sorter(out, ["cat"])
    with pytest.raises(DataError, match=r"dog: .*File exists"):
        Sorter(out, ["dog"])


def test_what_the_system_refuses_is_one_sentence(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sorter = Sorter(out, LABELS, copy=True)
    with pytest.raises(DataError, match=r"^gone\.jpg: can't be sorted into .*cat \(No such file or directory\)$"):
        sorter.place("cat", "gone.jpg", photos / "gone.jpg")
    with pytest.raises(DataError, match="sorted into"):
        Sorter(out, LABELS).place("cat", "nul", Path("nul\0"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(DataError, match="No space left"):
            sorter.place("cat", "x.zip!/0.jpg", b"photo")
    assert tree(out) == {}
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", full)
        with pytest.raises(DataError, match="No space left"):
            Sorter(out, LABELS).place("cat", "a/0.jpg", photos / "a" / "0.jpg")
    (out / "cat").rmdir()
    for photo in (b"photo", photos / "a" / "0.jpg"):
        with pytest.raises(DataError, match="No such file"):
            sorter.place("cat", "a/0.jpg", photo)
