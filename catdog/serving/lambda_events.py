"""What AWS Lambda hands over, answered: one function from an event to its response, whoever sent it.

    POST through a Function URL, API Gateway (payload 2.0 or 1.0) or a load balancer    an HTTP response
    S3 says that photos were written, itself or through SQS                             see lambda_objects
    {"image": ...} or {"images": [...]}, by a direct call                               the answers themselves

GET and HEAD say that the function is ready, as load balancers ask. Paths don't matter: API Gateway puts its stage in
them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from catdog.detection.models import Model
from catdog.serving.endpoint import BUDGET_S, Refusal, Reply, answer_request, read_request, write_reply
from catdog.serving.lambda_objects import EventError, answer_batch, answer_notification
from catdog.serving.requests import BAD_REQUEST, JSON_TYPE, TOO_LARGE
from catdog.text import printable

Event = Mapping[str, Any]

LAMBDA_BYTES: Final = 6 * 2**20
"""Of an event or a response. A photo is base64 in it, so that 4.5 MB are left for the photo."""
BALANCER_BYTES: Final = 2**20
"""Of a body that a load balancer hands on, before base64, and of the response."""
METHODS: Final = "GET, HEAD, POST"


def answer_event(event: object, model: Model, budget_s: float = BUDGET_S) -> Any:
    """Return the response to an event, ready for JSON; ``budget_s`` is the time for reading what it asks about.

    Raises EventError where Lambda has to try it again or put it aside: a photo that S3 announced and that could not be
    read or answered, a direct call that failed for no fault of the caller's, the event of another service.
    """
    fields = event if isinstance(event, dict) else {}
    if isinstance(fields.get("requestContext"), dict):
        return answer_http(fields, model, budget_s)
    if "Records" not in fields and fields.get("Event") != "s3:TestEvent":
        return answer_call(event, model, budget_s)
    records = fields.get("Records") or [{"eventSource": "aws:s3"}]
    source = records[0].get("eventSource") if isinstance(records, list) and isinstance(records[0], dict) else None
    if source == "aws:sqs":
        return answer_batch(fields, model, budget_s)
    if source == "aws:s3":
        return answer_notification(fields, model, budget_s)
    raise EventError(
        f"events of {printable(str(source))} are not answered; send those of S3, or of SQS with S3's in them"
    )


def answer_http(event: Event, model: Model, budget_s: float) -> dict[str, Any]:
    """Answer an HTTP request that came as an event; whatever is wrong with it is a 4xx with a JSON body."""
    context = event["requestContext"]
    is_balanced = "elb" in context
    http = context.get("http")
    method = http.get("method") if isinstance(http, dict) else event.get("httpMethod")
    headers = _read_headers(event)
    if method in ("GET", "HEAD"):
        reply = _say_ready(model)
    elif method == "POST":
        body = _read_body(event, is_balanced)
        kind, formats = headers.get("content-type"), _read_formats(event)
        request = body if isinstance(body, Refusal) else read_request(body, kind, formats=formats)
        reply = write_reply(answer_request(request, model, budget_s), headers.get("accept"))
    else:
        reply = _refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"POST a photo; {str(method)[:20]} is not answered")
    if method == "HEAD":
        reply = replace(reply, body=b"")
    response = _write_response(reply, event, is_balanced)
    most = BALANCER_BYTES if is_balanced else LAMBDA_BYTES
    if (size := len(json.dumps(response))) > most:
        refusal = _refuse(
            TOO_LARGE, f"the answer would have {size} bytes, at most {most} go back; ask for less at once"
        )
        response = _write_response(refusal, event, is_balanced)
    return response


def answer_call(event: object, model: Model, budget_s: float) -> Any:
    """Answer a direct call: the JSON that an HTTP body would hold, and the caller's mistakes as error and status."""
    request = read_request(json.dumps(event), JSON_TYPE)
    reply = write_reply(answer_request(request, model, budget_s), JSON_TYPE)
    answer = json.loads(reply.body)
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise EventError(answer["error"])
    return answer if reply.status == HTTPStatus.OK else answer | {"status": reply.status}


def _read_headers(event: Event) -> dict[str, str]:
    """Return the request's headers under lower-case names; a load balancer may send them as lists alone."""
    single, many = event.get("headers"), event.get("multiValueHeaders")
    found = {name.lower(): value for name, value in (single if isinstance(single, dict) else {}).items()}
    for name, values in (many if isinstance(many, dict) else {}).items():
        found[name.lower()] = ",".join(map(str, values)) if isinstance(values, list) else values
    return found


def _read_formats(event: Event) -> list[str]:
    """Return what the address says after format=; several of a name come as a list or with commas between them."""
    single, many = event.get("queryStringParameters"), event.get("multiValueQueryStringParameters")
    found = many.get("format") if isinstance(many, dict) else None
    if found is None:
        found = single.get("format") if isinstance(single, dict) else None
    return [] if found is None else [str(one) for one in (found if isinstance(found, list) else [found])]


def _read_body(event: Event, is_balanced: bool) -> bytes | Refusal:
    text = event.get("body") or ""
    if not isinstance(text, str):
        return Refusal(BAD_REQUEST, "the event's body is no text")
    if len(text) > LAMBDA_BYTES:
        return _refuse_size(len(text), "base64 included", LAMBDA_BYTES)
    try:
        is_encoded = event.get("isBase64Encoded")
        data = base64.b64decode(text, validate=True) if is_encoded else text.encode("utf-8", "surrogatepass")
    except ValueError:
        return Refusal(BAD_REQUEST, "the event's body is not base64, though isBase64Encoded says so")
    if is_balanced and len(data) > BALANCER_BYTES:
        return _refuse_size(len(data), "through a load balancer", BALANCER_BYTES)
    return data


def _refuse_size(size: int, how: str, most: int) -> Refusal:
    return Refusal(TOO_LARGE, f"the body has {size} bytes, at most {most} are taken, {how}; put the photo on S3")


def _say_ready(model: Model) -> Reply:
    contract = model.contract
    about = {"status": "ready", "model": contract.model_fingerprint, "class_names": contract.class_names}
    return Reply(HTTPStatus.OK, json.dumps(about).encode("ascii"), JSON_TYPE)


def _refuse(status: int, message: str) -> Reply:
    return write_reply(Refusal(status, message), JSON_TYPE)


def _write_response(reply: Reply, event: Event, is_balanced: bool) -> dict[str, Any]:
    headers = {"content-type": reply.content_type}
    if reply.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = METHODS
    response = {"statusCode": int(reply.status), "body": reply.body.decode(), "isBase64Encoded": False}
    if is_balanced:
        response["statusDescription"] = f"{int(reply.status)} {reply.phrase}"
    if is_balanced and "headers" not in event:  # a target group with multi-value headers takes no others
        return response | {"multiValueHeaders": {name: [value] for name, value in headers.items()}}
    return response | {"headers": headers}
