"""catdog predict as a user runs it, and the text of each format."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.answers import as_csv, as_json, as_jsonl
from catdog.predict import as_table
from catdog.prediction import Prediction
from catdog.text import printable, restore_name

Photo = Callable[..., bytes]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
CLASSES = ("cat", "dog")
CAT = Prediction("a.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.1})
BAD = Prediction.failed("b.jpg", "b.jpg: no such file")


@pytest.fixture
def folder(tmp_path: Path, photo: Photo) -> Path:
    """red.png, blue.jpg, grey.png and broken.jpg, to run in."""
    (tmp_path / "red.png").write_bytes(photo("red"))
    (tmp_path / "blue.jpg").write_bytes(photo("blue", "JPEG"))
    (tmp_path / "grey.png").write_bytes(photo("grey"))
    (tmp_path / "broken.jpg").write_bytes(photo("red", "JPEG")[:-300])
    return tmp_path


@pytest.fixture
def command(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # catdog need not be installed
    return [sys.executable, "-m", "catdog.predict", "--model", str(tiny_model)]


@pytest.fixture
def run(folder: Path, command: list[str]) -> Run:
    """run("a.jpg", "--format", "csv", input=...) -> the finished process; no traceback ever."""

    def go(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, timeout=60, **options)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    return go


def rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_one_photo_is_one_json_line(run: Run) -> None:
    done = run("red.png")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rows(done) == [
        {
            "source": "red.png",
            "label": "cat",
            "confidence": 1.0,
            "probabilities": {"cat": 1.0, "dog": 0.0},
            "error": None,
        }
    ]


def test_bad_inputs_are_answered_in_their_place(run: Run) -> None:
    done = run("red.png", "no.jpg", "broken.jpg", "*.gif", "ftp://example.org/a.jpg", "blue.jpg")
    answers = rows(done)
    assert done.returncode == 1
    assert [answer["label"] for answer in answers] == ["cat", None, None, None, None, "dog"]
    assert answers[1]["error"] == "no.jpg: no such file"
    assert all(answer["error"].startswith(f"{answer['source']}: ") for answer in answers if answer["label"] is None)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_damaged_tiff_is_one_line(run: Run, folder: Path, compression: str) -> None:
    """Libtiff wrote lines of its own to standard error, hundreds for some files, and none named the file."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "damaged.tif", compression=compression)
    with (folder / "damaged.tif").open("r+b") as file:
        file.seek(30)
        file.write(bytes(2970))
    done = run("damaged.tif", "--format", "table")
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.splitlines()[1:] == [b"error               damaged.tif: damaged image (decoder error -2)"]


def test_folder_threshold_and_csv(run: Run) -> None:
    done = run(".", "--format", "csv", "--threshold", "0.5")
    table = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert list(table[0]) == ["source", "label", "confidence", "cat", "dog", "error"]
    assert [(row["source"], row["label"]) for row in table] == [
        ("blue.jpg", "dog"),
        ("broken.jpg", ""),
        ("grey.png", "cat"),
        ("red.png", "cat"),
    ]
    assert rows(run("grey.png"))[0]["label"] == "unsure"


def test_stdin(run: Run, photo: Photo) -> None:
    done = run("-", "--format", "json", input=photo("blue"))
    assert [(row["source"], row["label"]) for row in json.loads(done.stdout)] == [("-", "dog")]
    assert rows(run("-", input=b""))[0]["error"] == "-: the file is empty"


