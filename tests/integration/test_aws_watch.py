"""catdog aws capture, logs and status of an endpoint, against moto; the answers are the real handler's, on real bytes.

The requests that AWS would get are compared with tests/golden/aws/*.json; CATDOG_UPDATE_GOLDEN=1 writes these.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("boto3", reason="needs boto3: pip install '.[aws]'")
pytest.importorskip("moto.server", reason="no AWS to test against: pip install 'moto[server]'")
pytest.importorskip("matplotlib", reason="draws the chart: pip install '.[drift]'")

from catdog.aws.account import Account, find_account
from catdog.aws.app import app
from catdog.aws.hosting import Hosting, config_request, model_request
from catdog.aws.watch import capture, captured, logs  # noqa: F401  they register their commands
from catdog.aws.watch.cloudwatch import Log
from catdog.classifier import Classifier
from catdog.contact_sheet import THUMBNAIL_PX
from catdog.detection.detector import Detector
from catdog.drift.tally import Answer
from catdog.serving.endpoint import answer_request, read_request, write_reply
from catdog.sources import objects
from tests.detectors import build_detector, draw_photo
from tests.integration.aws_on_loopback import use
from tests.integration.aws_server import Cloud
from tests.integration.test_aws_jobs import ROLE, Outcome, assert_golden, job, write_log

BUCKET = "catdog-watch"
NAME = "catdog-prod"
PLACE = f"catdog/capture/{NAME}/{NAME}/AllTraffic"
GROUP = f"/aws/sagemaker/Endpoints/{NAME}"
NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def running_cloud(moto: int) -> Iterator[Cloud]:
    """The proxy before moto, with an endpoint that captures; the environment has it for AWS."""
    with Cloud(moto) as server, pytest.MonkeyPatch.context() as environment:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        use(environment, url, ("AWS_", "CATDOG_"), kept="CATDOG_UPDATE_GOLDEN", CATDOG_BUCKET=BUCKET)
        objects.close()
        me = find_account()
        me.client("s3").create_bucket(Bucket=BUCKET)
        sagemaker, tags = me.client("sagemaker"), me.make_tags(Command="deploy", Endpoint=NAME)
        hosting = Hosting(capture=20, capture_to=f"s3://{BUCKET}/catdog/capture/{NAME}", instances=2)
        sagemaker.create_model(**model_request("catdog-prod-1", "image", f"s3://{BUCKET}/m.tar.gz", ROLE, {}, tags))
        sagemaker.create_endpoint_config(**config_request("catdog-prod-1", "catdog-prod-1", hosting, tags))
        sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName="catdog-prod-1", Tags=tags)
        yield server
        objects.close()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def me(running_cloud: Cloud) -> Account:
    return find_account()


@pytest.fixture
def cloud(running_cloud: Cloud, me: Account) -> Iterator[Cloud]:
    """That proxy, with nothing seen, nothing planned and nothing captured."""
    running_cloud.seen.clear()
    yield running_cloud
    running_cloud.replies.clear()
    s3 = me.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", ()):
            s3.delete_object(Bucket=BUCKET, Key=item["Key"])


@pytest.fixture
def aws(cloud: Cloud) -> Callable[..., Outcome]:
    """aws("capture", ...) runs a command as the shell would."""
    return lambda *arguments: Outcome(CliRunner().invoke(app, [str(a) for a in arguments]))


def put_lines(me: Account, *lines: Any, when: datetime = NOW, key: str = "a.jsonl") -> None:
    """A file as SageMaker writes it: objects as JSON, a line each; bytes as they are."""
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    me.client("s3").put_object(Bucket=BUCKET, Key=f"{PLACE}/{when:%Y/%m/%d/%H}/{key}", Body=data)


def make_record(
    request: bytes, kind: str, response: bytes, answered_as: str, when: datetime = NOW, event: str = "75e3c0de-1"
) -> dict[str, Any]:
    """A line as SageMaker writes it, with deploy's setting: JSON as text, all else in base64."""

    def side(data: bytes, media_type: str, mode: str) -> dict[str, str]:
        if media_type == "application/json":
            return {"observedContentType": media_type, "mode": mode, "data": data.decode(), "encoding": "JSON"}
        text = base64.b64encode(data).decode()
        return {"observedContentType": media_type, "mode": mode, "data": text, "encoding": "BASE64"}

    return {
        "captureData": {
            "endpointInput": side(request, kind, "INPUT"),
            "endpointOutput": side(response, answered_as, "OUTPUT"),
        },
        "eventMetadata": {"eventId": event, "inferenceTime": f"{when:%Y-%m-%dT%H:%M:%SZ}"},
        "eventVersion": "0",
    }


