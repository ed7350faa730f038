"""catdog serve asked by clients that know it from its interface alone: Triton's, and schemathesis."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from catdog.classifier import Classifier
from catdog.detection.detector import Detector
from catdog.serving.openapi import describe
from catdog.serving.requests import IMAGE_TYPES, MULTIPART_TYPE, NPY_TYPE
from catdog.serving.server import Settings
from tests.detectors import build_detector, draw_photo
from tests.integration.server_process import ServerProcess

Encode = Callable[..., bytes]
INFER = "/v2/models/catdog/infer"

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, which the extra dev installs")


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The tiny model, served."""
    with ServerProcess(tmp_path_factory.mktemp("clients") / "log", "--model", str(tiny_model)) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def triton(server: ServerProcess) -> Iterator[Any]:
    """NVIDIA's client of Triton."""
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http], which the extra dev installs")
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def test_triton_s_client_knows_the_server(triton: Any, tiny: Classifier) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("catdog")
    assert triton.get_server_metadata()["name"] == "catdog"
    model = triton.get_model_metadata("catdog")
    assert (model["name"], model["versions"]) == ("catdog", [tiny.sha256[:12]])
    assert {one["name"]: one["datatype"] for one in model["outputs"]} == {"probabilities": "FP32", "label": "BYTES"}


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("kind", ["BYTES", "UINT8"])
def test_triton_s_client_gets_the_answers(
    triton: Any, photo: Encode, tiny: Classifier, kind: str, is_binary: bool
) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    if kind == "BYTES":
        encoded = [photo("red"), photo("blue"), photo("grey")]
        # The client writes BYTES into JSON as text, so base64 it must be there.
        given = np.array(encoded if is_binary else [base64.b64encode(one) for one in encoded], np.object_)
    else:
        given = np.zeros((3, 20, 30, 3), np.uint8)
        given[0, :, :, 0] = given[1, :, :, 2] = 255
    tensor = InferInput("image", given.shape, kind)
    tensor.set_data_from_numpy(given, binary_data=is_binary)
    for outputs in (None, [InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "probabilities")]):
        result = triton.infer("catdog", [tensor], request_id="7", outputs=outputs)
        assert result.get_response()["id"] == "7"
        labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
        assert labels == ["cat", "dog", "unsure"]
        if kind == "BYTES":
            expected = [[*(row.probabilities or {}).values()] for row in tiny.predict(encoded)]
            np.testing.assert_array_equal(result.as_numpy("probabilities"), np.asarray(expected, np.float32))


def test_triton_s_client_is_told_what_is_wrong(triton: Any, photo: Encode) -> None:
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    given = np.array([photo("red"), b"junk"], np.object_)
    tensor = InferInput("image", given.shape, "BYTES")
    tensor.set_data_from_numpy(given)
    with pytest.raises(InferenceServerException, match=r"image\[1\]: not an image"):
        triton.infer("catdog", [tensor])


def infer(server: ServerProcess, body: object, **headers: str) -> tuple[int, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = server.http.post(INFER, content=data, headers=headers)
    assert list(response.json()) == ["error"]
    return response.status_code, response.json()["error"]


def test_tensors_that_do_not_fit_are_422(server: ServerProcess) -> None:
    good: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}
    assert server.http.post(INFER, json={"inputs": [good]}).status_code == 200
    assert server.http.post(INFER, json={"inputs": [good | {"data": [[[[1, 2, 3]]]]}]}).status_code == 200
    length = {"Inference-Header-Content-Length": "9"}
    for status, answer in (
        (400, infer(server, b"{")),
        (400, infer(server, b"{}", **length)),
        (400, infer(server, b"{}", **{"Inference-Header-Content-Length": "x"})),
        (413, infer(server, {"inputs": [good | {"shape": [101, 1, 1, 3]}]})),
        (422, infer(server, [])),
        (422, infer(server, {})),
        (422, infer(server, {"inputs": [good, good]})),
        (422, infer(server, {"inputs": [good], "id": 7})),
        (422, infer(server, {"inputs": [good], "outputs": [{"name": "x"}]})),
        (422, infer(server, {"inputs": [good], "outputs": 7})),
        (422, infer(server, {"inputs": [good], "parameters": {"binary_data_output": "yes"}})),
        (422, infer(server, {"inputs": [good | {"name": "x"}]})),
        (422, infer(server, {"inputs": [good | {"datatype": "FP32"}]})),
        (422, infer(server, {"inputs": [good | {"shape": [1, 1, 3]}]})),
        (422, infer(server, {"inputs": [good | {"shape": [2**40, 2**40, 2**40, 3]}]})),
        (422, infer(server, {"inputs": [good | {"shape": [True, 1, 1, 3]}]})),
        (422, infer(server, {"inputs": [good | {"shape": "x"}]})),
        (422, infer(server, {"inputs": [good | {"data": [1, 2]}]})),
        (422, infer(server, {"inputs": [good | {"data": [1, 2, 256]}]})),
        (422, infer(server, {"inputs": [good | {"data": [1, [2], 3]}]})),
        (422, infer(server, {"inputs": [good | {"data": ["x", 2, 3]}]})),
        (422, infer(server, {"inputs": [good | {"parameters": {"binary_data_size": 3}}]})),
        (422, infer(server, {"inputs": [good | {"parameters": 3}]})),
        (422, infer(server, {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["%"]}]})),
        (422, infer(server, {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["aGk="]}]})),
    ):
        assert answer[0] == status, answer


