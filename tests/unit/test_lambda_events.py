"""From an event to a response: golden events of each kind, limits to the byte, and every way to spoil an event."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catdog.classifier import Classifier
from catdog.errors import SettingsError
from catdog.serving.endpoint import answer_request, read_request, write_reply
from catdog.serving.lambda_events import BALANCER_BYTES, LAMBDA_BYTES, answer_event
from catdog.serving.lambda_objects import EventError, find_answers_folder, list_created
from tests.properties import ODD_VALUES, spoil

GOLDEN = Path(__file__).parents[1] / "golden" / "lambda"
HTTP = ("function_url", "api_gateway_v2", "api_gateway_v1", "alb", "alb_multi_value")


def read_event(name: str, **changed: Any) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text()) | changed


def posted(data: bytes, kind: str = "image/png", name: str = "function_url") -> dict[str, Any]:
    """A golden event with another body."""
    body = base64.b64encode(data).decode()
    return dict(read_event(name, body=body, headers={"Content-Type": kind}, multiValueHeaders=None))


def refused(response: dict[str, Any]) -> tuple[int, str]:
    """The status and message of a refusal."""
    (message,) = json.loads(response["body"]).values()
    assert response["headers"]["content-type"] == "application/json"
    assert "\n" not in response["body"]
    return response["statusCode"], message


@pytest.mark.parametrize("name", HTTP)
def test_every_kind_of_http_event_gets_the_same_answer(
    tiny: Classifier, photo: Callable[..., bytes], name: str
) -> None:
    response = answer_event(read_event(name), tiny)
    assert (response["statusCode"], response["isBase64Encoded"]) == (200, False)
    json.dumps(response)
    if name == "alb_multi_value":
        assert response["multiValueHeaders"] == {"content-type": ["application/jsonlines"]}
        assert "headers" not in response
    else:
        forms = {"alb": "application/jsonlines", "api_gateway_v1": "application/json"}
        assert response["headers"] == {"content-type": forms.get(name, "text/csv")}
    assert response.get("statusDescription") == ("200 OK" if name.startswith("alb") else None)
    expected = tiny.predict(photo("red")).to_dict() | {"source": "image"}
    if name in ("function_url", "api_gateway_v2"):
        (row,) = csv.DictReader(response["body"].splitlines())
        assert (row["source"], row["label"], float(row["cat"])) == ("image", "cat", expected["probabilities"]["cat"])
    else:
        assert json.loads(response["body"]) == expected


def test_text_is_no_base64(tiny: Classifier, photo: Callable[..., bytes]) -> None:
    body = json.dumps({"images": [base64.b64encode(photo("blue")).decode(), "%"]})
    event = read_event("function_url", body=body, isBase64Encoded=False, headers={"content-type": "application/json"})
    assert [row["label"] for row in json.loads(answer_event(event, tiny)["body"])] == ["dog", None]


def test_the_caller_s_mistakes_are_4xx(tiny: Classifier) -> None:
    def status(**changed: Any) -> int:
        return refused(answer_event(read_event("function_url", **changed), tiny))[0]

    junk = answer_event(posted(b"junk"), tiny)
    assert refused(junk)[0] == write_reply(answer_request(read_request(b"junk", "image/png"), tiny), None).status
    assert refused(answer_event(posted(b"junk", "text/plain"), tiny))[0] == 415
    assert status(body="not base64!") == 400
    assert status(body="é", isBase64Encoded=True) == 400
    assert status(body=None) == 400
    assert status(body=5) == 400
    assert status(headers=None) == 415
    assert status(headers={"content-type": "image/png", "accept": "image/png"}) == 406
    alb = answer_event(read_event("alb", httpMethod="PUT"), tiny)
    assert (refused(alb)[0], alb["headers"]["allow"]) == (405, "GET, HEAD, POST")
    assert alb["statusDescription"] == "405 Method Not Allowed"


def test_the_limits_are_exact(tiny: Classifier) -> None:
    def status(event: dict[str, Any]) -> tuple[int, str]:
        return refused(answer_event(event, tiny))

    assert "not an image" in status(posted(bytes(LAMBDA_BYTES // 4 * 3)))[1]
    over = read_event("function_url", body="A" * (LAMBDA_BYTES + 1))
    assert status(over) == (
        413,
        "the body has 6291457 bytes, at most 6291456 are taken, base64 included; put the photo on S3",
    )
    assert "not an image" in status(posted(bytes(BALANCER_BYTES), name="alb"))[1]
    assert status(posted(bytes(BALANCER_BYTES + 1), name="alb")) == (
        413,
        "the body has 1048577 bytes, at most 1048576 are taken, through a load balancer; put the photo on S3",
    )


def test_an_answer_over_the_limit_is_refused_too(tiny: Classifier) -> None:
    long = json.dumps({"images": ["s3://bucket/" + "x" * 3_200_000]})  # which an answer names twice
    event = read_event("function_url", body=long, isBase64Encoded=False, headers={"content-type": "application/json"})
    status, message = refused(answer_event(event, tiny))
    assert (status, "at most 6291456 go back" in message) == (413, True)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_checks_are_answered(tiny: Classifier, method: str) -> None:
    response = answer_event(read_event("alb", httpMethod=method, body="", isBase64Encoded=False), tiny)
    assert response["statusDescription"] == "200 OK"
    assert bool(response["body"]) == (method == "GET")
    if method == "GET":
        assert json.loads(response["body"])["status"] == "ready"


def test_a_direct_call_gets_the_answers_themselves(tiny: Classifier, photo: Callable[..., bytes]) -> None:
    rows = answer_event(read_event("direct"), tiny)
    assert rows[0] == tiny.predict(photo("red")).to_dict() | {"source": "images[0]"}
    assert (rows[1]["label"], "not an image" in rows[1]["error"]) == (None, True)
    image = {"image": base64.b64encode(photo("blue")).decode()}
    assert answer_event(image, tiny)["label"] == "dog"
    mistakes: tuple[Any, ...] = ({}, [], None, "text", {"image": "/etc/passwd"}, {"source": "aws.events"})
    for mistake in mistakes:
        answer = answer_event(mistake, tiny)
        assert (answer["status"], list(answer)) == (400, ["error", "status"])


def test_a_direct_call_that_fails_for_no_fault_of_the_caller_s_fails(photo: Callable[..., bytes]) -> None:
    class Broken(Classifier):
        def probabilities(self, images: Any) -> Any:
            raise RuntimeError("a secret path")

    from tests.conftest import TINY_CONTRACT, build_tiny_model

    broken = Broken(build_tiny_model(TINY_CONTRACT.to_json()), threads=1)
    with pytest.raises(EventError, match="the endpoint failed; its log says why"):
        answer_event({"image": base64.b64encode(photo("blue")).decode()}, broken)
    assert refused(answer_event(posted(photo("blue")), broken))[0] == 500


@pytest.mark.parametrize("source", ["aws:sns", "aws:kinesis", None])
def test_events_of_other_services_fail_and_say_so(tiny: Classifier, source: str | None) -> None:
    with pytest.raises(EventError, match="are not answered"):
        answer_event({"Records": [{"eventSource": source}]}, tiny)


def test_what_catdog_wrote_is_never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_ANSWERS", "s3://photos-of-tests/answers")
    event = read_event("s3")

    def found(key: str, kind: str = "ObjectCreated:Put", bucket: str = "photos-of-tests") -> list[str]:
        record = event["Records"][0]
        record["s3"] |= {"bucket": {"name": bucket}, "object": {"key": key}}
        return list_created({"Records": [record | {"eventName": kind}]})

    assert list_created(read_event("s3")) == ["s3://photos-of-tests/in/a red cat & é.png"]
    assert found("answers-of-others/a.png")
    assert found("answers/a.png", bucket="another")
    assert found("answers/a.png") == []
    assert found("answers/photos-of-tests/in/a.png.catdog.json") == []
    assert found("elsewhere/a.png.catdog.json", bucket="another") == []  # of another function, perhaps
    assert found("in/") == []
    assert found("in/a.png", "ObjectRemoved:Delete") == []


def test_answers_without_a_folder_are_refused_at_once(tiny: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CATDOG_ANSWERS", raising=False)
    with pytest.raises(SettingsError, match="CATDOG_ANSWERS: is not set"):
        answer_event(read_event("s3"), tiny)
    assert answer_event({"Service": "Amazon S3", "Event": "s3:TestEvent"}, tiny) == {"answered": 0}
    for wrong in ("answers/", "s3://bucket", "s3://bucket//", "gs://bucket/answers", "s3:///answers"):
        monkeypatch.setenv("CATDOG_ANSWERS", wrong)
        with pytest.raises(SettingsError, match="CATDOG_ANSWERS: "):
            find_answers_folder()


@pytest.mark.parametrize("name", [*HTTP, "s3", "sqs", "direct"])
def test_no_spoilt_event_ends_in_a_traceback(tiny: Classifier, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_ANSWERS", "s3://bucket/answers/")
    values = [value for value in ODD_VALUES if value != "x" * 5000]
    for event in spoil(read_event(name), values):
        try:
            response = answer_event(event, tiny)
        except EventError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017  most responses are no error
        else:
            json.dumps(response)
