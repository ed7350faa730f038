"""inference.py's four functions, called as the toolkit calls them, on a tiny model."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import inference
from catdog.classifier import Classifier
from catdog.contract import Contract
from catdog.errors import CatdogError, ContractError, ImageError, ModelError, SettingsError
from catdog.serving import endpoint, golden, loading, open_inference
from catdog.serving.limits import MAX_PHOTOS
from catdog.serving.requests import Request, parse_prefixes, parse_request
from tests.conftest import TINY_CONTRACT, build_tiny_model

Photo = Callable[..., bytes]
Ask = Callable[..., "tuple[int, str, bytes]"]


class Context:
    """What the functions use of TorchServe's context; remembers the status."""

    def __init__(self, gpu_id: int | None = None) -> None:
        self.system_properties = {"gpu_id": gpu_id}
        self.status, self.phrase = 200, ""

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.status, self.phrase = code, phrase


@pytest.fixture(scope="module")
def golden_text(tiny: Classifier) -> str:
    """The golden photos of the tiny model."""
    return golden.write_golden(tiny)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, golden_text: str) -> Path:
    """What the toolkit unpacks of a packed tiny model."""
    (tmp_path / "contract.json").write_text(TINY_CONTRACT.to_json())
    (tmp_path / "model.onnx").write_bytes(tiny_model.read_bytes())
    (tmp_path / "golden.json").write_text(golden_text)
    return tmp_path


@pytest.fixture
def ask(tiny: Classifier) -> Ask:
    """ask(body, content_type, accept) -> status, media type, body: the toolkit's own order of calls."""

    def go(body: object, content_type: object = "image/png", accept: object = "application/json") -> Any:
        context = Context()
        answers = inference.predict_fn(inference.input_fn(body, content_type), tiny)
        data, kind = inference.output_fn(answers, accept, context)
        assert context.phrase.isascii()  # the toolkit counts its characters, and sends its bytes
        return context.status, kind, data

    return go


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def listed(*images: object) -> bytes:
    return json.dumps({"images": images}).encode()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def refused(answer: tuple[int, str, bytes]) -> tuple[int, str]:
    """The status and message of a refusal, which is one line of JSON and nothing else."""
    status, kind, body = answer
    assert kind == "application/json"
    assert b"\n" not in body
    assert b"Traceback" not in body
    (message,) = json.loads(body).values()
    assert list(json.loads(body)) == ["error"]
    return status, message


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("image/jpeg", "JPEG"),
        ("image/png", "PNG"),
        ("image/webp", "WEBP"),
        ("application/x-image", "PNG"),
        ("application/octet-stream", "BMP"),
        ("IMAGE/JPEG; q=1", "PNG"),
    ],
)
def test_one_photo_is_one_object(ask: Ask, photo: Photo, tiny: Classifier, content_type: str, kind: str) -> None:
    status, form, body = ask(photo("red", kind), content_type)
    assert (status, form) == (200, "application/json")
    assert json.loads(body) == tiny.predict(photo("red", kind)).to_dict() | {"source": "image"}
    assert body.count(b"\n") == 1


def test_json_with_one_photo_or_many(ask: Ask, photo: Photo) -> None:
    status, _, body = ask(json.dumps({"image": text(photo("blue"))}).encode(), "application/json")
    assert (status, json.loads(body)["label"]) == (200, "dog")
    wrapped = "\n".join([text(photo("red"))[:10], text(photo("red"))[10:]])
    status, _, body = ask(listed(wrapped, text(photo("grey"))), "application/json; charset=utf-8")
    assert [(row["source"], row["label"]) for row in json.loads(body)] == [
        ("images[0]", "cat"),
        ("images[1]", "unsure"),
    ]
    assert ask(listed(text(photo("red"))).decode(), "application/json")[0] == 200  # a str, as the toolkit gives it


