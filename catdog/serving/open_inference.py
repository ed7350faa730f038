"""The Open Inference Protocol, version 2, which clients of KServe and Triton speak: requests in, tensors out.

One input, ``image``: BYTES (N), encoded photos, or UINT8 (N, H, W, 3), pixels. A classifier has two outputs,
``probabilities`` FP32 (N, C) and ``label`` BYTES (N). A detector has one, ``objects`` BYTES (N): the JSON list of the
heads in each photo, since photos have different numbers of them. Tensors are JSON or, by the binary tensor data
extension, bytes behind the JSON. A tensor has no place for an error, so one photo that can't be read fails its request.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from catdog import __version__
from catdog.contract import Task
from catdog.detection.answers import Detection
from catdog.detection.models import Model
from catdog.serving.endpoint import Answers, Refusal
from catdog.serving.limits import MAX_PHOTOS
from catdog.serving.requests import NO_PHOTO, Request, RequestError, RequestPhoto, parse_json

MODEL_NAME: Final = "catdog"
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""Bytes of JSON in a body that has tensors behind it."""
MOST_MARKS: Final = 1_000_000
"""Of a request's JSON, whose pixels have a comma each: six photos of 224x224 px, or one of 577x577. More goes as bytes
behind the JSON. By 240 bytes it is at most 240 MB of memory (``requests.parse_json``), of numbers alone 8 MB."""
_INPUT: Final = "image"
_OUTPUTS: Final[dict[Task, tuple[str, ...]]] = {"classify": ("probabilities", "label"), "detect": ("objects",)}


@dataclass(frozen=True)
class Asked:
    """What a request wants back."""

    id: str | None = None
    outputs: Mapping[str, bool] = field(default_factory=dict)
    """Names, each with whether its tensor comes as bytes."""


class _UnfitError(Exception):
    """A request that is well-formed, but not what the model takes."""

    def __init__(self, message: str, status: int = NO_PHOTO) -> None:
        super().__init__(message)
        self.status = status


def describe_server() -> dict[str, Any]:
    """Return the server's metadata."""
    return {"name": "catdog", "version": __version__, "extensions": ["binary_tensor_data"]}


def describe_model(model: Model) -> dict[str, Any]:
    """Return the model's metadata."""
    return {
        "name": MODEL_NAME,
        "versions": [model.sha256[:12]],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": _INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.contract.class_names)]}
            if name == "probabilities"
            else {"name": name, "datatype": "BYTES", "shape": [-1]}
            for name in _OUTPUTS[model.task]
        ],
    }


def read_request(body: bytes, header_length: str | None, task: Task = "classify") -> tuple[Asked, Request | Refusal]:
    """Return the photos of a request, none of them decoded yet, and what it wants back."""
    try:
        header, tensors = _split(body, header_length)
        asked = _read_asked(header, _OUTPUTS[task])
        photos = _read_photos(header, tensors)
    except _UnfitError as error:
        return Asked(), Refusal(error.status, str(error))
    names = [f"{_INPUT}[{i}]" for i in range(len(photos))]
    return asked, Request(photos, names, single=False, all_or_none=True)


def write_reply(asked: Asked, answers: Answers | Refusal) -> tuple[int, bytes, dict[str, str]]:
    """Return a reply's status, body and headers."""
    if isinstance(answers, Refusal):
        return answers.status, json.dumps({"error": answers.message}).encode(), {"Content-Type": "application/json"}
    rows = answers.rows
    outputs, tensors = [], b""
    for name, is_binary in asked.outputs.items():
        output: dict[str, Any] = {"name": name}
        if name == "probabilities":
            output |= {"datatype": "FP32", "shape": [len(rows), len(answers.class_names)]}
            data: list[Any] = [row.to_dict()[name][label] for row in rows for label in answers.class_names]
            packed = np.asarray(data, "<f4").tobytes()
        else:
            output |= {"datatype": "BYTES", "shape": [len(rows)]}
            data = [json.dumps(row.to_dict()[name]) if isinstance(row, Detection) else str(row.label) for row in rows]
            packed = b"".join(struct.pack("<I", len(text)) + text for text in map(str.encode, data))
        if is_binary:
            output["parameters"], tensors = {"binary_data_size": len(packed)}, tensors + packed
        else:
            output["data"] = data
        outputs.append(output)
    reply = {"model_name": MODEL_NAME, "outputs": outputs} | ({} if asked.id is None else {"id": asked.id})
    header = json.dumps(reply).encode()
    if not tensors:
        return HTTPStatus.OK, header, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return HTTPStatus.OK, header + tensors, headers


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """Return a request's JSON object and the bytes behind it."""
    is_length = header_length is None or (len(header_length) <= 10 and header_length.isdecimal())
    if not is_length or (header_length is not None and int(header_length) > len(body)):
        raise _UnfitError(f"{HEADER_LENGTH} must be the number of bytes of JSON in the body", HTTPStatus.BAD_REQUEST)
    length = len(body) if header_length is None else int(header_length)
    try:
        header = parse_json(body[:length], MOST_MARKS)
    except RequestError as error:
        raise _UnfitError(str(error), error.status) from error
    if not isinstance(header, dict):
        raise _UnfitError("the JSON must be an object with inputs")
    return header, body[length:]


