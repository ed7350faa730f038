"""A loaded model: order, batches, threads, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image, features

from catdog import load
from catdog.classifier import Classifier
from catdog.errors import CatdogError, ContractError, ImageError, ModelError, SettingsError
from catdog.prediction import Prediction
from tests.conftest import FAST_CONTRACT, TINY_CONTRACT, build_fast_model, build_tiny_model

Photo = Callable[..., bytes]


def test_every_kind_of_input_gets_the_same_answer(tiny: Classifier, photo: Photo, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(photo("red"))
    kinds: list[Any] = [path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))]
    answers = tiny.predict(kinds)
    assert {answer.label for answer in answers} == {"cat"}
    assert len({answer.confidence for answer in answers}) == 1
    assert [answer.source for answer in answers] == [str(path), str(path), "<bytes>", "<PngImageFile>", "<ndarray>"]


def test_one_photo_gives_one_answer_and_a_batch_a_list(tiny: Classifier, photo: Photo) -> None:
    assert tiny.predict(photo("blue")).label == "dog"
    assert [a.label for a in tiny.predict([photo("blue")])] == ["dog"]
    assert tiny.predict([]) == []
    pixels = np.zeros((3, 20, 30, 3), np.uint8)
    pixels[1, :, :, 0] = 255
    answers = cast("list[Prediction]", tiny.predict(pixels))  # a type can't say how many dimensions an array has
    assert [a.label for a in answers] == ["unsure", "cat", "unsure"]


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_no_photo_gets_its_neighbours_answer(tiny: Classifier, photo: Photo, batch_size: int) -> None:
    """Each photo's shade says which it is; every third is broken."""
    shades = range(0, 80, 2)
    photos = [b"broken" if i % 3 == 2 else photo((shade, 0, 0)) for i, shade in enumerate(shades)]
    answers = list(tiny.stream(photos, names=map(str, shades), batch_size=batch_size))
    assert [answer.source for answer in answers] == [str(shade) for shade in shades]
    for i, (shade, answer) in enumerate(zip(shades, answers, strict=True)):
        if i % 3 == 2:
            assert answer.label is None
            assert (
                answer.error == f"{shade}: not an image that can be read; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF"
            )
        else:
            assert answer.probabilities is not None
            assert answer.probabilities["cat"] == pytest.approx(1 / (1 + np.exp(-shade / 16)), abs=1e-5)


def test_a_batch_of_nothing_but_broken_photos_is_answered(tiny: Classifier) -> None:
    assert all(answer.error for answer in tiny.predict([b"x"] * 40))


def test_stream_reads_ahead_no_more_than_two_batches(tiny: Classifier, photo: Photo) -> None:
    taken = []

    def photos() -> Any:
        for i in range(100):
            taken.append(i)
            yield photo("red")

    stream = tiny.stream(photos(), batch_size=4)
    next(stream)
    assert len(taken) == 8
    stream.close()  # type: ignore[attr-defined]


def test_stream_takes_errors_and_functions_for_photos(tiny: Classifier, photo: Photo) -> None:
    def refused() -> bytes:
        raise ImageError("b: no", "unreadable")

    answers = list(tiny.stream([lambda: photo("red"), refused, ImageError("c: no", "missing")], names="abc"))
    assert [(a.source, a.label, a.error) for a in answers] == [
        ("a", "cat", None),
        ("b", None, "b: no"),
        ("c", None, "c: no"),
    ]


def test_a_bug_in_a_function_is_not_hidden(tiny: Classifier) -> None:
    with pytest.raises(ZeroDivisionError):
        list(tiny.stream([lambda: 1 / 0], names=["a"]))


def test_an_input_of_another_type_is_one_bad_row(tiny: Classifier) -> None:
    answer = tiny.predict([42])[0]
    assert answer.error is not None
    assert "give a path" in answer.error


def test_threads_share_a_classifier(tiny: Classifier, photo: Photo) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(tiny.predict, [photo("red"), photo("blue")] * 40))
    assert [answer.label for answer in answers] == ["cat", "dog"] * 40


def test_threshold_replaces_the_contracts(tiny: Classifier, photo: Photo) -> None:
    weak = photo((8, 0, 0))  # cat with 0.62
    assert tiny.predict(weak).label == "cat"
    assert tiny.predict(weak, threshold=0.9).label == "unsure"


@pytest.mark.parametrize(
    "images",
    [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32)],
)
def test_probabilities_refuses_another_shape_or_type(tiny: Classifier, images: Any) -> None:
    with pytest.raises(ModelError, match=r"images must be uint8 \(N, 16, 16, 3\)"):
        tiny.probabilities(images)


def test_probabilities_of_no_image(tiny: Classifier) -> None:
    assert tiny.probabilities(np.empty((0, 16, 16, 3), np.uint8)).shape == (0, 2)


