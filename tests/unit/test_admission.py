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
        gate.is_open = True
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
                    with pytest.raises(RefusedError, match="are waiting"):  # and no body is sent for nothing
                        await read(gate, request([b"1"]))
            async with gate.work(time.monotonic() + 60):
                pass
        assert gate.count == 0

    anyio.run(go)


def test_who_sends_slowly_takes_no_place_of_those_who_are_answered() -> None:
    async def go() -> None:
        gate = Gate(1, 0, 100, most_arriving=3)
        gate.is_open = True
        async with anyio.create_task_group() as slow:
            for _ in range(2):
                slow.start_soon(read, gate, request([b"1", b"2"], pause_s=60))
            await anyio.wait_all_tasks_blocked()
            assert gate.count == 2
            with gate.enter():
                assert gate.count == 3
            assert await read(gate, request([b"quick"])) == b"quick"
            slow.start_soon(read, gate, request([b"1", b"2"], pause_s=60))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RefusedError, match="are being sent") as refused:
                await read(gate, request([b"one more"]))
            assert refused.value.status == 429
            slow.cancel_scope.cancel()
        assert gate.count == 0
        assert await read(gate, request([b"1" * 10])) == b"1" * 10

    anyio.run(go)


def test_who_is_sending_while_the_server_ends_is_answered() -> None:
    async def go() -> None:
        gate = Gate(1, 0, 100)
        gate.is_open = True
        async with gate.read_body(request([b"1"]), 10) as body:
            gate.is_closing = True
            with gate.enter():
                assert body == b"1"
        with pytest.raises(RefusedError, match="ending"):
            await read(gate, request([b"1"]))

    anyio.run(go)
