"""Photos decoded in processes of their own: the same pixels, and a bad photo costs only itself."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.errors import ImageError
from catdog.image import load_sized_pixels
from catdog.serving.decoding import KEPT_VARIABLES, Decoders, receive
from catdog.serving.limits import LARGE_PIXELS, LateError, load_within_limits, make_room
from tests.conftest import TINY_CONTRACT

Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    running = Decoders(2, TINY_CONTRACT, 20_000_000)
    yield running
    running.close()


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def large(kind: str = "PNG", size: tuple[int, int] = (4100, 4000), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size).save(buffer, kind, **options)
    return buffer.getvalue()


def test_the_pixels_are_the_same(decoders: Decoders, photo: Encode) -> None:
    for data in (photo("red", "JPEG", size=(999, 777)), photo("blue", "WEBP"), large()):
        pixels, size = decoders.load(data, TINY_CONTRACT, "x", soon())
        expected, expected_size = load_sized_pixels(data, TINY_CONTRACT, "x")
        np.testing.assert_array_equal(pixels, expected)
        assert size == expected_size
    array = np.zeros((5, 6, 3), np.uint8)
    assert decoders.load(array, TINY_CONTRACT, "x", soon())[1] == (6, 5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"junk", "unsupported"), (large(size=(5000, 4001)), "too_large"), (large()[:-900], "corrupt")],
)
def test_errors_are_the_same(decoders: Decoders, data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=r"^ü\.jpg: ") as raised:
        decoders.load(data, TINY_CONTRACT, "ü.jpg", soon())
    assert raised.value.reason == reason


def test_many_threads_at_once(decoders: Decoders, photo: Encode) -> None:
    photos = [photo(colour, size=(40 + i, 30)) for i in range(10) for colour in ("red", "blue")] + [large()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda data: decoders.load(data, TINY_CONTRACT, "x", soon()), photos))
    assert [pixels[0, 0].tolist() for pixels, _ in found] == [[255, 0, 0], [0, 0, 255]] * 10 + [[0, 0, 0]]


def number() -> int:
    """The newest child: numbers begin again at some point, times of start don't."""

    def read_start(child: str) -> int:
        return int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19])  # man 5 proc, field 22

    return int(max(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(), key=read_start))


@pytest.mark.parametrize(
    ("fatal", "reason", "said"),
    [
        (signal.SIGKILL, "out_of_memory", "its decoder was killed, as happens where memory runs out"),
        (signal.SIGSEGV, "corrupt", "damaged image (its decoder crashed)"),
        (signal.SIGABRT, "corrupt", "damaged image (its decoder crashed)"),
    ],
)
def test_how_a_decoder_died_says_who_is_to_blame(photo: Encode, fatal: int, reason: str, said: str) -> None:
    def kill(decoder: int) -> None:
        os.kill(decoder, fatal)
        if fatal != signal.SIGKILL:  # which alone reaches a process that is halted
            os.kill(decoder, signal.SIGCONT)

    decoders = Decoders(1, TINY_CONTRACT, 20_000_000)
    os.kill(number(), signal.SIGSTOP)
    timer = threading.Timer(0.2, kill, (number(),))
    timer.start()
    with pytest.raises(ImageError, match=re.escape(said)) as raised:
        decoders.load(photo("red"), TINY_CONTRACT, "x", soon())
    timer.join()
    assert raised.value.reason == reason
    assert decoders.load(photo("red"), TINY_CONTRACT, "x", soon())[0][0, 0].tolist() == [255, 0, 0]
    decoders.close()


def test_a_decoder_that_dies_before_a_photo_or_stalls_in_it(photo: Encode) -> None:
    restarts: list[int] = []
    decoders = Decoders(1, TINY_CONTRACT, 20_000_000, lambda: restarts.append(1), most_s=2)

    def has_ended(number: int) -> bool:
        return os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    idle = number()
    os.kill(idle, signal.SIGKILL)  # as a machine does that runs out of memory: no photo is to blame
    while not has_ended(idle):
        time.sleep(0.01)
    assert decoders.load(photo("red"), TINY_CONTRACT, "x", soon())[0][0, 0].tolist() == [255, 0, 0]
    for seconds, reason, said in (
        (60, "corrupt", "takes longer than 2 s to decode; save it anew"),
        (0.1, "unreadable", "since the server was busy"),  # of the request's time, others had taken the most
    ):
        os.kill(number(), signal.SIGSTOP)
        with pytest.raises(LateError, match=said) as raised:
            decoders.load(photo("red"), TINY_CONTRACT, "x", soon(seconds))
        assert raised.value.reason == reason
        assert decoders.load(photo("red"), TINY_CONTRACT, "x", soon())[0][0, 0].tolist() == [255, 0, 0]
    assert len(restarts) == 2
    decoders.close()


def test_a_decoder_that_answers_bit_by_bit_is_late() -> None:
    ours, theirs = socket.socketpair()
    is_late = threading.Event()

    def trickle() -> None:
        theirs.sendall(struct.pack("<Q", 10**6))
        while not is_late.wait(0.02):
            theirs.sendall(b"x")

    with ours, theirs, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(trickle)
        try:
            with pytest.raises(TimeoutError):
                receive(ours, soon(0.3))
        finally:
            is_late.set()
        sending.result()


def test_a_decoder_knows_no_secrets(photo: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("CATDOG_ANYTHING", "secret")
    decoders = Decoders(1, TINY_CONTRACT, 20_000_000)
    variables = Path(f"/proc/{number()}/environ").read_bytes()
    assert b"secret" not in variables
    assert {line.partition(b"=")[0].decode() for line in variables.split(b"\0") if line} <= {
        *KEPT_VARIABLES, "PYTHONPATH",
    }  # fmt: skip
    assert decoders.load(photo("red"), TINY_CONTRACT, "x", soon())[0][0, 0].tolist() == [255, 0, 0]
    decoders.close()


def test_without_a_free_decoder_the_deadline_passes(photo: Encode) -> None:
    decoders = Decoders(0, TINY_CONTRACT, 20_000_000)
    with pytest.raises(LateError, match="not decoded in time"):
        decoders.load(photo("red"), TINY_CONTRACT, "x", soon(0.01))


def test_large_photos_take_turns() -> None:
    turn = threading.Lock()
    room = make_room(50_000_000, turn)
    with room(LARGE_PIXELS, "x"):
        assert not turn.locked()
    with room(LARGE_PIXELS + 1, "x"):
        assert turn.locked()
    with pytest.raises(ImageError, match="51 megapixels"):
        room(51_000_000, "x")


def test_what_counts_is_what_is_held() -> None:
    """A JPEG is decoded at a reduced scale, unless it is progressive, when all of it is held before."""
    data = large("JPEG", (9000, 6000))  # 54 megapixels
    assert load_within_limits(data, TINY_CONTRACT, "x", soon())[0].shape == (16, 16, 3)
    with pytest.raises(ImageError, match="54 megapixels"):
        load_within_limits(large("JPEG", (9000, 6000), progressive=True), TINY_CONTRACT, "x", soon())