@schemathesis.serializer(NPY_TYPE, *IMAGE_TYPES)  # type: ignore[untyped-decorator]
def send_bytes(context: Any, value: Any) -> Any:
    """Send what was made up for a media type of bytes; schemathesis knows only some of them."""
    return getattr(value, "data", str(value).encode())


document = schemathesis.openapi.from_dict(json.loads(describe(Settings().max_body)))


@document.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_document_says_what_the_server_does(case: Any, server: ServerProcess) -> None:
    """All answers must be those that are told, well-formed bodies taken for such and others refused.

    But random bytes are no photos, and whatever a form's field holds is bytes.
    """
    excluded = [schemathesis.checks.positive_data_acceptance]
    if case.media_type == MULTIPART_TYPE:
        excluded.append(schemathesis.checks.negative_data_rejection)
    case.call_and_validate(base_url=server.url, excluded_checks=excluded)


def test_a_detector_s_answers_are_what_its_document_says(tmp_path: Path) -> None:
    """Each form in which a server gives boxes, as schemathesis and jsonschema read the document that it gives."""
    jsonschema = pytest.importorskip("jsonschema", reason="comes with schemathesis")
    (tmp_path / "heads.onnx").write_bytes(build_detector())
    draw_photo((320, 240), ("red", (40, 60, 100, 110)), ("blue", (200, 20, 280, 90))).save(tmp_path / "both.png")
    both = (tmp_path / "both.png").read_bytes()
    images = [base64.b64encode(data).decode() for data in (both, both, b"junk")]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": images[:2]}
    with ServerProcess(tmp_path / "log", "--model", str(tmp_path / "heads.onnx")) as server:
        http = server.wait_ready().http
        given = http.get("/openapi.json").json()
        png: dict[str, Any] = {"content": both, "headers": {"Content-Type": "image/png"}}
        answers = {
            "one": ("/predict", http.post("/predict", **png)),
            "many": ("/invocations", http.post("/invocations", json={"images": images})),
            "lines": ("/predict", http.post("/predict", json={"image": images[0]}, headers={"Accept": "text/csv"})),
            "sagemaker": ("/predict", http.post("/predict?format=sagemaker", **png)),
            "refused": ("/predict", http.post("/predict?explain=1", **png)),
            "tensor": (INFER, http.post(INFER, json={"inputs": [tensor]})),
            "binary": (INFER, http.post(INFER, json={"inputs": [tensor], "parameters": {"binary_data_output": True}})),
        }
        described = http.get("/v2/models/catdog")
    expected = Detector(tmp_path / "heads.onnx", threads=1).detect(both).to_dict()["objects"]
    assert [head["label"] for head in expected] == ["cat", "dog"]
    assert {name: response.status_code for name, (_, response) in answers.items() if response.status_code != 200} == {
        "refused": 400
    }
    schema = schemathesis.openapi.from_dict(given)
    for path, response in answers.values():
        schema[path]["POST"].validate_response(response)
    schema["/v2/models/catdog"]["GET"].validate_response(described)
    (output,) = answers["tensor"][1].json()["outputs"]
    assert [json.loads(text) for text in output["data"]] == [expected] * 2  # BYTES of JSON, which have a schema as well
    heads = jsonschema.Draft202012Validator(given | {"$ref": "#/components/schemas/Heads"})
    for text in output["data"]:
        heads.validate(json.loads(text))

    changes: list[Callable[[Any], object]] = [  # a document that fits everything would say nothing
        lambda answer: answer["objects"][0]["box"].pop(),
        lambda answer: answer["objects"][0].update(confidence=1.5),
        lambda answer: answer.pop("width"),
    ]
    for change in changes:
        wrong = answers["one"][1].json()
        change(wrong)
        response = httpx.Response(200, json=wrong, request=answers["one"][1].request)
        response.elapsed = timedelta(0)
        with pytest.raises(Exception, match=r"is not valid under|oneOf"):
            schema["/predict"]["POST"].validate_response(response)
