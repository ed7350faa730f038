"""Who is let in, with requests that are made by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from starlette.requests import Request

from catdog.serving.admission import Gate, RefusedError


def request(parts: Sequence[bytes], pause_s: float = 0.0, **headers: str) -> Request:
    """A request whose body comes in parts, the last of which follows after a pause."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if len(left) == 1:
            await anyio.sleep(pause_s)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": given}, receive)


async def read(gate: Gate, asked: Request, most: int = 10) -> bytes:
    async with gate.read_body(asked, most) as body:
        return body


def test_bodies_are_read_or_refused() -> None:
    async def go() -> None:
        gate = Gate(1, 0, 25, body_s=0.05)
        assert await read(gate, request([b"12345", b"67890"])) == b"1234567890"
        for status, asked in (
            (413, request([b"12345", b"678901"])),
            (413, request([b"x"], content_length="11")),
            (413, request([b"x"], content_length="11", expect="100-continue")),
            (415, request([b"x"], content_encoding="gzip")),
            (408, request([b"1", b"2"], pause_s=5)),
        ):
            with pytest.raises(RefusedError) as refused:
                await read(gate, asked)
            assert refused.value.status == status
        async with gate.read_body(request([b"1" * 10]), 10), gate.read_body(request([b"1" * 10]), 10):
            with pytest.raises(RefusedError, match="large requests") as refused:
                await read(gate, request([b"123456"]))
            assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        assert await read(gate, request([b"123456"])) == b"123456"  # what was held is given back

    anyio.run(go)


def test_turns_are_waited_for_until_a_deadline() -> None:
    async def go() -> None:
        gate = Gate(1, 1, 10)
        gate.is_open = True
        with gate.enter():
            async with gate.work(time.monotonic() + 60):
                with gate.enter():
                    with pytest.raises(RefusedError) as refused:
                        async with gate.work(time.monotonic() + 0.01):
                            pass
                    assert refused.value.status == 503
                    with pytest.raises(RefusedError) as refused, gate.enter():
                        pass
                    assert refused.value.status == 429
            async with gate.work(time.monotonic() + 60):
                pass
        assert gate.inside == 0

    anyio.run(go)