JSON = TINY_CONTRACT.to_json()
BAD_MODELS: dict[str, tuple[Callable[[], bytes], type[CatdogError], str]] = {
    "empty": (lambda: b"", ModelError, "not an ONNX model"),
    "junk": (lambda: b"PK\x03\x04 a pickle, perhaps", ModelError, "not an ONNX model"),
    "cut off": (lambda: build_tiny_model(JSON)[:-200], ModelError, "not an ONNX model"),
    "no contract": (lambda: build_tiny_model(None), ContractError, "carries no catdog contract"),
    "no JSON": (lambda: build_tiny_model("yes"), ContractError, "not JSON"),
    "other version": (lambda: build_tiny_model('{"version": 99}'), ContractError, "contract version 99"),
    "other size": (lambda: build_tiny_model(JSON, size=32), ModelError, "don't fit its contract"),
    "other input": (lambda: build_tiny_model(JSON, input_name="x"), ModelError, "don't fit its contract"),
    "fast, of one size": (lambda: build_tiny_model(FAST_CONTRACT.to_json()), ModelError, "don't fit its contract"),
    "other classes": (lambda: build_tiny_model(JSON, classes=3), ModelError, "don't fit its contract"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_bad_model_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    build, error, sentence = BAD_MODELS[kind]
    path = tmp_path / "bad.onnx"
    path.write_bytes(build())
    with pytest.raises(error, match=sentence) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_model_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.onnx: the model can't be read \(No such file"):
        load(tmp_path / "no.onnx")
    with pytest.raises(ModelError, match="holds no model; name an ONNX file, or a run folder of catdog train"):
        load(tmp_path)
    with pytest.raises(ModelError, match="name the run folder or an ONNX file"):
        load(tmp_path / "model.safetensors")


def test_loads_from_bytes(tiny_model: Path, photo: Photo) -> None:
    assert load(tiny_model.read_bytes()).predict(photo("red")).label == "cat"


def test_a_model_is_named_by_a_file_a_run_folder_or_the_word_embedded(
    tiny_model: Path, tmp_path: Path, photo: Photo
) -> None:
    for name in ("embedded", Path("embedded"), None):
        assert load(name).name == "the embedded model"
    (tmp_path / "model.onnx").write_bytes(tiny_model.read_bytes())
    assert load(tmp_path).name == str(tmp_path / "model.onnx")
    (tmp_path / "model-int8.onnx").write_bytes(build_tiny_model(TINY_CONTRACT.with_(threshold=0.7).to_json()))
    assert load(str(tmp_path)).contract.threshold == 0.7


def test_a_threshold_given_when_loading_counts_until_another_one_is_given(tiny_model: Path, photo: Photo) -> None:
    classifier, weak = load(tiny_model, threshold=0.9), photo((8, 0, 0))  # cat with 0.62
    assert classifier.predict(weak).label == "unsure"
    assert classifier.predict(weak, threshold=0.5).label == "cat"
    for threshold in (1.5, -0.1, float("nan")):
        with pytest.raises(SettingsError, match=r"threshold must be in \[0, 1\]"):
            load(tiny_model, threshold=threshold)
        with pytest.raises(SettingsError, match=r"threshold must be in \[0, 1\]"):
            classifier.predict(weak, threshold=threshold)


def test_a_classifier_can_be_pickled_and_copied(tiny_model: Path, tmp_path: Path, photo: Photo) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model.read_bytes())
    classifier = load(path, threshold=0.9, threads=1)
    path.unlink()  # on another machine it isn't there either
    for other in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)):
        assert other.predict([photo("red"), photo((8, 0, 0))]) == classifier.predict([photo("red"), photo((8, 0, 0))])
        assert (other.name, other.sha256) == (classifier.name, classifier.sha256)


def test_an_open_file_is_one_photo(tiny: Classifier, photo: Photo, tmp_path: Path) -> None:
    path = tmp_path / "blue.png"
    path.write_bytes(photo("blue"))
    with path.open("rb") as file:
        assert tiny.predict(file) == tiny.predict(path)
    assert tiny.predict(io.BytesIO(photo("blue"))).label == "dog"
    with path.open(encoding="latin-1") as text:
        assert "open it in binary mode" in str(tiny.predict(text).error)  # type: ignore[attr-defined]


def test_float_and_alpha_arrays_are_taken_by_a_rule(tiny: Classifier) -> None:
    red = np.zeros((20, 30, 3), np.uint8)
    red[:, :, 0] = 255
    clear = np.concatenate([red, np.zeros((20, 30, 1), np.uint8)], axis=2)
    white = np.full_like(red, 255)
    expected = tiny.predict(red).probabilities
    for kind in (np.float16, np.float32, np.float64):
        assert tiny.predict((red / 255).astype(kind)).probabilities == expected
    assert tiny.predict(clear).probabilities == tiny.predict(white).probabilities


