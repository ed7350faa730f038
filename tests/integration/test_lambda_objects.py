"""Photos that S3 announces, when S3 fails: what is about the photo is answered, what is about S3 is tried again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest

from catdog.classifier import Classifier
from catdog.serving.lambda_events import answer_event
from catdog.serving.lambda_objects import EventError
from tests.integration.s3_server import Proxy

pytest.importorskip("obstore", reason="needs the extra cloud")

Announce = Callable[..., "list[str]"]


def event_of(bucket: str, *keys: str) -> dict[str, Any]:
    """S3's event for objects that were written."""
    records = [
        {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
        }
        for key in keys
    ]
    return {"Records": records}


@pytest.fixture
def announce(bucket: str, tiny: Classifier, monkeypatch: pytest.MonkeyPatch) -> Announce:
    """announce(key, ...) -> the keys of the messages, one a key, that SQS is to deliver again."""
    monkeypatch.setenv("CATDOG_ALLOWED_S3", f"s3://{bucket}/in/ s3://no-such-bucket/")
    monkeypatch.setenv("CATDOG_ANSWERS", f"s3://{bucket}/answers/")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def go(*keys: str, budget_s: float = 10, of: str = bucket) -> list[str]:
        records = [{"eventSource": "aws:sqs", "messageId": key, "body": json.dumps(event_of(of, key))} for key in keys]
        answer = answer_event({"Records": records}, tiny, budget_s)
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    return go


@pytest.fixture
def answers(bucket: str, admin: Any) -> Callable[[], dict[str, dict[str, Any]]]:
    """answers() -> what lies below the answers' prefix, by the photo's key."""

    def find() -> dict[str, dict[str, Any]]:
        start = f"answers/{bucket}/"
        listed = admin.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="answers/")
        keys = [item["Key"] for page in listed for item in page.get("Contents", ())]
        return {
            key.removeprefix(start).removesuffix(".catdog.json"): json.loads(
                admin.get_object(Bucket=bucket, Key=key)["Body"].read()
            )
            for key in keys
        }

    return find


def test_each_message_is_answered_or_delivered_again(
    announce: Announce, answers: Any, bucket: str, admin: Any, proxy: Proxy, photo: Callable[..., bytes]
) -> None:
    for key in ("in/red.png", "in/blue.png", "in/stalled.png", "in/forbidden.png", "in/odd//é.png"):
        admin.put_object(Bucket=bucket, Key=key, Body=photo("blue" if "blue" in key else "red"))
    admin.put_object(Bucket=bucket, Key="in/text.jpg", Body=b"text")
    admin.put_object(Bucket=bucket, Key="in/empty.jpg", Body=b"")
    proxy.plans["/in/stalled"] = itertools.repeat("stall")
    proxy.plans["/in/forbidden"] = itertools.repeat("forbidden")
    proxy.plans[f"GET /{bucket}/in/huge"] = itertools.repeat("huge")
    good = ["in/red.png", "in/blue.png", "in/odd//é.png"]
    about_the_photo = ["in/text.jpg", "in/empty.jpg", "in/deleted.png", "in/huge.png"]
    about_s3 = ["in/stalled.png", "in/forbidden.png", "elsewhere/red.png"]
    assert announce(*good, *about_the_photo, *about_s3, "in/", budget_s=3) == about_s3
    found = answers()
    found["in/odd//é.png"] = found.pop("in/odd/%2Fé.png")
    assert found.keys() == {*good, *about_the_photo}
    assert [found[key]["label"] for key in good] == ["cat", "dog", "cat"]
    assert found["in/red.png"]["source"] == f"s3://{bucket}/in/red.png"
    for key, says in zip(
        about_the_photo, ("not an image", "is empty", "no such object", "over the limit"), strict=True
    ):
        assert says in found[key]["error"]
    proxy.plans.clear()
    proxy.released.set()
    assert announce("in/stalled.png", "in/forbidden.png") == []
    assert len(answers()) == 9


def test_an_answer_that_can_not_be_written_is_tried_again(
    announce: Announce, answers: Any, bucket: str, admin: Any, proxy: Proxy, photo: Callable[..., bytes]
) -> None:
    for key in ("in/a.png", "in/b.png"):
        admin.put_object(Bucket=bucket, Key=key, Body=photo("red"))
    proxy.plans["PUT"] = itertools.repeat("forbidden")
    assert announce("in/a.png", "in/b.png") == ["in/a.png", "in/b.png"]
    proxy.plans.clear()
    assert announce("in/a.png", "in/b.png") == []
    assert announce("in/a.png", "in/a.png") == []  # S3 may say it twice
    assert answers().keys() == {"in/a.png", "in/b.png"}


def test_a_bucket_that_is_gone_fails_its_own_messages_only(
    announce: Announce, bucket: str, admin: Any, tiny: Classifier, photo: Callable[..., bytes]
) -> None:
    admin.put_object(Bucket=bucket, Key="in/a.png", Body=photo("red"))
    records = [
        {"eventSource": "aws:sqs", "messageId": name, "body": json.dumps(event_of(name, "in/a.png"))}
        for name in ("no-such-bucket", bucket)
    ]
    answer = answer_event({"Records": records}, tiny)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "no-such-bucket"}]}


def test_without_a_queue_lambda_is_told_by_an_error(
    announce: Announce, answers: Any, bucket: str, admin: Any, tiny: Classifier, photo: Callable[..., bytes]
) -> None:
    for number in range(3):
        admin.put_object(Bucket=bucket, Key=f"in/{number}.png", Body=photo("red"))
    assert answer_event(event_of(bucket, *(f"in/{number}.png" for number in range(3))), tiny) == {"answered": 3}
    with pytest.raises(EventError, match=r"1 of 2 photos could not be answered: s3://.*/elsewhere/a.png: "):
        answer_event(event_of(bucket, "elsewhere/a.png", "in/0.png"), tiny)


def test_answers_are_never_answered(
    announce: Announce, answers: Any, bucket: str, admin: Any, photo: Callable[..., bytes], monkeypatch: Any
) -> None:
    """Also not by a function whose answers go elsewhere, and which is told of every object of the bucket."""
    monkeypatch.setenv("CATDOG_ALLOWED_S3", f"s3://{bucket}/")
    admin.put_object(Bucket=bucket, Key="in/a.png", Body=photo("red"))
    key = f"answers/{bucket}/in/a.png.catdog.json"
    assert announce("in/a.png") == announce(key) == []
    assert answers().keys() == {"in/a.png"}
    monkeypatch.setenv("CATDOG_ANSWERS", f"s3://{bucket}/others/")
    assert announce("in/a.png") == announce(key) == announce(f"others/{bucket}/in/a.png.catdog.json") == []
    listed = admin.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in listed] == [key, "in/a.png", f"others/{bucket}/in/a.png.catdog.json"]
