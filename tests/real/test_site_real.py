"""Real photos in a browser: the page on the device sees and answers what catdog predict does.

The gates: of PNGs the same pixels to the bit; of everything else the same label and probabilities within 0.01; of a
detector the same labels, boxes within 0.5 px and confidences within 0.01. All 200 JPEGs gave the same pixels to the
bit, too (Chromium 156, Pillow 13).
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.classifier import Classifier, load
from catdog.detection.detector import Detector
from catdog.image import ORIENTATION_TAG, encode, load_pixels
from catdog.prediction import decide
from catdog.serving.site import collect
from tests.detectors import CONTRACT, build_detector
from tests.integration.browsers import open_browser
from tests.integration.site_on_loopback import answer_in_browser, check_same_heads, load_in_browser, serve
from tests.real.display_p3 import PROFILE

RealPhotos = Callable[[int], list[tuple[str, bytes]]]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load()


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str | None], Any]]:
    """open_site(model) -> the site with that model, opened."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine, which brings onnxruntime-web")
    with open_browser() as browser, ExitStack() as stack:

        def go(model: str | None) -> Any:
            folder = tmp_path_factory.mktemp("site")
            for name, data in collect(model).items():
                (folder / name).write_bytes(data)
            opened = browser.new_page()
            opened.set_default_timeout(300_000)
            opened.goto(stack.enter_context(serve(folder)))
            return opened

        yield go


@pytest.fixture(scope="module")
def page(open_site: Callable[[str | None], Any]) -> Any:
    """The site with the embedded model."""
    return open_site(None)


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Boxes around what is red or blue in 8x8 tiles of a photo: many, and most of them unsure."""
    return Detector(build_detector(CONTRACT.with_(input_size=320, threshold=0.1), grid=8))


@pytest.fixture(scope="module")
def photos(real_photos: RealPhotos) -> list[bytes]:
    """Two hundred JPEGs as people took them, cats and dogs."""
    return [data for _, data in real_photos(100)]


def check_answers(page: Any, classifier: Classifier, photos: Sequence[bytes], limit: float = 0.01) -> None:
    """The model's answers to the browser's pixels and to the core's; the model itself is compared elsewhere."""
    contract = classifier.contract
    ours = classifier.probabilities(np.stack([load_pixels(data, contract) for data in photos]))
    theirs = classifier.probabilities(np.stack(load_in_browser(page, photos, contract)))
    assert np.abs(ours - theirs).max() <= limit
    names = [str(i) for i in range(len(photos))]
    assert [row.label for row in decide(names, theirs, contract)] == [
        row.label for row in decide(names, ours, contract)
    ]


def opened(photos: Sequence[bytes], step: int) -> list[Image.Image]:
    """Every ``step``-th photo, decoded."""
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in photos[::step]]


def test_jpegs_as_they_are(page: Any, classifier: Classifier, photos: list[bytes]) -> None:
    check_answers(page, classifier, photos)


def test_pngs_are_equal_to_the_bit(page: Any, classifier: Classifier, photos: list[bytes]) -> None:
    pngs = [encode(image, "PNG", compress_level=1) for image in opened(photos, 8)]
    for data, found in zip(pngs, load_in_browser(page, pngs, classifier.contract), strict=True):
        np.testing.assert_array_equal(found, load_pixels(data, classifier.contract))


def test_the_model_in_the_browser(page: Any, classifier: Classifier, photos: list[bytes]) -> None:
    pngs = [encode(image, "PNG", compress_level=1) for image in opened(photos, 16)]
    for answer, expected in zip(answer_in_browser(page, pngs), classifier.predict(pngs), strict=True):
        assert answer["label"] == expected.label
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)


def test_boxes_in_the_browser(
    open_site: Callable[[str | None], Any], detector: Detector, photos: list[bytes], tmp_path: Path
) -> None:
    (tmp_path / "heads.onnx").write_bytes(detector.data)
    page = open_site(str(tmp_path / "heads.onnx"))
    images = opened(photos, 20)
    pngs = [encode(image, "PNG", compress_level=1) for image in images]
    for data, found in zip(pngs, load_in_browser(page, pngs, detector.contract), strict=True):
        np.testing.assert_array_equal(found, load_pixels(data, detector.contract))
    both = [*pngs, *photos[::20]]
    expected = detector.detect(both)
    assert sum(len(one.objects or ()) for one in expected) > len(both)
    for answer, one in zip(answer_in_browser(page, both), expected, strict=True):
        check_same_heads(answer, one.to_dict())


def test_turned_cmyk_and_wide_colours(page: Any, classifier: Classifier, photos: list[bytes]) -> None:
    turned = [Image.Exif() for _ in range(8)]
    for number, exif in enumerate(turned, start=1):
        exif[ORIENTATION_TAG] = number
    images = opened(photos, 12)
    check_answers(
        page, classifier, [encode(image, "JPEG", quality=90, exif=turned[i % 8]) for i, image in enumerate(images)]
    )
    check_answers(page, classifier, [encode(image.convert("CMYK"), "JPEG", quality=95) for image in images])
    check_answers(page, classifier, [encode(image, "JPEG", quality=95, icc_profile=PROFILE) for image in images])


def test_large_jpegs(page: Any, classifier: Classifier, photos: list[bytes]) -> None:
    """Pillow decodes these at a quarter of their scale, a browser in full: up to 0.02 where the model is in doubt."""
    large = [encode(image.resize((2400, 1800)), "JPEG", quality=90) for image in opened(photos, 12)[:8]]
    check_answers(page, classifier, large, limit=0.03)
