"""The endpoint's photos on S3, when a read stalls: the request is answered within its own time all the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from catdog.classifier import Classifier
from catdog.serving import endpoint
from catdog.serving.requests import parse_request
from tests.integration.s3_server import Proxy

pytest.importorskip("obstore", reason="needs the extra cloud")

Ask = Callable[..., "tuple[int, Any]"]


@pytest.fixture
def ask(bucket: str, admin: Any, tiny: Classifier, photo: Callable[..., bytes]) -> Ask:
    """ask(budget, keys or one key) -> status and answer; each key is a red photo on S3 first."""

    def go(budget_s: float, keys: str | list[str]) -> tuple[int, Any]:
        for key in [keys] if isinstance(keys, str) else keys:
            admin.put_object(Bucket=bucket, Key=key, Body=photo("red"))
        start = f"s3://{bucket}/"
        body = {"image": start + keys} if isinstance(keys, str) else {"images": [start + key for key in keys]}
        request = parse_request(json.dumps(body), "application/json", [(bucket, "")])
        reply = endpoint.write_reply(endpoint.answer_request(request, tiny, budget_s), None)
        return reply.status, json.loads(reply.body)

    return go


def test_what_is_not_read_in_time_is_named_and_the_rest_is_answered(ask: Ask, proxy: Proxy, bucket: str) -> None:
    proxy.plans["stalled"] = itertools.repeat("stall")
    status, rows = ask(5, ["red.png", "stalled.png", *(f"more-stalled-{i}.png" for i in range(20))])
    assert status == 200
    assert (rows[0]["label"], rows[0]["error"]) == ("cat", None)
    for row in rows[1:]:
        words = "not read within the request's 5 s; send it again, or fewer photos at once"
        assert row["error"] == f"{row['source']}: {words}"
        assert row["source"].startswith(f"s3://{bucket}/")


@pytest.mark.parametrize(("fault", "key"), [("stall", "a.png"), ("stall in body", "a.png"), ("stall", "odd//a.png")])
def test_one_photo_that_stalls_is_a_504(ask: Ask, proxy: Proxy, bucket: str, fault: str, key: str) -> None:
    assert ask(20, key)[1]["label"] == "cat"  # also a client is made, which takes its time
    proxy.plans["GET"] = itertools.repeat(fault)
    status, answer = ask(0.5, key)
    assert status == 504
    assert answer["error"] == (
        f"s3://{bucket}/{key}: not read within the request's 0.5 s; send it again, or fewer photos at once"
    )


def test_a_stalled_photo_of_a_batch_transform_job_is_a_row(
    ask: Ask, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(endpoint.ANSWER_ALL, "1")
    proxy.plans["GET"] = itertools.repeat("stall")
    status, answer = ask(0.5, "a.png")
    assert status == 200
    assert "not read within the request's 0.5 s" in answer["error"]
