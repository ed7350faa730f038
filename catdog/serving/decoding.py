"""Decode photos in processes of their own, so that one that kills, hangs or swells its decoder costs only itself.

A server's threads can't be interrupted, and a crash in a decoding library takes its whole process along. What a decoder
sends back is plain bytes, which are checked: a stranger's photo may have taken it over.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, get_args

import numpy as np

from catdog.contract import Contract
from catdog.errors import ImageError, ImageReason, ModelError
from catdog.image import MAX_SIDE_PX, Pixels, Size, load_sized_pixels
from catdog.serving.limits import LateError, make_room
from catdog.text import printable

MOST_S: Final = 10.0  # that decoding one photo may take; the largest allowed takes about 2
MOST_MEMORY: Final = 2 * 2**30  # bytes; the largest photo allowed takes about half of it
KEPT_VARIABLES: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)  # fmt: skip
"""What a decoder's environment has of this one's: what Python starts with, and no keys, which a photo could take."""
_START_S: Final = 60.0
_END_S: Final = 1.0  # that a process may take to end whose socket is closed
_MOST_MESSAGE: Final = 2**30  # bytes
_LENGTH: Final = struct.Struct("<Q")
_SIZE: Final = struct.Struct("<II")  # of the upright photo, px, before its pixels
# How a decoder's messages begin.
_READY, _LARGE, _PIXELS, _REFUSED, _BROKEN = b"S", b"L", b"P", b"E", b"B"
_GO, _STOP = b"go", b"stop"  # answers to _LARGE


class _LargeError(Exception):
    """The photo is a large one, and only one of those is decoded at a time."""


class Decoders:
    """Processes that wait for photos. Threads may call ``load`` at the same time."""

    def __init__(
        self,
        count: int,
        contract: Contract,
        most_pixels: int,
        count_restart: Callable[[], object] = lambda: None,
        most_s: float = MOST_S,
    ) -> None:
        """Start ``count`` processes for photos of at most ``most_pixels``; raises ModelError where they don't start.

        ``count_restart`` is called when one had to be replaced. ``most_s``: seconds that a photo may take.
        """
        self._count_restart = count_restart
        self._most_s = most_s
        self._large = threading.Lock()
        self._all = [_Decoder(contract, most_pixels, most_s) for _ in range(count)]
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()  # the last one used has the warmest caches
        try:
            for decoder in self._all:
                decoder.start()
            for decoder in self._all:
                decoder.wait_ready(time.monotonic() + _START_S)
                self._idle.put(decoder)
        except OSError as error:
            self.close()
            raise ModelError(f"a process that decodes photos doesn't start ({error})") from error

    def load(self, source: object, contract: Contract, name: str, deadline: float) -> tuple[Pixels, Size]:
        """Do what ``catdog.image.load_sized_pixels`` does; raises ImageError also for what kills or stalls it.

        ``deadline``: a value of ``time.monotonic()``.
        """
        if not isinstance(source, bytes):
            return load_sized_pixels(source, contract, name)  # nothing to decode
        try:
            return self._load(source, contract, name, deadline, may_be_large=False)
        except _LargeError:  # it waits for its turn without a decoder, which others can use meanwhile
            if not self._large.acquire(timeout=_left(deadline)):
                raise _make_late(name) from None
        try:
            return self._load(source, contract, name, deadline, may_be_large=True)
        finally:
            self._large.release()

    def _load(
        self, data: bytes, contract: Contract, name: str, deadline: float, may_be_large: bool
    ) -> tuple[Pixels, Size]:
        try:
            decoder = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty as error:
            raise _make_late(name) from error
        try:
            return decoder.load(data, contract, name, deadline, may_be_large)
        except (ImageError, _LargeError):
            raise
        except BaseException as error:
            self._count_restart()
            is_late = isinstance(error, TimeoutError)
            code = None if is_late else decoder.wait_ended(_END_S)
            decoder.end()
            with contextlib.suppress(OSError):  # then it is tried again when the next photo comes
                decoder.start()
            if is_late and time.monotonic() >= deadline:  # the request's time, of which others took the most
                raise _make_late(name) from error
            if is_late:
                message = f"{name}: takes longer than {self._most_s:g} s to decode; save it anew, as a JPEG"
                raise LateError(message, "corrupt") from error
            if code == -signal.SIGKILL:  # as the kernel does it where memory runs out
                message = f"{name}: its decoder was killed, as happens where memory runs out; send it again later"
                raise ImageError(message, "out_of_memory") from error
            if isinstance(error, OSError):
                raise ImageError(f"{name}: damaged image (its decoder crashed)", "corrupt") from error
            raise
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End the processes."""
        for decoder in self._all:
            decoder.end()