def test_pixels(ask: Ask, photo: Photo) -> None:
    array = np.zeros((3, 20, 30, 3), np.uint8)
    array[0, :, :, 0] = array[1, :, :, 2] = 255
    for order in ("C", "F"):
        status, _, body = ask(npy(np.asarray(array, order=order)), "application/x-npy")
        assert [row["label"] for row in json.loads(body)] == ["cat", "dog", "unsure"], order
    assert status == 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ({"content-type": "x"}, "application/json"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("image/png, text/csv;q=0.5, application/jsonlines;q=0.9", "application/jsonlines"),
        ("text/csv;q=0, */*;q=0.1", "application/json"),
    ],
)
def test_the_form_is_what_accept_asks_for(ask: Ask, photo: Photo, accept: object, kind: str) -> None:
    status, form, body = ask(listed(text(photo("red")), "%"), "application/json", accept)
    assert (status, form) == (200, kind)
    rows: list[dict[str, Any]]
    if kind == "text/csv":
        rows = list(csv.DictReader(io.StringIO(body.decode())))
        assert list(rows[0]) == ["source", "label", "confidence", "cat", "dog", "error"]
    else:
        rows = json.loads(body) if kind == "application/json" else [json.loads(line) for line in body.splitlines()]
        assert list(rows[0]) == ["source", "label", "confidence", "probabilities", "error"]
    assert [row["label"] or None for row in rows] == ["cat", None]
    assert rows[1]["error"].startswith("images[1]: is neither base64 nor")


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/json;q=0", "application/json;q=x", ";;,"])
def test_another_form_is_406(ask: Ask, photo: Photo, accept: str) -> None:
    status, message = refused(ask(photo("red"), "image/png", accept))
    assert (status, "application/jsonlines" in message) == (406, True)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/csv", "image/svg+xml", "", "  ", None, {"content-type": "x"}]
)
def test_another_media_type_is_415(ask: Ask, photo: Photo, content_type: object) -> None:
    assert refused(ask(photo("red"), content_type))[0] == 415


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "image/jpeg"),
        (None, "image/jpeg"),
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"9" * 5000, "application/json"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b'"aGVsbG8="', "application/json"),
        (b'{"images": []}', "application/json"),
        (b'{"images": "aGVsbG8="}', "application/json"),
        (b'{"image": ["aGVsbG8="]}', "application/json"),
        (b'{"image": null}', "application/json"),
        (b'{"image": "", "threshold": 1}', "application/json"),
        (b'{"image": "/etc/passwd"}', "application/json"),
        (b'{"image": "file:///etc/passwd"}', "application/json"),
        (b'{"image": "http://169.254.169.254/latest/meta-data"}', "application/json"),
        (b'{"image": "s3://bucket/cat.jpg"}', "application/json"),
        (b"x", "application/x-npy"),
        (b"PK\x03\x04", "application/x-npy"),
        (b"\x93NUMPY", "application/x-npy"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "application/x-npy"),
        (b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16, "application/x-npy"),
    ],
)
def test_nonsense_is_400(ask: Ask, body: bytes | None, content_type: str) -> None:
    status, message = refused(ask(body, content_type))
    assert status == 400
    assert message


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"junk", "image/jpeg"),
        (b"<html>", "application/octet-stream"),
        (b'{"image": "aGVsbG8="}', "application/json"),
        (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\r\n--x--', "multipart/form-data; boundary=x"),
    ],
)
def test_what_is_no_photo_is_422(ask: Ask, body: bytes, content_type: str) -> None:
    assert refused(ask(body, content_type))[0] == 422


