"""What the server's routes take and give, as an OpenAPI document and as a page that needs nothing from elsewhere."""

from __future__ import annotations

import html
import json
from typing import Any, Final

from catdog import __version__
from catdog.serving.endpoint import CSV_TYPE, FORMS, JSON_LINES_TYPE, SAGEMAKER
from catdog.serving.limits import MAX_PHOTOS
from catdog.serving.open_inference import HEADER_LENGTH
from catdog.serving.requests import IMAGE_TYPES, JSON_TYPE, MULTIPART_TYPE, NPY_TYPE

Json = dict[str, Any]

_PHOTO: Final[Json] = {"type": "string", "description": "base64, or an s3:// address that the server allows"}
_SCHEMAS: Final[Json] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What is wrong, in a sentence."}},
    },
    "Prediction": {
        "type": "object",
        "required": ["source", "label", "confidence", "probabilities", "error"],
        "description": "The answer for one photo: either error is null, or the three before it are.",
        "properties": {
            "source": {"type": "string", "description": "The file's name, or the photo's place in the request."},
            "label": {"type": ["string", "null"], "description": "A class, or unsure."},
            "confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            "probabilities": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
            "error": {"type": ["string", "null"]},
            "heat": {
                "type": ["array", "null"],
                "description": (
                    "With explain=1: rows of how much each place of what the model saw speaks for the answer."
                ),
                "items": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
            },
            "seen": {
                "type": ["object", "null"],
                "description": (
                    "With explain=1: the model saw the middle of the photo, crop being its share of each side (resize: "
                    "stretch) or, as a square, of the shorter side (short_side)."
                ),
                "required": ["resize", "crop"],
                "properties": {
                    "resize": {"enum": ["stretch", "short_side"]},
                    "crop": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                },
            },
        },
    },
    "Detection": {
        "type": "object",
        "required": ["source", "width", "height", "objects", "error"],
        "description": "A detector's answer for one photo: either error is null, or the three before it are.",
        "properties": {
            "source": {"type": "string", "description": "The file's name, or the photo's place in the request."},
            "width": {"type": ["integer", "null"], "minimum": 1, "description": "px, of the upright photo."},
            "height": {"type": ["integer", "null"], "minimum": 1, "description": "px."},
            "objects": {"oneOf": [{"$ref": "#/components/schemas/Heads"}, {"type": "null"}]},
            "error": {"type": ["string", "null"]},
        },
    },
    "Heads": {
        "type": "array",
        "description": "The heads of cats and dogs, the surest first; empty where the photo shows none.",
        "items": {
            "type": "object",
            "required": ["label", "confidence", "box"],
            "properties": {
                "label": {"type": "string"},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                "box": {
                    "type": "array",
                    "description": "xmin, ymin, xmax, ymax: px of the upright photo, from its upper left.",
                    "items": {"type": "number", "minimum": 0},
                    "minItems": 4,
                    "maxItems": 4,
                },
            },
        },
    },
    "SageMakerDetection": {
        "type": "object",
        "required": ["prediction"],
        "description": "With format=sagemaker: what SageMaker's built-in Object Detection answers for a photo.",
        "properties": {
            "prediction": {
                "type": "array",
                "description": "Class index, confidence, and xmin, ymin, xmax, ymax as shares of the photo's sides.",
                "items": {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 6, "maxItems": 6},
            }
        },
    },
    "Status": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
    "Tensor": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": {}},
            "parameters": {"type": "object"},
        },
    },
}
_REFUSALS: Final = {
    400: "The body is not what its Content-Type says, a photo may not be read, or explain or format can't be had.",
    406: "Accept names only media types that are not written.",
    408: "The body did not arrive in time.",
    413: "The body, a photo, or the number of photos or of the JSON's items is over a limit.",
    415: "The Content-Type is not read, or there is a Content-Encoding.",
    422: "The one photo is no photo or is damaged, or a tensor does not fit.",
    429: "Too many requests are waiting; try again after Retry-After seconds.",
    500: "The server failed; its log says why.",
    503: "The server is starting, ending or busy (try again after Retry-After seconds), or has no memory left.",
    504: "The photo was not read or decoded in time.",
}