class _Decoder:
    """One process, and this end of the socket to it. Its methods raise OSError where the process is gone."""

    def __init__(self, contract: Contract, most_pixels: int, most_s: float) -> None:
        self._most_s = most_s
        self._settings = json.dumps({"contract": contract.to_json(), "most_pixels": most_pixels}).encode()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._socket, theirs = socket.socketpair()
        # Signals to the whole group are for others: a decoder goes on until the other end of its socket is closed.
        code = (
            "import sys; sys.path[:] = filter(None, sys.path); import signal; "
            "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]; "
            f"from catdog.serving.decoding import work; work({theirs.fileno()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
                | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._is_ready = False
        send(self._socket, self._settings)

    def wait_ready(self, deadline: float) -> None:
        """Wait until it has imported what it needs."""
        if not self._is_ready:
            self._receive(deadline)
            self._is_ready = True

    def load(
        self, data: bytes, contract: Contract, name: str, deadline: float, may_be_large: bool
    ) -> tuple[Pixels, Size]:
        if self._process is None or self._process.poll() is not None:  # ended by something else than a photo
            self.end()
            self.start()
        try:
            self.wait_ready(min(deadline, time.monotonic() + _START_S))
        except TimeoutError as error:  # it is only starting, and the next photo finds it further
            raise _make_late(name) from error
        due = min(deadline, time.monotonic() + self._most_s)
        self._socket.settimeout(_left(due))
        send(self._socket, name.encode("utf-8", "surrogatepass"), data)
        kind, payload = self._receive(due)
        if kind == _LARGE:
            send(self._socket, _GO if may_be_large else _STOP)
            kind, payload = self._receive(min(deadline, time.monotonic() + self._most_s))
            if not may_be_large:  # what came is the refusal that ``work`` makes of it
                raise _LargeError
        size = contract.input_size
        if kind == _PIXELS and len(payload) == _SIZE.size + size * size * 3:
            width, height = _SIZE.unpack_from(payload)
            if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
                raise RuntimeError(f"a decoder failed: it says that the photo has {width} x {height} px")
            return np.frombuffer(payload, np.uint8, offset=_SIZE.size).reshape(size, size, 3), (width, height)
        text = payload[:2000].decode("utf-8", "replace")
        if kind == _REFUSED:
            word, _, message = text.partition(" ")
            reason: ImageReason = next((known for known in get_args(ImageReason) if known == word), "corrupt")
            raise ImageError(printable(message), reason)
        raise RuntimeError(f"a decoder failed: {text if kind == _BROKEN else kind!r}")

    def wait_ended(self, seconds: float) -> int | None:
        """Return the exit code of a process whose end of the socket is closed; None where it goes on all the same."""
        if self._process is None:
            return None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        if self._process is not None:
            self._socket.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _receive(self, deadline: float) -> tuple[bytes, bytes]:
        message = receive(self._socket, deadline)
        return message[:1], message[1:]


def work(number: int) -> None:
    """Decode what comes through the socket with this file number until its other end is closed."""
    with socket.socket(fileno=number) as server, contextlib.suppress(OSError):
        settings = json.loads(receive(server))
        contract = Contract.from_json(settings["contract"])
        with contextlib.suppress(OSError, ValueError):  # not every system limits it
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))

        @contextlib.contextmanager
        def turn() -> Iterator[None]:
            send(server, _LARGE)
            if receive(server) != _GO:
                raise ImageError("it is not its turn", "unreadable")
            yield

        send(server, _READY)
        while True:
            name, data = receive(server).decode("utf-8", "surrogatepass"), receive(server)
            signal.alarm(300)  # should it hang while nobody is there any more to end it
            try:
                pixels, size = load_sized_pixels(data, contract, name, make_room(settings["most_pixels"], turn()))
            except ImageError as error:
                send(server, f"{_REFUSED.decode()}{error.reason} {error}".encode("utf-8", "replace"))
            except Exception as error:
                send(server, _BROKEN + repr(error).encode("utf-8", "replace"))
            else:
                send(server, _PIXELS + _SIZE.pack(*size) + pixels.tobytes())
            signal.alarm(0)


def _make_late(name: str) -> LateError:
    message = f"{name}: not decoded in time, since the server was busy; send it again, or fewer at once"
    return LateError(message, "unreadable")


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def send(end: socket.socket, *messages: bytes) -> None:
    """Send messages, each after its length."""
    for message in messages:
        end.sendall(_LENGTH.pack(len(message)))
        end.sendall(message)


def receive(end: socket.socket, deadline: float | None = None) -> bytes:
    """Return one message; raises TimeoutError where not all of it is there by the deadline."""
    (size,) = _LENGTH.unpack(_receive_bytes(end, _LENGTH.size, deadline))
    if size > _MOST_MESSAGE:
        raise ConnectionAbortedError(f"a message of {size} bytes")
    return _receive_bytes(end, size, deadline)


def _receive_bytes(end: socket.socket, size: int, deadline: float | None) -> bytes:
    parts, left = [], size
    while left:
        if deadline is not None:
            end.settimeout(_left(deadline))  # of one recv each, so that whoever sends bit by bit gains nothing
        part = end.recv(min(left, 2**20))
        if not part:
            raise ConnectionResetError("the process at the other end has ended")
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
