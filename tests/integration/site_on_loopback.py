"""A static site on loopback, and what its script makes of photos, asked in a browser."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catdog.contract import Contract
from catdog.image import Pixels

_LOAD = """async ([texts, contract]) => {
    const { loadSizedPixels } = await import("./pixels.js");
    const found = [];
    for (const text of texts) {
        const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const { pixels } = await loadSizedPixels(new Blob([bytes]), contract);
        let out = "";
        for (let i = 0; i < pixels.length; i += 8192) out += String.fromCharCode(...pixels.subarray(i, i + 8192));
        found.push(btoa(out));
    }
    return found;
}"""
_ANSWER = """async (texts) => {
    const { answer } = await import("./answer.js");
    const never = new AbortController().signal;
    const files = texts.map((text) => new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "x"));
    return await Promise.all(files.map((file) => answer(file, never)));
}"""
_AT_ONCE = 10  # photos, so that messages stay small


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of the folder's files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def load_in_browser(page: Any, photos: Sequence[bytes], contract: Contract) -> list[Pixels]:
    """What the site's pixels.js makes of the photos."""
    fields = {name: getattr(contract, name) for name in ("input_size", "resize", "interpolation", "crop", "mean")}
    shape = (contract.input_size, contract.input_size, 3)
    found = []
    for first in range(0, len(photos), _AT_ONCE):
        texts = [base64.b64encode(photo).decode() for photo in photos[first : first + _AT_ONCE]]
        for text in page.evaluate(_LOAD, [texts, fields]):
            found.append(np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape))
    return found


def answer_in_browser(page: Any, photos: Sequence[bytes]) -> list[dict[str, Any]]:
    """What the site answers."""
    return list(page.evaluate(_ANSWER, [base64.b64encode(photo).decode() for photo in photos]))


def check_same_heads(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same heads, with boxes within 0.5 px and confidences within 0.01."""
    assert (found["width"], found["height"], found["error"]) == (expected["width"], expected["height"], None)
    ours, theirs = expected["objects"], found["objects"]
    assert [head["label"] for head in theirs] == [head["label"] for head in ours]
    for head, other in zip(theirs, ours, strict=True):
        assert head["box"] == pytest.approx(other["box"], abs=0.5)
        assert head["confidence"] == pytest.approx(other["confidence"], abs=0.01)