def describe(max_body: int) -> bytes:
    """Return the OpenAPI 3.1 document; ``max_body``: bytes of a request's body."""
    predict = _describe_predict(max_body)
    paths: Json = {
        "/predict": {"post": predict | {"operationId": "predict"}},
        "/invocations": {
            "post": predict | {"operationId": "invocations", "summary": "The same, where SageMaker asks for it."}
        },
        "/ping": {"get": _describe_state("ping", "Whether it takes requests; where SageMaker asks.", may_wait=True)},
        "/healthz": {"get": _describe_state("healthz", "Whether the process is alive.")},
        "/readyz": {"get": _describe_state("readyz", "Whether it takes requests.", may_wait=True)},
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Numbers for Prometheus.",
                "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {"schema": _text()}}}},
            }
        },
        "/v2": {"get": _describe_json("v2Server", "Open Inference Protocol: the server.")},
        "/v2/health/live": {"get": _describe_state("v2Live", "Open Inference Protocol: whether it is alive.")},
        "/v2/health/ready": {
            "get": _describe_state("v2Ready", "Open Inference Protocol: whether it takes requests.", may_wait=True)
        },
        "/v2/models/catdog": {
            "get": _describe_json("v2Model", "Open Inference Protocol: the model's tensors.", may_wait=True)
        },
        "/v2/models/catdog/ready": {
            "get": _describe_state("v2ModelReady", "Open Inference Protocol: whether the model answers.", may_wait=True)
        },
        "/v2/models/catdog/infer": {"post": _describe_infer()},
    }
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "catdog",
            "version": __version__,
            "summary": "Tells cats from dogs in photos, or finds their heads.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }
    return json.dumps(document, indent=1).encode()


def write_page(max_body: int) -> bytes:
    """Return the document as a page to read."""
    document = json.loads(describe(max_body))
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_write_operation(method.upper(), path, operation))
    return _PAGE.format(body="\n".join(parts), version=html.escape(__version__)).encode()


def _describe_predict(max_body: int) -> Json:
    binary: Json = {"schema": {"type": "string", "format": "binary"}}
    # Of any type: an item that isn't text gets an error of its own.
    photos = {"type": "array", "items": {"description": _PHOTO["description"]}, "minItems": 1}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    content: Json = dict.fromkeys(IMAGE_TYPES, binary) | {
        NPY_TYPE: binary,
        JSON_TYPE: {"schema": _one_of("image", _PHOTO, "images", photos)},
        MULTIPART_TYPE: {"schema": _one_of("image", {"type": "string", "format": "binary"}, "images", files)},
    }
    explain: Json = {
        "name": "explain",
        "in": "query",
        "description": f"1: answers say where the model looked, where it can. Not as {CSV_TYPE}.",
        "schema": {"enum": ["0", "1"], "default": "0"},
    }
    form: Json = {
        "name": "format",
        "in": "query",
        "description": f"{SAGEMAKER}: a detector answers one photo as SageMaker's built-in Object Detection does.",
        "schema": {"enum": [SAGEMAKER]},
    }
    ones = [_ref("Prediction"), _ref("Detection"), _ref("SageMakerDetection")]
    many = {"type": "array", "items": {"oneOf": ones[:2]}}
    answers: Json = {kind: {"schema": _text()} for kind in FORMS} | {JSON_TYPE: {"schema": {"oneOf": [*ones, many]}}}
    return {
        "summary": "Answer a photo, or many.",
        "description": (
            f"One photo as it is, or one in a field named image, is answered with one object. Up to {MAX_PHOTOS} in a "
            f"field named images are answered with a list, in which a photo that can't be read has its own error. "
            f"Accept chooses between {JSON_TYPE}, {JSON_LINES_TYPE} and {CSV_TYPE}. "
            f"A body may have {max_body:,} bytes. With explain=1 each answer in JSON says where the model looked. "
            "Whether the answers are predictions or detections is the model's to say."
        ),
        "parameters": [explain, form],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The answers.", "content": answers}} | _refuse(*_REFUSALS),
    }