@pytest.mark.parametrize(
    "thing",
    [None, 42, object(), [[0, 0], [0, 0]], [[[0, 0, 0]]], np.zeros(8), np.full((4, 4, 3), 1.5), np.zeros((3, 8, 8))],
    ids=["None", "number", "object", "list", "nested list", "1-d", "over 1", "channels first"],
)
def test_what_is_no_photo_gets_one_answer_that_says_what_to_give(tiny: Classifier, thing: Any) -> None:
    answer = tiny.predict(thing)
    assert isinstance(answer, Prediction)
    assert answer.label is None
    assert "give a path" in str(answer.error) or "an array must be (H, W)" in str(answer.error)


def test_a_damaged_pil_image_is_an_answer_with_an_error(tiny: Classifier) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, "AVIF")
    good, opened = buffer.getvalue(), 0
    for start in range(len(good) // 4, len(good), 16):
        try:
            image = Image.open(io.BytesIO(good[:start] + bytes(16) + good[start + 16 :]))
        except Exception:  # the damage shows in the header already
            continue
        opened += 1
        answer = tiny.predict(image)
        assert (answer.label is None) == (answer.error is not None)
    assert opened


def test_a_model_that_answers_with_nan_is_named_as_the_fault(photo: Photo) -> None:
    broken = load(build_tiny_model(TINY_CONTRACT.to_json(), weight=float("nan")))
    with pytest.raises(ModelError, match="no probabilities"):
        broken.predict(photo("red"))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_falls_back_to_the_cpu_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a wheel with CUDA meets a machine without it: the session opens, on the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ModelError, match="'CUDAExecutionProvider' could not be started"):
        load(tiny_model, provider="CUDAExecutionProvider")


def test_fast_answers_a_photo_again_where_the_smaller_one_is_not_sure(fast_model: Path, photo: Photo) -> None:
    whole, fast = load(fast_model), load(fast_model, fast=True)
    shades = [0, 255, 141, 10, 140, 200]
    photos = [photo((shade, 0, 0)) for shade in shades]
    sure = np.array(shades) >= 141  # sigmoid(141 / 64) is over 0.9, sigmoid(140 / 64) under it
    for some in (photos, [photo for photo, is_sure in zip(photos, sure, strict=True) if is_sure], photos[3:5]):
        assert [a.label for a in fast.predict(some)] == [a.label for a in whole.predict(some)]
    confidences = [a.confidence for a in fast.predict([*photos[:2], b"broken", *photos[2:]]) if a.error is None]
    expected = 1 / (1 + np.exp(-np.array(shades) / np.where(sure, 64, 16)))
    assert confidences == pytest.approx(expected, abs=1e-5)
    assert fast.predict([]) == []
    assert fast.probabilities(np.empty((0, 16, 16, 3), np.uint8)).shape == (0, 2)


def test_a_fast_answer_that_is_exactly_as_sure_as_it_has_to_be_stands(photo: Photo) -> None:
    red = photo((100, 0, 0))
    pixels = np.zeros((1, 16, 16, 3), np.uint8)
    pixels[..., 0] = 100
    classifier = load(build_fast_model(FAST_CONTRACT))
    ((confidence, _),) = classifier.answer_small(pixels, 8).tolist()
    for bound, is_small in ((confidence, True), (np.nextafter(confidence, 1), False)):
        fast = load(build_fast_model(FAST_CONTRACT.with_(fast_bound=float(bound))), fast=True)
        assert (fast.predict(red).confidence == pytest.approx(confidence, abs=1e-6)) == is_small


def test_without_fast_a_model_that_has_the_pass_answers_as_ever(
    fast_model: Path, tiny: Classifier, photo: Photo
) -> None:
    photos = [photo((shade, 0, 0)) for shade in range(0, 256, 15)]
    for ours, theirs in zip(load(fast_model).predict(photos), tiny.predict(photos), strict=True):
        assert ours.label == theirs.label
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-5)


def test_fast_is_refused_where_the_model_has_no_such_pass(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny\.onnx: has no fast pass; leave --fast out") as caught:
        load(tiny_model, fast=True)
    assert "\n" not in str(caught.value)


def test_a_fast_classifier_stays_one_when_pickled_and_refuses_other_images(fast_model: Path, photo: Photo) -> None:
    fast = load(fast_model, fast=True, threads=1)
    red = photo("red")
    assert pickle.loads(pickle.dumps(fast)).predict(red) == fast.predict(red) != load(fast_model).predict(red)
    with pytest.raises(ModelError, match=r"images must be uint8 \(N, 16, 16, 3\)"):
        fast.probabilities(np.zeros((1, 8, 8, 3), np.uint8))


def test_numbers_that_are_no_probabilities_are_found_by_the_fast_pass_too(photo: Photo) -> None:
    data = build_tiny_model(FAST_CONTRACT.to_json(), size="side", weight=float("nan"))
    with pytest.raises(ModelError, match="no probabilities"):
        load(data, fast=True).predict(photo("red"))