def _read_asked(header: Mapping[str, Any], names: Sequence[str]) -> Asked:
    name = header.get("id")
    if name is not None and not isinstance(name, str):
        raise _UnfitError("id must be text")
    is_binary = _get_flag(header, "binary_data_output", False)
    wanted = header.get("outputs", [])
    if not isinstance(wanted, list):
        raise _UnfitError("outputs must be a list")
    outputs = {}
    for one in wanted:
        if not isinstance(one, dict) or one.get("name") not in names:
            raise _UnfitError(f"outputs: the model has {' and '.join(names)}")
        outputs[one["name"]] = _get_flag(one, "binary_data", is_binary)
    return Asked(name, outputs or dict.fromkeys(names, is_binary))


def _get_flag(owner: Mapping[str, Any], name: str, default: bool) -> bool:
    parameters = owner.get("parameters", {})
    value = parameters.get(name, default) if isinstance(parameters, dict) else None
    if not isinstance(value, bool):
        raise _UnfitError(f"parameters must be an object, and {name} in it true or false")
    return value


def _read_photos(header: Mapping[str, Any], tensors: bytes) -> list[RequestPhoto]:
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _UnfitError(f"inputs must be a list of one tensor, {_INPUT}")
    given = inputs[0]
    kind, shape, parameters = given.get("datatype"), given.get("shape"), given.get("parameters", {})
    if given.get("name") != _INPUT:
        raise _UnfitError(f"inputs: the model has one, {_INPUT}")
    if not isinstance(shape, list) or not all(type(side) is int and 0 < side < 2**31 for side in shape):
        raise _UnfitError(f"{_INPUT}: shape must be a list of whole numbers above 0")
    if not isinstance(parameters, dict):
        raise _UnfitError(f"{_INPUT}: parameters must be an object")
    size = parameters.get("binary_data_size")
    if size is not None and size != len(tensors):
        raise _UnfitError(f"{_INPUT}: binary_data_size is {size!r:.50}, behind the JSON are {len(tensors)} bytes")
    is_encoded = kind == "BYTES" and len(shape) in (1, 2) and shape[1:] in ([], [1])
    if not is_encoded and (kind != "UINT8" or len(shape) != 4 or shape[3] != 3):
        takes = f"{_INPUT} must be BYTES (N), encoded photos, or UINT8 (N, H, W, 3)"
        raise _UnfitError(f"{takes}, this is {kind!r:.50} {shape!r:.50}")
    if shape[0] > MAX_PHOTOS:
        message = f"{_INPUT}: a request may be about {MAX_PHOTOS} photos, this one is about more"
        raise _UnfitError(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if is_encoded:
        photos = _unpack(tensors) if size is not None else _read_base64(given.get("data"))
        if len(photos) != shape[0]:
            raise _UnfitError(f"{_INPUT}: shape {shape}, but {len(photos)} elements")
        return [*photos]
    values = np.frombuffer(tensors, np.uint8) if size is not None else _read_numbers(given.get("data"))
    if values.size != shape[0] * shape[1] * shape[2] * shape[3]:
        raise _UnfitError(f"{_INPUT}: shape {shape}, but {values.size} values")
    return [*values.reshape(shape)]


def _unpack(tensor: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor, each of which has its length before it in 4 bytes."""
    elements: list[bytes] = []
    at = 0
    while at < len(tensor) and len(elements) <= MAX_PHOTOS:
        end = at + 4 + int.from_bytes(tensor[at : at + 4], "little")
        if at + 4 > len(tensor) or end > len(tensor):
            raise _UnfitError(f"{_INPUT}: an element is longer than what is left of the tensor")
        elements.append(tensor[at + 4 : end])
        at = end
    return elements


def _read_base64(data: Any) -> list[bytes]:
    try:
        flat = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]
        return [base64.b64decode(one, validate=True) for one in flat]
    except (TypeError, ValueError) as error:
        raise _UnfitError(f"{_INPUT}: data must be a list of base64 texts") from error


def _read_numbers(data: Any) -> npt.NDArray[np.uint8]:
    """Return a tensor's numbers one after the other, from a flat list or from lists inside each other."""
    # Not by numpy, which takes a text among numbers for the type of all, and the memory of so long a text for each.
    try:
        while isinstance(data, list) and data and isinstance(data[0], list):
            if len(set(map(len, data))) > 1:
                raise ValueError("rows of different lengths")
            data = [*chain.from_iterable(data)]
        if not isinstance(data, list):
            raise TypeError("no list")
        return np.frombuffer(bytes(data), np.uint8)
    except (TypeError, ValueError, OverflowError) as error:
        raise _UnfitError(f"{_INPUT}: data must be whole numbers from 0 to 255") from error
