"""Forms, read as browsers and other clients write them."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.serving.limits import MAX_PHOTOS
from catdog.serving.multipart import parse_multipart
from catdog.serving.requests import RequestError, parse_request

# Without what writers escape differently, so that a reader can't know which one wrote it.
names = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="%\\"), min_size=1, max_size=20)
fields = st.lists(st.tuples(names, names, st.binary(max_size=200)), max_size=5)


def written(parts: list[tuple[str, tuple[str, bytes]]]) -> tuple[bytes, str]:
    """A form's body and its Content-Type, as httpx writes them."""
    request = httpx.Request("POST", "http://x/", files=parts)
    return request.read(), request.headers["content-type"]


@given(fields)
def test_what_was_written_is_read(given_fields: list[tuple[str, str, bytes]]) -> None:
    if not given_fields:
        return
    body, kind = written([(name, (filename, data)) for name, filename, data in given_fields])
    assert [tuple(part) for part in parse_multipart(body, kind, 5)] == given_fields


@given(st.binary(max_size=200), st.text(max_size=30))
def test_anything_else_is_refused(body: bytes, boundary: str) -> None:
    for kind in ("multipart/form-data; boundary=x", f"multipart/form-data; boundary={boundary}"):
        for data in (body, b"--x\r\n" + body + b"\r\n--x--"):
            with suppress(ValueError):
                assert isinstance(parse_multipart(data, kind.replace("\n", " ").replace("\r", " "), 5), list)


def test_names_and_photos_of_a_form() -> None:
    one = parse_request(*written([("image", ("cat.jpg", b"x"))]), [])
    assert (one.photos, one.names, one.single) == ([b"x"], ["cat.jpg"], True)
    many = parse_request(*written([("images", ('ä;"b".jpg', b"x")), ("images", ("c.jpg", b"y"))]), [])
    assert (many.photos, many.names, many.single) == ([b"x", b"y"], ['ä;"b".jpg', "c.jpg"], False)
    unnamed = b"preamble\r\n--x \r\ncontent-disposition: form-data; name=images\r\n\r\n\r\n\r\n\r\n--x--\r\nepilogue"
    assert parse_request(unnamed, 'multipart/form-data; boundary="x"', []).photos == [b"\r\n\r\n"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([("file", ("a", b"x"))], "named image"),
        ([("image", ("a", b"x")), ("image", ("b", b"y"))], "named image"),
        ([("image", ("a", b"x")), ("images", ("b", b"y"))], "named image"),
        ([("images", ("a", b"x"))] * (MAX_PHOTOS + 9), "a request may be about 100 photos"),
    ],
)
def test_other_forms_are_refused(parts: list[tuple[str, tuple[str, bytes]]], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_request(*written(parts), [])


def test_a_form_of_nothing_but_boundaries_takes_no_memory() -> None:
    part = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n"
    assert len(parse_multipart(part * 9, "multipart/form-data; boundary=x", 3)) == 4
    with pytest.raises(ValueError, match="no header"):
        parse_multipart(b"--x" + b"\r\n--x" * 2_000_000, "multipart/form-data; boundary=x", MAX_PHOTOS)