def test_arrays_that_are_not_photos_are_400(ask: Ask) -> None:
    def bad(array: np.ndarray[Any, Any]) -> str:
        status, message = refused(ask(npy(array), "application/x-npy"))
        assert status == 400
        return message

    assert "this is <f4 (1, 8, 8, 3)" in bad(np.zeros((1, 8, 8, 3), np.float32))
    assert "(8, 8, 3)" in bad(np.zeros((8, 8, 3), np.uint8))
    assert "(1, 8, 8, 4)" in bad(np.zeros((1, 8, 8, 4), np.uint8))
    assert "(0, 8, 8, 3)" in bad(np.zeros((0, 8, 8, 3), np.uint8))
    assert "this is |O (1,)" in bad(np.array([print], object))
    huge = io.BytesIO()  # a terabyte, says its header
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "|u1", "fortran_order": False, "shape": (9, 999_999, 99_999, 3)}
    )
    assert "the body holds 0 bytes" in refused(ask(huge.getvalue(), "application/x-npy"))[1]
    short = npy(np.zeros((2, 8, 8, 3), np.uint8))[:-1]
    assert "its header says (2, 8, 8, 3)" in refused(ask(short, "application/x-npy"))[1]


def test_too_much_is_413(ask: Ask, photo: Photo) -> None:
    many = [text(photo("red", size=(1, 1)))] * (MAX_PHOTOS + 1)
    assert refused(ask(listed(*many), "application/json"))[0] == 413
    assert refused(ask(npy(np.zeros((MAX_PHOTOS + 1, 1, 1, 3), np.uint8)), "application/x-npy"))[0] == 413
    real = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(real, "PNG")  # 200 megapixels in 25 kB
    assert refused(ask(real.getvalue()))[0] == 413
    status, _, body = ask(listed(text(real.getvalue()), text(photo("red"))), "application/json")
    assert (status, [row["label"] for row in json.loads(body)]) == (200, [None, "cat"])


def test_a_bad_photo_fails_its_item_only(ask: Ask, photo: Photo) -> None:
    good = text(photo("blue"))
    broken = text(photo("red", "JPEG")[:-300])
    items = [good, broken, 7, None, [good], "https://example.org/a.jpg", "s3://b/k", "s3://", "\ud800", good]
    status, _, body = ask(listed(*items), "application/json")
    rows = json.loads(body)
    assert status == 200
    assert [row["label"] for row in rows] == ["dog", *[None] * 8, "dog"]
    assert all(row["error"] and row["confidence"] is None for row in rows[1:-1])
    assert rows[6]["source"] == "s3://b/k"