def test_url(run: Run, photo: Photo) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(photo("blue"))

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (answer,) = rows(run(f"http://tom:pw@127.0.0.1:{server.server_port}/blue.jpg"))
        server.shutdown()
    assert (answer["source"], answer["label"]) == (f"http://***@127.0.0.1:{server.server_port}/blue.jpg", "dog")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.jpg", "--bogus"],
        ["a.jpg", "--threshold", "1.5"],
        ["a.jpg", "--threshold", "-0.1"],
        ["a.jpg", "--threshold", "nan"],
        ["a.jpg", "--threshold", "much"],
        ["a.jpg", "--format", "xml"],
        ["a.jpg", "--model", "no.onnx"],
        ["a.jpg", "--model", "red.png"],
        ["a.jpg", "--model", "."],
    ],
    ids=" ".join,
)
def test_usage_errors(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert len(re.findall(rb"^Error: ", done.stderr, re.MULTILINE)) == 1


def test_help_has_examples(run: Run) -> None:
    text = run("--help").stdout.decode()
    assert "cat dog.jpg | catdog predict -" in text


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "table"])
def test_file_names_that_are_not_utf_8(run: Run, folder: Path, form: str) -> None:
    name = b"caf\xe9 \xe2\x80\xa8.png"  # Latin-1, and a line separator
    (folder / os.fsdecode(name)).write_bytes((folder / "red.png").read_bytes())
    done = run(name, "--format", form, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    text = done.stdout.decode("utf-8")
    if form.startswith("json"):
        answer = json.loads(text)
        source = (answer if form == "jsonl" else answer[0])["source"]
        assert os.fsencode(restore_name(source)) == name
        assert source.encode()  # and is valid UTF-8, which a lone surrogate is not
    else:
        assert "caf\\udce9" in text


def test_a_file_name_can_not_fake_a_line_of_the_table(run: Run, folder: Path) -> None:
    name = "x\n\x1b[2Jcat.png"
    (folder / name).write_bytes((folder / "red.png").read_bytes())
    assert run(name, "--format", "table").stdout.splitlines()[1].endswith(rb"  x\n\x1b[2Jcat.png")


def test_a_reader_that_goes_away_ends_it_quietly(command: list[str], folder: Path) -> None:
    with subprocess.Popen(
        [*command, *["red.png"] * 3000], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["label"] == "cat"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_ctrl_c_ends_it_without_a_traceback(command: list[str], folder: Path) -> None:
    """The first answer shows that it is at work; standard input, which never comes, keeps it there."""
    with subprocess.Popen(
        [*command, *["red.png"] * 16, *["blue.jpg"] * 16, "-"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs, CI's among them, with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(16):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()


def test_a_terminal_gets_a_table_in_colours(command: list[str], folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run([*command, "red.png", "no.jpg"], cwd=folder, stdout=theirs, timeout=60, env=environment)
    os.close(theirs)
    text = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 1
    assert text.splitlines() == [
        "label   confidence  source",
        "\x1b[36m\x1b[1mcat   \x1b[0m      100.0%  red.png",
        "\x1b[31m\x1b[1merror \x1b[0m              no.jpg: no such file",
    ]


def test_formats_exactly() -> None:
    assert "".join(as_table([CAT, BAD], CLASSES)) == (
        "label   confidence  source\ncat          90.0%  a.jpg\nerror               b.jpg: no such file\n"
    )
    assert "".join(as_csv([CAT, BAD], CLASSES)) == (
        "source,label,confidence,cat,dog,error\na.jpg,cat,0.9,0.9,0.1,\nb.jpg,,,,,b.jpg: no such file\n"
    )
    lines = list(as_jsonl([CAT, BAD], CLASSES))
    assert [json.loads(line) for line in lines] == [CAT.to_dict(), BAD.to_dict()]
    assert json.loads("".join(as_json([CAT, BAD], CLASSES))) == [CAT.to_dict(), BAD.to_dict()]
    assert json.loads("".join(as_json([], CLASSES))) == []


@pytest.mark.parametrize("form", [as_table, as_csv, as_json, as_jsonl])
def test_formats_stream(form: Callable[..., Iterator[str]]) -> None:
    """The text of the first answer is there before the second answer is asked for."""

    def answers() -> Iterator[Prediction]:
        yield CAT
        raise AssertionError("asked too early")

    text = form(answers(), CLASSES)
    while "a.jpg" not in next(text):
        pass


def test_the_bar_is_on_stderr_and_takes_no_answer(tiny_model: Path, command: list[str], folder: Path) -> None:
    """Once rich took over sys.stdout with the bar, and all answers from then on went to stderr."""
    ours, theirs = pty.openpty()
    code = "import catdog.photo_command, catdog.predict; catdog.photo_command.BAR_AFTER_S = -1.0; catdog.predict.app()"
    arguments = ["--model", str(tiny_model), "--format", "csv", *["red.png"] * 40]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    drawn = os.read(ours, 100_000)
    os.close(ours)
    assert len(done.stdout.splitlines()) == 41
    assert b"photos" in drawn
    assert b"red.png" not in drawn


@pytest.mark.parametrize(
    ("text", "shown"), [("é 猫.jpg", "é 猫.jpg"), ("a\r\t\x1b\x9b", r"a\r\t\x1b\x9b"), ("\udcff", r"\udcff")]
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