def _describe_infer() -> Json:
    tensor = _SCHEMAS["Tensor"]
    flag: Json = {"type": "boolean"}
    name = {"name": {"enum": ["image"]}, "datatype": {"enum": ["BYTES", "UINT8"]}}
    given = tensor | {"properties": tensor["properties"] | name}
    parameters = {"type": "object", "properties": {"binary_data_output": flag}}
    wanted = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"enum": ["probabilities", "label", "objects"]},
            "parameters": {"type": "object", "properties": {"binary_data": flag}},
        },
    }
    asked: Json = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": parameters,
            "inputs": {"type": "array", "items": given, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": wanted},
        },
    }
    reply = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": _ref("Tensor")},
        },
    }
    content = {
        JSON_TYPE: {"schema": reply},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    header = {
        "name": HEADER_LENGTH,
        "in": "header",
        "description": "Bytes of JSON in the body, where tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "operationId": "v2Infer",
        "summary": "Open Inference Protocol: answer photos.",
        "description": (
            f"One input, image: BYTES [N], encoded photos (base64 in JSON), or UINT8 [N, H, W, 3], pixels, N being at "
            f"most {MAX_PHOTOS}. Tensors may also follow the JSON as bytes. A classifier gives probabilities and "
            "label, a detector objects: BYTES [N], each photo's heads as JSON, by the schema Heads."
        ),
        "parameters": [header],
        "requestBody": {"required": True, "content": {JSON_TYPE: {"schema": asked}}},
        "responses": {"200": {"description": "Tensors.", "content": content}}
        | _refuse(*(status for status in _REFUSALS if status != 406)),
    }


def _describe_state(name: str, summary: str, may_wait: bool = False) -> Json:
    answer = {"description": "Yes.", "content": {JSON_TYPE: {"schema": _ref("Status")}}}
    refusal = {"503": answer | {"description": "Not yet, or not any more."}} if may_wait else {}
    return {"operationId": name, "summary": summary, "responses": {"200": answer} | refusal}


def _describe_json(name: str, summary: str, may_wait: bool = False) -> Json:
    answer = {"description": "Metadata.", "content": {JSON_TYPE: {"schema": {"type": "object"}}}}
    return {"operationId": name, "summary": summary, "responses": {"200": answer} | (_refuse(503) if may_wait else {})}


def _refuse(*statuses: int) -> Json:
    content = {JSON_TYPE: {"schema": _ref("Error")}}
    retry = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return {
        str(status): {"description": _REFUSALS[status], "content": content}
        | ({"headers": retry} if status in (429, 503) else {})
        for status in statuses
    }


def _one_of(one: str, what: Json, many: str, whats: Json) -> Json:
    fields = {one: what, many: whats}
    return {
        "oneOf": [
            {"type": "object", "required": [name], "properties": {name: schema}, "additionalProperties": False}
            for name, schema in fields.items()
        ]
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _text() -> Json:
    return {"type": "string"}


def _write_operation(method: str, path: str, operation: Json) -> str:
    lines = [
        f"<section><h2><span>{method}</span> <code>{html.escape(path)}</code></h2>",
        f"<p>{html.escape(operation['summary'])} {html.escape(operation.get('description', ''))}</p>",
    ]
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"<code>{html.escape(kind)}</code>" for kind in body["content"])
        lines.append(f"<p>Takes {kinds}.</p>")
    rows = "".join(
        f"<tr><th scope=row>{status}</th><td>{html.escape(response['description'])}</td></tr>"
        for status, response in operation["responses"].items()
    )
    return "\n".join([*lines, f"<table>{rows}</table></section>"])


_PAGE: Final = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>catdog's interface</title>
<link rel=stylesheet href=style.css>
<body class=docs>
<main>
<h1>catdog {version}, its interface</h1>
<p>The same for programs: <a href=openapi.json>openapi.json</a> (OpenAPI 3.1). The <a href=./>page</a> uses it, too.</p>
<pre tabindex=0><code>curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' ADDRESS/predict
curl -F images=@cat.jpg -F images=@dog.jpg -H 'Accept: text/csv' ADDRESS/predict</code></pre>
{body}
</main>
</body>
</html>
"""