def test_a_batch_transform_gets_an_answer_for_every_photo(
    ask: Ask, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_ANSWER_ALL", "1")  # else one bad photo fails the whole job
    status, _, body = ask(b"no photo", "image/jpeg")
    answer = json.loads(body)
    assert (status, answer["label"]) == (200, None)
    assert "not an image" in answer["error"]
    assert json.loads(ask(photo("red"), "image/png")[2])["label"] == "cat"


def test_headers_that_numpy_warns_of_are_read_in_silence() -> None:
    """In a process of its own, since pytest has its own rules for warnings."""
    good = npy(np.zeros((1, 2, 2, 3), np.uint8))
    written_by_python_2 = good.replace(b"(1, 2, 2, 3), } ", b"(1L, 2, 2, 3), }")
    hostile = good.replace(b"False", b"0in 1")
    code = f"""
from catdog.serving.requests import RequestError, parse_request
print(parse_request({written_by_python_2!r}, "application/x-npy", []).names)
try:
    parse_request({hostile!r}, "application/x-npy", [])
except RequestError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.splitlines()[0], done.stderr) == ("['images[0]']", "")
    assert "not an array in numpy's .npy format" in done.stdout


def test_a_name_that_is_not_unicode_comes_back(ask: Ask) -> None:
    status, _, body = ask(listed("s3://bucket/\ud800.jpg"), "application/json")
    assert status == 200
    assert json.loads(body)[0]["source"] == "s3://bucket/\\ud800.jpg"  # valid Unicode, as all JSON readers want it


def test_a_tensor_in_json_takes_no_more_memory_than_its_text() -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 100, 100, 3]}
    rows = [[[row, column, 7] for column in range(100)] for row in range(100)]
    for data in (rows, [rows], np.ravel(rows).tolist()):
        _, request = open_inference.read_request(json.dumps({"inputs": [tensor | {"data": data}]}).encode(), None)
        assert isinstance(request, Request)
        np.testing.assert_array_equal(request.photos[0], np.array(rows, np.uint8))
    body = json.dumps({"inputs": [tensor | {"data": ["x" * 2000, *[0] * 29_999]}]}).encode()
    tracemalloc.start()
    _, refusal = open_inference.read_request(body, None)
    assert isinstance(refusal, endpoint.Refusal)
    assert "whole numbers from 0 to 255" in refusal.message
    assert tracemalloc.get_traced_memory()[1] < 10 * len(body), "numpy would take 240 MB for these 92 kB"
    tracemalloc.stop()


def test_only_what_is_allowed_is_read_from_s3() -> None:
    allowed = parse_prefixes("s3://own/photos, s3://all")

    def source(uri: str) -> object:
        return parse_request(json.dumps({"image": uri}).encode(), "application/json", allowed).photos[0]

    for uri in ("s3://own/photos/a.jpg", "S3://own/photos/b/c.jpg", "s3://all/x"):
        assert callable(source(uri)), uri
    for uri in (
        "s3://own/photos",
        "s3://own/photos/",
        "s3://own/photos-of-others/a.jpg",
        "s3://own/other/a.jpg",
        "s3://own/photos/../other/a.jpg",
        "s3://own/photos/./../../x",
        "s3://own/photos/a\n.jpg",
        "s3://foreign/photos/a.jpg",
        "s3://own@foreign/photos/a.jpg",
        "s3:///photos/a.jpg",
        "s3://all.example.org:80/x",
        "s3://all",
    ):
        assert isinstance(source(uri), ImageError), uri
    assert not parse_prefixes("")
    with pytest.raises(SettingsError, match="CATDOG_ALLOWED_S3: photos/"):
        parse_prefixes("photos/")


def test_a_list_that_takes_too_long_is_answered_as_far_as_it_goes(tiny: Classifier, photo: Photo) -> None:
    request = Request([photo("red")] * 2, ["a", "b"], single=False)
    answers = endpoint.answer_request(request, tiny, budget_s=-1)
    assert isinstance(answers, endpoint.Answers)
    assert [row.error for row in answers.rows] == [
        f"{name}: not read within the request's -1 s; send it again, or fewer photos at once" for name in "ab"
    ]


def test_a_lack_of_memory_is_not_the_caller_s_mistake(tiny: Classifier) -> None:
    def too_large_here(deadline: float) -> bytes:
        raise ImageError("image: not enough memory to decode it", "out_of_memory")

    reply = endpoint.write_reply(endpoint.answer_request(Request([too_large_here], ["image"], True), tiny), None)
    assert (reply.status, reply.phrase) == (503, "Service Unavailable")
    assert b"not enough memory" in reply.body


def test_our_own_faults_are_500_and_logged(tiny: Classifier, photo: Photo, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Classifier):
        def probabilities(self, images: Any) -> Any:
            raise RuntimeError("a secret path")

    def forbidden(deadline: float) -> bytes:
        raise CatdogError("s3://own: no AWS credentials were found")

    model = Broken(build_tiny_model(TINY_CONTRACT.to_json()), threads=1)
    for request, said in (
        (Request([photo("red")], ["image"], True), "the endpoint failed; its log says why"),
        (Request([photo("red")] * 3, ["a", "b", "c"], False), "the endpoint failed; its log says why"),
        (Request([forbidden], ["s3://own/a"], False), "s3://own: no AWS credentials were found"),
    ):
        answer = endpoint.write_reply(endpoint.answer_request(request, model), "text/csv")
        assert refused((answer.status, answer.content_type, answer.body)) == (500, said)
    assert caplog.text.count("a secret path") >= 2


def test_a_packed_model_loads_checked_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    classifier = inference.model_fn(str(folder), Context())
    assert classifier.contract == TINY_CONTRACT
    assert "on ONNX Runtime on the CPU, 1 thread(s), 3 golden photos answered" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("contract.json", None, ContractError, "no contract could be read"),
        ("contract.json", b"{", ContractError, "not JSON"),
        (
            "contract.json",
            TINY_CONTRACT.with_(threshold=0.7).to_json().encode(),
            ContractError,
            "not that of the contr",
        ),
        ("model.onnx", None, ModelError, "can't be read"),
        ("model.onnx", b"\x08\x08junk", ModelError, "not an ONNX model"),
        ("model.onnx", build_tiny_model, ContractError, "carries no catdog contract"),
        ("golden.json", None, ModelError, "golden.json: can't be read"),
        ("golden.json", b"[1]", ModelError, "can't be understood"),
        ("golden.json", b'{"version": 1, "photos": [{"name": "a"}]}', ModelError, "can't be understood"),
        ("golden.json", b'{"version": 1, "photos": []}', ModelError, "holds no photo"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(
    folder: Path,
    name: str,
    content: Any,
    error: type[CatdogError],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content(None) if callable(content) else content)
    with pytest.raises(error, match=says):
        inference.model_fn(str(folder), Context())
    assert "catdog: the model is refused: " in caplog.text


def test_wrong_golden_answers_are_refused(folder: Path) -> None:
    packed = json.loads((folder / "golden.json").read_text())
    answers = packed["photos"][1]["probabilities"]
    for changed, says in (
        ({"cat": answers["dog"] + 0.1, "dog": answers["cat"]}, "turned.jpg is cat 0.* in golden.json"),
        ({"cat": float("nan"), "dog": 0.5}, "doesn't give the answers it was packed with"),
        ({"dog": 0.5, "wolf": 0.5}, "classes dog, wolf"),
    ):
        packed["photos"][1]["probabilities"] = changed
        (folder / "golden.json").write_text(json.dumps(packed))
        with pytest.raises(ModelError, match=says):
            loading.load_model(folder)


def test_settings_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_THREADS", "2")
    loading.load_model(folder)
    for name, value in (("CATDOG_THREADS", "many"), ("CATDOG_THREADS", "0"), ("CATDOG_ALLOWED_S3", "bucket/photos")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SettingsError, match=name):
                loading.load_model(folder)


def test_drawn_pictures_are_always_the_same() -> None:
    assert golden.draw_golden() == golden.draw_golden()
    assert sum(len(data) for _, data in golden.draw_golden()) < 200_000


def test_torch_answers_as_onnx_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The GPU's way, on torch's CPU; a real GPU is not needed to see that both give the same answers."""
    pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    from catdog.export.onnx_file import to_onnx, write_onnx
    from catdog.training.model import load_checkpoint, new_network, save_checkpoint

    torch.manual_seed(0)
    contract = Contract(class_names=("cat", "dog"), input_size=32, arch="cnn", threshold=0.5)
    save_checkpoint(tmp_path, new_network("cnn", 2), contract)
    model = load_checkpoint(tmp_path)
    contract = model.contract
    write_onnx(to_onnx(model), contract, tmp_path / "model.onnx")
    onnx = Classifier(tmp_path / "model.onnx", threads=1)
    (tmp_path / "golden.json").write_text(golden.write_golden(onnx))
    caplog.set_level(logging.INFO)
    before = torch.get_num_threads()
    try:
        answers = loading.load_model(tmp_path, "cpu")
    finally:
        torch.set_num_threads(before)
    assert "torch on cpu" in caplog.text
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    assert isinstance(answers, Classifier)
    np.testing.assert_allclose(answers.probabilities(images), onnx.probabilities(images), atol=1e-4)
    (tmp_path / "model.safetensors").unlink()
    assert type(loading.load_model(tmp_path, "cpu")) is Classifier
    assert "cpu is not used: the model was packed without model.safetensors" in caplog.text


def test_serving_brings_in_nothing_heavy() -> None:
    code = "import sys, inference; print(*{name.partition('.')[0] for name in sys.modules})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert not set(done.stdout.split()) & {"torch", "boto3", "botocore", "sagemaker", "matplotlib", "lightning", "yaml"}
