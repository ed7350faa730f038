"""What ``server.py --soak`` does: thousands of mixed requests to catdog serve, its answers and its memory.

Good, bad and hostile ones of all kinds of bodies, from eight callers at once; each must get the status that is known
before, none a 5xx. Memory is what all of the server's processes hold (PSS), between requests.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from catdog.image import encode
from tests.integration.server_process import ServerProcess

CALLERS: Final = 8
SHARES: Final = (0.1, 0.5, 1.0)  # of the requests, after which memory is measured
BROKEN_OFF: Final = 0  # in place of a status, where the caller goes away
PHOTOS: Final = 20  # a round of requests for each
RARE: Final = 10  # large photos and bodies come once in so many rounds
INFER: Final = "/v2/models/catdog/infer"
LENGTH: Final = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Asked:
    """One request, and the status that it must get."""

    status: int
    path: str
    kind: str
    body: bytes
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def make_requests(photos: Sequence[bytes]) -> list[Asked]:
    """A round of each kind for each photo, the large ones in every tenth round."""
    rare, asked = _make_rare(), []
    for i, data in enumerate(photos):
        asked += [*_make_round(data, photos[i - 1]), *(rare if i % RARE == 0 else [])]
    return asked


def _make_rare() -> list[Asked]:
    large = encode(Image.new("L", (6000, 6000)), "PNG", compress_level=1)  # 36 megapixels: one at a time
    bomb = encode(Image.new("1", (13_000, 13_000)), "PNG", compress_level=1)  # 169
    swollen = '{"image": "' + "x" * 2**23 + "\N{CAT FACE}" + '"}'  # four bytes a character in Python
    return [
        Asked(200, "/predict", "image/png", large),
        Asked(413, "/predict", "image/png", bomb),
        Asked(413, "/predict", "image/jpeg", bytes(33 * 2**20)),
        Asked(400, "/predict", "application/json", swollen.encode()),
    ]


def _make_round(data: bytes, other: bytes) -> list[Asked]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = io.BytesIO()
    np.save(pixels, np.asarray(image.resize((100, 80)))[np.newaxis])
    one, two, junk = (base64.b64encode(x).decode() for x in (data, other, b"junk"))
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [one, two]}
    tiny = {"name": "image", "datatype": "UINT8", "shape": [1, 20, 30, 3], "data": [7] * 1800}
    packed = b"".join(struct.pack("<I", len(x)) + x for x in (data, other))
    header = _json(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2],
                     "parameters": {"binary_data_size": len(packed)}}]}
    )  # fmt: skip
    predict, image_type, json_type, npy_type = "/predict", "image/jpeg", "application/json", "application/x-npy"
    return [
        # good
        Asked(200, predict, image_type, data),
        Asked(200, "/invocations", image_type, data),
        Asked(200, predict, "image/png", encode(image, "PNG", compress_level=1)),
        Asked(200, predict, "image/webp", encode(image, "WEBP")),
        Asked(200, predict, image_type, data, headers={"Accept": "text/csv"}),
        Asked(200, f"{predict}?explain=1", image_type, data),
        Asked(200, predict, json_type, _json({"images": [one, junk, two]})),
        Asked(200, predict, *_form(("images", data), ("images", other))),
        Asked(200, predict, npy_type, pixels.getvalue()),
        Asked(200, INFER, json_type, _json({"inputs": [tensor]})),
        Asked(200, INFER, json_type, _json({"inputs": [tiny]})),
        Asked(200, INFER, "application/octet-stream", header + packed, headers={LENGTH: str(len(header))}),
        # bad
        Asked(400, predict, image_type, b""),
        Asked(400, predict, json_type, b"{"),
        Asked(400, predict, json_type, b'{"image": "file:///etc/passwd"}'),
        Asked(400, predict, "multipart/form-data", b"x"),
        Asked(400, predict, npy_type, pixels.getvalue()[:-9]),
        Asked(400, f"{predict}?explain=1&explain=0", image_type, data),
        Asked(404, "/nothing", image_type, data),
        Asked(405, predict, image_type, b"", method="GET"),
        Asked(406, predict, image_type, data, headers={"Accept": "image/png"}),
        Asked(413, predict, json_type, _json({"images": ["x"] * 101})),
        Asked(415, predict, "text/plain", data),
        Asked(415, predict, image_type, data, headers={"Content-Encoding": "gzip"}),
        Asked(422, predict, image_type, b"junk"),
        Asked(422, predict, image_type, data[: len(data) // 2]),
        Asked(422, INFER, json_type, _json({"inputs": [tensor | {"data": [one, junk]}]})),
        # hostile
        Asked(400, predict, json_type, b"[" * 90_000),
        Asked(413, predict, json_type, b'{"images": [' + b"{}," * 300_000 + b"{}]}"),
        Asked(413, INFER, json_type, b'{"inputs": [' + b"{}," * 600_000 + b"{}]}"),
        Asked(BROKEN_OFF, predict, image_type, data),
    ]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _form(*fields: tuple[str, bytes]) -> tuple[str, bytes]:
    parts = b"".join(
        f'--limit\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in fields
    )
    return "multipart/form-data; boundary=limit", parts + b"--limit--\r\n"


class Caller(threading.Thread):
    """Sends requests one after the other, and counts what it gets."""

    def __init__(self, port: int, asked: Sequence[Asked]) -> None:
        super().__init__()
        self._port, self._asked = port, asked
        self.counts: Counter[int] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        for one in self._asked:
            if one.status == BROKEN_OFF:
                self._break_off(one)
                self.counts[BROKEN_OFF] += 1
                continue
            headers = {"Content-Type": one.kind} | one.headers
            try:
                connection.request(one.method, one.path, one.body, headers)
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                status, body = 599, repr(error).encode()
                connection.close()
            self.counts[status] += 1
            if status != one.status:
                self.wrong.append(f"{one.path} {one.kind[:30]}: {status}, not {one.status}: {body[:120]!r}")
        connection.close()

    def _break_off(self, one: Asked) -> None:
        named = f"Host: x\r\nContent-Type: {one.kind}\r\nContent-Length: {len(one.body)}"
        head = f"POST {one.path} HTTP/1.1\r\n{named}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._port), 300) as connection:
            connection.sendall(head.encode() + one.body[: len(one.body) // 2])


def soak(photos: Sequence[bytes], count: int) -> bool:
    """Send ``count`` requests and print what came; returns whether all was as it must be."""
    round_ = make_requests(photos[:: max(1, len(photos) // PHOTOS)][:PHOTOS])
    counts: Counter[int] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, ServerProcess(Path(scratch, "log")) as server:
        port = server.wait_ready().http.base_url.port or 0
        print(f"a round of {len(round_)} requests, good, bad and hostile, again and again")
        print(f"memory when ready: {server.memory() / 2**20:.0f} MiB", flush=True)
        begin, done = time.perf_counter(), 0
        for share in SHARES:
            numbers = range(done, round(share * count))
            callers = [Caller(port, [round_[n % len(round_)] for n in numbers[i::CALLERS]]) for i in range(CALLERS)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
                counts += caller.counts
                wrong += caller.wrong
            done = numbers.stop
            print(f"memory after {done} requests: {server.memory() / 2**20:.0f} MiB", flush=True)
        seconds = time.perf_counter() - begin
    print(f"{done} requests in {seconds:.0f} s, by status (0: the caller broke off):")
    print(", ".join(f"{status}: {number}" for status, number in sorted(counts.items())))
    print(f"not as they must be: {len(wrong)}", *wrong[:20], sep="\n")
    return not wrong