def ask(
    classifier: Classifier | Detector, body: bytes, kind: str, accept: str = "application/json", **more: Any
) -> Any:
    """The record of a request that the real handler answered."""
    reply = write_reply(answer_request(read_request(body, kind), classifier), accept)
    return make_record(body, kind, reply.body, reply.content_type, **more)


def encode(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, kind)
    return buffer.getvalue()


RED, BLUE, VIOLET = (encode(colour) for colour in ((255, 0, 0), (0, 0, 255), (128, 0, 129)))


# capture


def test_answers_of_every_form_are_counted_by_day_and_the_least_sure_are_shown(
    aws: Callable[..., Outcome], me: Account, cloud: Cloud, tiny: Classifier, tmp_path: Path
) -> None:
    images = json.dumps({"images": [base64.b64encode(photo).decode() for photo in (RED, VIOLET, b"no photo")]}).encode()
    buffer = io.BytesIO()
    np.save(buffer, np.full((2, 8, 8, 3), (0, 0, 255), np.uint8))
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="my cat.png"\r\n\r\n'
    form = head + RED + b"\r\n--b--\r\n"
    yesterday = NOW - timedelta(days=1)
    put_lines(
        me,
        ask(tiny, RED, "image/png"),
        ask(tiny, images, "application/json"),
        ask(tiny, images, "application/json", "application/jsonlines"),
        ask(tiny, BLUE, "application/x-image", "text/csv"),
        ask(tiny, form, "multipart/form-data; boundary=b"),
        ask(tiny, b"not a photo", "image/jpeg"),  # a 422, whose body is {"error": ...}
    )
    put_lines(me, ask(tiny, buffer.getvalue(), "application/x-npy", when=yesterday), when=yesterday)
    put_lines(me, ask(tiny, RED, "image/png", when=NOW - timedelta(days=9)), when=NOW - timedelta(days=9))
    cloud.seen.clear()
    done = aws("capture", NAME, "--since", "3d", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = done.answer
    assert (report["photos"], report["errors"], report["skipped"]) == (12, 3, {})
    assert report["labels"] == {"cat": 4, "dog": 3, "unsure": 2}
    assert (report["unsure"], report["failed"]) == (round(2 / 9, 6), 0.25)
    assert report["captured_percent"] == 20
    periods = {period["period"]: period["photos"] for period in report["periods"]}
    assert periods[f"{NOW:%Y-%m-%d}"] == 10
    assert periods[f"{yesterday:%Y-%m-%d}"] == 2
    assert len(periods) == 4  # days without photos are seen, too
    with Image.open(tmp_path / "out" / "drift.png") as chart, Image.open(tmp_path / "out" / "least_sure.png") as sheet:
        chart.load()
        first = sheet.convert("RGB").getpixel((20 + THUMBNAIL_PX // 2, 64 + THUMBNAIL_PX // 2))
    assert first == (128, 0, 129)  # what the model was least sure of
    asked = {operation.split()[0] for operation, _ in cloud.seen}
    assert asked <= {"DescribeEndpoint", "DescribeEndpointConfig", "GET"}
    listed = [operation for operation, _ in cloud.seen if "list-type=2" in operation]
    assert all("AllTraffic" in operation for operation in listed)


def test_a_detector_s_answers_of_every_form_are_counted_by_photo(
    aws: Callable[..., Outcome], me: Account, cloud: Cloud, tiny: Classifier, tmp_path: Path
) -> None:
    detector, buffers = Detector(build_detector(grid=8), threads=1), (io.BytesIO(), io.BytesIO())
    heads = ("red", (4, 4, 16, 16)), ("blue", (104, 104, 116, 116))
    draw_photo((160, 160), *heads).save(buffers[0], "PNG")
    draw_photo((160, 160), heads[0]).save(buffers[1], "PNG")
    both, cat, none = *(buffer.getvalue() for buffer in buffers), encode((0, 0, 0))
    images = json.dumps({"images": [base64.b64encode(photo).decode() for photo in (both, none, b"?", both)]}).encode()
    kinds = ("application/json", "application/jsonlines", "text/csv")
    put_lines(
        me,
        *(ask(detector, images, "application/json", kind) for kind in kinds),
        ask(detector, b"?", "image/jpeg"),
        ask(detector, cat, "image/png"),
    )
    done = aws("capture", NAME, "--since", "1h", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = done.answer
    assert (report["photos"], report["errors"], report["skipped"]) == (14, 4, {})
    assert report["heads"] == {"cat": 7, "dog": 6}
    assert (report["with_head"], report["heads_per_photo"]) == (0.7, {"cat": 0.7, "dog": 0.6})
    put_lines(me, ask(tiny, RED, "image/png"), key="b.jsonl")  # before an update of the endpoint, say
    refused = aws("capture", NAME, "--since", "1h")
    assert (refused.code, "has answers about whole photos" in refused.err) == (2, True)


def test_what_a_stranger_may_have_written_is_counted_and_told(
    aws: Callable[..., Outcome], me: Account, tiny: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "MOST_LINE_BYTES", 100_000)
    good = ask(tiny, RED, "image/png")

    def answer(data: str, kind: str = "application/json", encoding: str = "JSON") -> Any:
        response = {"data": data, "observedContentType": kind, "encoding": encoding}
        return good | {"captureData": good["captureData"] | {"endpointOutput": response}}

    put_lines(
        me,
        good,
        b"\n",
        b"not JSON\n",
        b"[" * 50_000 + b"\n",
        b'"text"\n',
        b'{"captureData": null}\n',
        b"\xff\xfe\n",
        b"x" * 300_000 + b"\n",
        {"captureData": {"endpointInput": good["captureData"]["endpointInput"]}, "eventMetadata": {}},
        answer("[1, 2]"),
        answer('{"label": "cat"}'),
        answer('{"label": "cat", "confidence": 7}'),
        answer('{"label": "cat", "confidence": NaN}'),
        answer('{"label": ["cat"], "confidence": 0.5}'),
        answer("0.0191", "text/csv", "CSV"),
        answer("%%%", "text/csv", "BASE64"),
        answer("\x93NUMPY", "application/x-npy", "BASE64"),
        answer(json.dumps([{"label": "cat", "confidence": 0.5}] * 101)),
        answer("[" * 5000),
        good | {"eventMetadata": {"eventId": ["x"] * 9, "inferenceTime": "not a time"}},  # at its file's hour
        good | {"eventMetadata": {"inferenceTime": "9999-12-31T23:59:59-23:59"}},
        answer('{"label": "$\\\\frac$ \\ud800\\u001b[31m", "confidence": 0.4}'),
        json.dumps(answer('{"source": "x", "label": null, "error": "no photo"}')).encode(),  # cut off, but whole
    )
    for key in ("../../x.jsonl", "b.json", "deeper/c.jsonl"):
        put_lines(me, good, key=key)
    me.client("s3").put_object(Bucket=BUCKET, Key=f"{PLACE}/{NOW:%Y}/99/99/99/a.jsonl", Body=json.dumps(good))
    done = aws("capture", NAME, "--since", "2d", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.answer["skipped"] == {
        "an answer of another media type": 1,
        "answers about more than 100 photos": 1,
        "longer than 0 MB": 1,
        "not a captured request": 5,
        "not an answer of catdog's": 8,
        "without an answer": 1,
    }
    assert (done.answer["photos"], done.answer["errors"]) == (5, 1)
    assert "\x1b" not in done.err
    assert "5 not a captured request" in done.err


def test_a_photo_that_may_harm_is_not_drawn(me: Account, tiny: Classifier) -> None:
    good = ask(tiny, RED, "image/png")["captureData"]["endpointInput"]
    large = io.BytesIO()
    Image.new("L", (9000, 9000)).save(large, "PNG")  # 81 megapixels in 80 KB

    def thumbnail(request: Any, index: int = 0) -> Image.Image | None:
        return captured.CapturedAnswer(NOW, Answer("x", "cat", 0.5), "x", request, index).read_thumbnail()

    def body(data: bytes, kind: str = "image/png") -> dict[str, str]:
        return {"data": base64.b64encode(data).decode(), "encoding": "BASE64", "observedContentType": kind}

    shown, blank = thumbnail(good), thumbnail(body(large.getvalue()))
    assert shown is not None
    assert blank is not None
    assert shown.getpixel((9, 9)) == (255, 0, 0)
    assert blank.getpixel((9, 9)) == (240, 240, 240)
    for request, index in (
        (None, 0),
        ({}, 0),
        (good | {"data": 7}, 0),
        (good | {"observedContentType": {}}, 0),
        (good | {"observedContentType": "text/html"}, 0),
        (good | {"data": "%"}, 0),
        (good, 1),
        (body(b'{"image": "s3://bucket/photo.jpg"}', "application/json"), 0),
        (body(b'{"image": "file:///etc/passwd"}', "application/json"), 0),
    ):
        assert thumbnail(request, index) is None


def test_it_is_an_alarm(aws: Callable[..., Outcome], me: Account, tiny: Classifier, tmp_path: Path) -> None:
    """The reference is as sure as the captured answers of the first day; later ones aren't."""
    generator = np.random.default_rng(0)

    def make_lines(spread: int) -> tuple[list[Any], list[float]]:
        lines, confidences = [], []
        for shade in generator.integers(128 - spread, 128 + spread, 200).tolist():
            response = ask(tiny, encode((shade, 0, 255 - shade)), "image/png")
            lines.append(response)
            confidences.append(json.loads(response["captureData"]["endpointOutput"]["data"])["confidence"])
        return lines, confidences

    lines, confidences = make_lines(40)
    (tmp_path / "evaluation").mkdir()
    rows = "".join(f"{i}.jpg,x,cat,cat,{value}\n" for i, value in enumerate(confidences))
    (tmp_path / "evaluation" / "predictions.csv").write_text("path,source,truth,label,confidence\n" + rows)
    arguments = ("capture", NAME, "--since", "1h", "--reference", tmp_path / "evaluation", "--max-psi", "0.25")
    put_lines(me, *lines)
    quiet = aws(*arguments, "--max-unsure", "99%", "--max-errors", "0")
    assert (quiet.code, quiet.answer["psi"], quiet.answer["passed"]) == (0, 0, [])
    put_lines(me, *make_lines(4)[0])
    rung = aws(*arguments)
    assert rung.code == 1
    assert rung.answer["psi"] > 1
    assert rung.answer["passed"] == [rung.err.splitlines()[-1]]
    put_lines(me, *lines[:3])
    few = aws(*arguments)
    assert few.code == 0  # three photos look like nothing
    assert few.answer["psi"] < few.answer["psi_by_chance"]


def test_silence_is_told_and_refusals_are_one_line(
    aws: Callable[..., Outcome], cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = aws("capture", NAME)
    assert (none.code, none.answer["photos"]) == (1, 0)
    assert f"no answer was captured under s3://{BUCKET}/catdog/capture/{NAME}/{NAME} since" in none.err
    gone = aws("capture", "catdog-gone", "--bucket", BUCKET)  # its captures outlive an endpoint
    assert gone.code == 1
    assert "deploy --capture 10" in gone.err
    for arguments, said in (
        (("a_b",), "no endpoint's name"),
        ((NAME, "--since", "x"), "--since x: give minutes, hours or days"),
        ((NAME, "--since", "9999999d"), "too long"),
        ((NAME, "--max-psi", "1"), "compares with a --reference"),
        ((NAME, "--reference", tmp_path), "holds neither predictions.csv"),
        ((NAME, "--reference", tmp_path / "x.csv"), "can't be read"),
        (("catdog-gone", "--bucket", "catdog-no-such-bucket"), "there is no such bucket"),
    ):
        assert said in aws("capture", *arguments).refused()
    monkeypatch.delenv("CATDOG_BUCKET")
    assert "no bucket; give --bucket NAME" in aws("capture", "catdog-gone").refused()


# logs


def write_endpoint_log(me: Account, stream: str, *lines: tuple[datetime, str]) -> None:
    client = me.client("logs")
    if not client.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
        client.create_log_group(logGroupName=GROUP)
    client.create_log_stream(logGroupName=GROUP, logStreamName=stream)
    events = [{"timestamp": round(when.timestamp() * 1000), "message": text} for when, text in lines]
    client.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)


def test_an_endpoint_s_log_is_that_of_all_its_machines(aws: Callable[..., Outcome], me: Account, cloud: Cloud) -> None:
    nothing = aws("logs", NAME)
    assert (nothing.code, nothing.out) == (0, "")
    assert f"{NAME}: no log yet since " in nothing.err
    now = datetime.now(timezone.utc)
    minutes = [now - timedelta(minutes=n) for n in (180, 30, 20, 10)]
    write_endpoint_log(me, "AllTraffic/i-1", (minutes[0], "hours ago"), (minutes[1], "one"), (minutes[3], "three"))
    write_endpoint_log(me, "AllTraffic/i-2", (minutes[2], "\x1b[31mtwo\nlines\n"))
    cloud.seen.clear()
    said = aws("logs", NAME).out.splitlines()
    assert [line.split(" ", 1)[1] for line in sorted(said)] == [
        "[AllTraffic/i-1] one",
        r"[AllTraffic/i-2] \x1b[31mtwo\nlines",
        "[AllTraffic/i-1] three",
    ]
    asked = cloud.asked("FilterLogEvents")[0]
    assert_golden("logs-endpoint", asked | {"startTime": 0})
    assert abs(asked["startTime"] / 1000 - (now - timedelta(hours=1)).timestamp()) < 60
    assert len(aws("logs", NAME, "--tail", "1").out.splitlines()) == 1
    assert "hours ago" in aws("logs", NAME, "--since", "4h").out
    assert "--since 1: give minutes" in aws("logs", NAME, "--since", "1").refused()
    assert "there is no such job or endpoint" in aws("logs", "catdog-nothing").refused()


def test_a_line_is_told_once_also_when_it_comes_late(me: Account) -> None:
    log, now = Log(me.client("logs"), f"{GROUP}-late"), datetime.now(timezone.utc)
    assert list(log.read_new_lines()) == []  # there is no such group yet
    me.client("logs").create_log_group(logGroupName=f"{GROUP}-late")

    def write(stream: str, when: datetime, text: str) -> None:
        place = {"logGroupName": f"{GROUP}-late", "logStreamName": stream}
        me.client("logs").create_log_stream(**place)
        me.client("logs").put_log_events(
            **place, logEvents=[{"timestamp": round(when.timestamp() * 1000), "message": text}]
        )

    write("i-1", now, "first")
    assert [line.text for line in log.read_new_lines()] == ["first"]
    write("i-2", now - timedelta(seconds=30), "written before, seen later")
    assert [line.text for line in log.read_new_lines()] == ["written before, seen later"]
    assert list(log.read_new_lines()) == []


def test_a_job_s_log_is_followed_until_the_job_has_ended(
    aws: Callable[..., Outcome], me: Account, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0.01)
    write_log(me, "catdog-x", "epoch=1 train_loss=0.5")
    write_log(me, "catdog-xyz", "another job's")
    cloud.seen.clear()
    cloud.replies["DescribeTrainingJob"] = [
        job("InProgress", "Training"),
        job("InProgress", "Training"),
        job("Completed", "Completed"),
    ]
    done = aws("logs", "catdog-x", "--follow")
    assert done.code == 0
    assert [line.partition("] ")[2] for line in done.out.splitlines()] == ["epoch=1 train_loss=0.5"]
    assert_golden("logs-job", cloud.asked("FilterLogEvents")[0])


# status


def test_the_status_of_an_endpoint_is_its_traffic_and_what_it_has_cost(
    aws: Callable[..., Outcome], me: Account, cloud: Cloud
) -> None:
    before = aws("status", NAME)
    assert before.answer["traffic"] == before.answer["traffic"] | {
        "invocations": 0, "errors_4xx": 0, "errors_5xx": 0, "latency_ms": None, "latency_p99_ms": None,
    }  # fmt: skip
    asked = cloud.asked("GetMetricData")[0]
    assert_golden("status-endpoint", asked | {"StartTime": 0, "EndTime": 0})
    found: dict[str, list[float]] = {  # moto fails at percentiles
        "invocations": [1, 3], "errors_4xx": [1, 0], "errors_5xx": [0, 0], "model_us": [40_000, 200_000],
        "model_count": [1, 3], "model_p99_us": [40_000, 99_000.4], "overhead_us": [8_000], "overhead_count": [4],
    }  # fmt: skip
    results = [
        {"Id": f"{name}_0", "StatusCode": "Complete", "Timestamps": [0] * len(values), "Values": values}
        for name, values in found.items()
    ]
    cloud.replies["GetMetricData"] = [
        (200, {"MetricDataResults": results[:4], "NextToken": "more"}),
        (200, {"MetricDataResults": results[4:]}),
    ]
    done = aws("status", NAME, "--since", "7d")
    begin = cloud.asked("GetMetricData")[-1]["StartTime"]
    assert begin % 3600 == 0  # so that hours are not cut in two
    assert 0 <= datetime.now(timezone.utc).timestamp() - begin - 7 * 86_400 < 3700
    answer = done.answer
    assert (answer["kind"], answer["state"], answer["instances"]) == ("endpoint", "InService", 2)
    traffic = answer["traffic"]
    assert (traffic["invocations"], traffic["errors_4xx"], traffic["errors_5xx"]) == (4, 1, 0)
    assert (traffic["latency_ms"], traffic["overhead_ms"]) == (60.0, 2.0)  # microseconds there, ms here
    assert traffic["latency_p99_ms"] == 99.0
    assert answer["usd_per_hour"] == 0.23
    assert answer["usd_note"].startswith("an estimate: ")
    assert "2 instances as of now" in answer["usd_note"]
    assert "us-east-1, 2026-" in answer["usd_note"]
    assert "4 requests, 1 refused (4xx), 0 failed (5xx), 60 ms on average" in done.err


def test_help_has_examples_and_exit_codes(aws: Callable[..., Outcome]) -> None:
    for command in ("capture", "logs"):
        said = aws(command, "--help").out
        assert f"catdog aws {command} catdog-prod" in said
        assert "Exit codes:" in said
