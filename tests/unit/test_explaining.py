"""Requests with explain=1: each answer says where the model looked, as ``catdog.explain`` does."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.classifier import Classifier
from catdog.explain import explain
from catdog.serving.endpoint import ANSWER_ALL, answer_request, read_request, write_reply
from tests.conftest import TINY_CONTRACT, build_looking_model


@pytest.fixture(scope="module")
def looking(looking_model: Path) -> Classifier:
    return Classifier(looking_model, threads=1)


@pytest.fixture(scope="module")
def corner() -> bytes:
    """Black, with red in the upper right quarter."""
    photo = Image.new("RGB", (320, 160))
    photo.paste((255, 0, 0), (160, 0, 320, 80))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


def ask(
    classifier: Classifier,
    body: bytes,
    kind: str = "image/png",
    explain: Sequence[str] = ("1",),
    accept: str | None = None,
) -> tuple[int, Any]:
    """Status and body of the answer."""
    reply = write_reply(answer_request(read_request(body, kind, *explain), classifier), accept)
    lines = reply.body.decode().splitlines()
    return reply.status, [json.loads(line) for line in lines] if accept else json.loads(reply.body)


def listed(*photos: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(photo).decode() for photo in photos]}).encode()


def test_each_answer_has_its_heat(looking: Classifier, corner: bytes) -> None:
    expected = explain(looking, corner, "image")
    assert expected.heat is not None
    status, answer = ask(looking, corner)
    assert status == 200
    assert answer["seen"] == {"resize": "stretch", "crop": 1}
    assert {name: answer[name] for name in expected.prediction.to_dict()} == expected.prediction.to_dict()
    np.testing.assert_allclose(answer["heat"], expected.heat, atol=0.0005)
    assert all(len(str(value)) <= 5 for row in answer["heat"] for value in row)
    status, answers = ask(looking, listed(corner, b"no photo", corner), "application/json")
    assert [row["heat"] for row in answers] == [answer["heat"], None, answer["heat"]]
    assert [row["seen"] for row in answers] == [answer["seen"], None, answer["seen"]]
    assert answers[1]["error"]
    assert ask(looking, listed(corner), "application/json", accept="application/jsonlines")[1] == answers[:1]
    for without in ((), ("0",)):
        assert "heat" not in ask(looking, corner, explain=without)[1]


def test_what_a_model_with_a_crop_saw_is_told(corner: bytes) -> None:
    contract = TINY_CONTRACT.with_(resize="short_side", crop=0.5)
    classifier = Classifier(build_looking_model(contract), threads=1)
    assert ask(classifier, corner)[1]["seen"] == {"resize": "short_side", "crop": 0.5}


def test_a_photo_that_cannot_be_read_has_none(
    looking: Classifier, corner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(looking, b"no photo")[0] == 422
    monkeypatch.setenv(ANSWER_ALL, "1")
    status, answer = ask(looking, b"no photo")
    assert (status, answer["heat"], answer["label"]) == (200, None, None)


def test_what_cannot_be_is_400(looking: Classifier, tiny: Classifier, corner: bytes) -> None:
    status, (said,) = ask(looking, corner, accept="text/csv")
    assert (status, said) == (400, {"error": "explain: text/csv has no place for it; accept application/json"})
    status, said = ask(tiny, corner)
    assert status == 400
    assert said == {"error": "explain: this server's model can't say where it looked; ask without explain"}
    for nonsense in (("",), ("yes",), ("1,1",), ("1", "0"), ("1", "1")):
        assert ask(looking, corner, explain=nonsense) == (400, {"error": "explain: give 1 or 0, once"})
