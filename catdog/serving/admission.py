"""Who is let in: how many requests at once, how many bytes of theirs, and how long they may take to send them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final

import anyio
from starlette.requests import Request

BODY_S: Final = 30.0  # that a body may take to arrive
MOST_ARRIVING: Final = 512  # bodies at once; of each a socket is held, beside what has arrived of it
_DRAIN_S: Final = 5.0  # that a body which is refused is still read, so that its sender comes to read why


class RefusedError(Exception):
    """A request that is not answered: a status, a sentence, and seconds after which to try again."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


class Gate:
    """Lets requests in: first to send their bodies, then ``waiting`` of them to wait and ``working`` more to work.

    Whoever sends slowly takes no place of those who wait.
    """

    def __init__(
        self,
        working: int,
        waiting: int,
        most_bytes: int,
        body_s: float = BODY_S,
        most_arriving: int = MOST_ARRIVING,
    ) -> None:
        """``most_bytes``: of all bodies that are held at once. ``body_s``: seconds that a body may take to arrive."""
        self.is_open = False
        self.is_closing = False
        self._working, self._most, self._most_bytes = working, working + waiting, most_bytes
        self._most_arriving = most_arriving
        self._arriving = self._inside = self._held = 0
        self._body_s = body_s
        self._usual_s = 0.1
        self._turns = anyio.Semaphore(working)

    @property
    def count(self) -> int:
        """Requests that send, wait or are at work."""
        return self._arriving + self._inside

    def check_open(self) -> None:
        """Raise RefusedError (503) unless requests are answered now."""
        if self.is_closing:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending; ask again", 1)
        if not self.is_open:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is loading its model; ask again", 1)

    @asynccontextmanager
    async def read_body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Hold the request's body of at most ``most`` bytes; raises RefusedError (408, 413, 415, 429, 503)."""
        self.check_open()
        self._check_room()  # before the body is sent for nothing
        if self._arriving >= self._most_arriving:
            raise self._refuse("too many requests are being sent; ask again later")
        parts: list[bytes] = []
        size = 0
        try:
            self._arriving += 1
            try:
                await self._collect(request, most, parts)
            finally:
                self._arriving -= 1
            size = sum(map(len, parts))
            body = b"".join(parts)
            parts.clear()
            yield body
        finally:
            self._held -= size or sum(map(len, parts))

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count a request whose body is here among those that wait and work; raises RefusedError (429)."""
        self._check_room()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _check_room(self) -> None:
        if self._inside >= self._most:
            raise self._refuse("too many requests are waiting; ask again later")

    async def _collect(self, request: Request, most: int, parts: list[bytes]) -> None:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bodies are read without Content-Encoding")
        length, stream, size = request.headers.get("content-length", ""), request.stream(), 0
        refused = None
        if length.isdecimal() and int(length) > most:
            refused = _refuse_size(most)
        try:
            with anyio.fail_after(self._body_s):
                while refused is None and (part := await anext(stream, None)) is not None:
                    parts.append(part)
                    self._held += len(part)
                    size += len(part)
                    if size > most:
                        refused = _refuse_size(most)
                    elif self._held > self._most_bytes:
                        refused = self._refuse("too many large requests at once; ask again later")
        except TimeoutError as error:
            raise RefusedError(
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {self._body_s:g} s"
            ) from error
        if refused is None:
            return
        if "expect" not in request.headers:  # whoever sends it waits to be told to
            with anyio.move_on_after(_DRAIN_S):
                async for _ in stream:
                    pass
        raise refused

    @asynccontextmanager
    async def work(self, deadline: float) -> AsyncIterator[None]:
        """Wait for a turn; raises RefusedError (503) where none comes until ``deadline`` (``time.monotonic()``)."""
        try:
            with anyio.fail_after(max(0.0, deadline - time.monotonic())):
                await self._turns.acquire()
        except TimeoutError as error:
            raise self._refuse("no turn came in time; ask again later", HTTPStatus.SERVICE_UNAVAILABLE) from error
        begin = time.monotonic()
        try:
            yield
        finally:
            self._turns.release()
            self._usual_s += 0.1 * (time.monotonic() - begin - self._usual_s)

    def _refuse(self, message: str, status: int = HTTPStatus.TOO_MANY_REQUESTS) -> RefusedError:
        waiting_s = self._inside * self._usual_s / self._working
        return RefusedError(status, message, max(1, min(60, round(waiting_s))))


def _refuse_size(most: int) -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {most:,} bytes, this one has more")
