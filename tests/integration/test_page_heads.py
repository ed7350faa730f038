"""A detector's answers on the page, served and as a static site: boxes over photos, and the same in words."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.detection.decoding import find_objects
from catdog.detection.detector import Detector
from catdog.image import encode
from catdog.serving.site import collect
from tests.detectors import CONTRACT, build_detector, draw_photo
from tests.integration.browsers import DESKTOP, SMALL, find_serious, open_browser
from tests.integration.server_process import ServerProcess
from tests.integration.site_on_loopback import answer_in_browser, check_same_heads, serve

TWO = encode(draw_photo((400, 300), ("red", (40, 40, 120, 140)), ("blue", (250, 170, 350, 280))), "PNG")
TALL = encode(draw_photo((150, 900), ("blue", (10, 600, 60, 660))), "PNG")
NONE = encode(draw_photo((300, 300)), "PNG")
FILES = {"two.png": TWO, "tall.png": TALL, "none.png": NONE, "broken.jpg": b"no photo"}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(build_detector(grid=2), threads=1)


@pytest.fixture(scope="module")
def model(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    path = tmp_path_factory.mktemp("model") / "heads.onnx"
    path.write_bytes(detector.data)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def site(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the static site with the detector."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine, which brings onnxruntime-web")
    folder = tmp_path_factory.mktemp("site")
    for name, data in collect(str(model)).items():
        (folder / name).write_bytes(data)
    with serve(folder) as url:
        yield url


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the detector."""
    with ServerProcess(tmp_path_factory.mktemp("page") / "log", "--model", str(model)) as running:
        yield running.wait_ready().url


@pytest.fixture
def open_page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """open_page("server", **options) -> the page in a browser without a past. Errors in its script fail the test."""
    contexts, errors = [], []

    def go(where: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**(DESKTOP | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
        page.goto(request.getfixturevalue(where))
        return page

    yield go
    for context in contexts:
        context.close()
    assert errors == []


def give_all(page: Any) -> None:
    page.set_input_files("#files", [{"name": n, "mimeType": "", "buffer": data} for n, data in FILES.items()])
    page.wait_for_selector("#now .card")
    page.wait_for_selector("[data-state=waiting]", state="detached")


def list_labels(page: Any, where: str = "#now") -> list[str]:
    labels = page.locator(f"{where} .card:not([hidden]) .label").all_inner_texts()
    return [label.lower() for label in labels]


def measure_boxes(page: Any, card: int) -> list[list[float]]:
    """The boxes of a card, as shares of where its photo is shown; the surest lies on top and is the last."""
    return list(
        page.evaluate(
            """async (number) => {
                const card = document.querySelectorAll(".card")[number];
                const image = card.querySelector("img"), boxes = [...card.querySelectorAll(".box")];
                while (boxes.length && !(image.naturalWidth && image.clientWidth && boxes[0].clientWidth)) {
                    await new Promise(requestAnimationFrame);
                }
                const frame = image.getBoundingClientRect();
                const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
                const size = [image.naturalWidth * scale, image.naturalHeight * scale];
                const corner = [frame.x + (frame.width - size[0]) / 2, frame.y + (frame.height - size[1]) / 2];
                return boxes.map((box) => {
                    const at = box.getBoundingClientRect();
                    return [at.left - corner[0], at.top - corner[1], at.right - corner[0], at.bottom - corner[1]]
                        .map((edge, i) => edge / size[i % 2]);
                });
            }""",
            card,
        )
    )


@pytest.mark.parametrize("where", ["server", "site"])
def test_boxes_lie_over_the_heads(open_page: Callable[..., Any], where: str) -> None:
    page = open_page(where)
    give_all(page)
    assert list_labels(page) == ["1 cat, 1 dog", "dog", "no pet", "no answer"]
    page.wait_for_function("[...document.images].every((image) => image.hidden || image.naturalWidth)")
    expected = [[[250 / 400, 170 / 300, 350 / 400, 280 / 300], [40 / 400, 40 / 300, 120 / 400, 140 / 300]]]
    expected += [[[10 / 150, 600 / 900, 60 / 150, 660 / 900]], [], []]
    for card, boxes in enumerate(expected):
        found = measure_boxes(page, card)
        assert len(found) == len(boxes)
        assert np.array(found) == pytest.approx(np.array(boxes), abs=0.02)
    assert page.locator(".box span").all_inner_texts() == ["dog >\u00a099.9%", "cat >\u00a099.9%", "dog >\u00a099.9%"]
    two = page.locator("#now .card").first
    assert two.locator(".heads li").all_text_contents() == [
        "cat >\u00a099.9%, upper left",
        "dog >\u00a099.9%, lower right",
    ]
    assert page.locator("#now .card").nth(1).locator(".confidence").inner_text() == ">\u00a099.9%"
    assert page.locator("#now .why").nth(3).inner_text() != ""
    assert page.get_by_role("button", name="Show where it looked").count() == 0
    assert page.locator("#filters .chip").all_inner_texts() == ["All 4", "Cat 1", "Dog 2", "No pet 1", "No answer 1"]
    page.get_by_role("button", name="Dog 2").click()
    assert list_labels(page) == ["1 cat, 1 dog", "dog"]
    page.reload()
    page.wait_for_selector("#earlier .card")
    assert list_labels(page, "#earlier") == ["1 cat, 1 dog", "dog", "no pet", "no answer"]
    page.wait_for_function("[...document.images].every((image) => image.hidden || image.naturalWidth)")
    assert np.array(measure_boxes(page, 0)) == pytest.approx(np.array(expected[0]), abs=0.02)


def test_the_csv_is_that_of_catdog_detect(open_page: Callable[..., Any]) -> None:
    page = open_page("server")
    give_all(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    assert rows[0] == [
        *("source", "width", "height", "label", "confidence"),
        *("head", "xmin", "ymin", "xmax", "ymax", "error", "answered"),
    ]
    assert [row[:10] for row in rows[1:5]] == [
        ["two.png", "400", "300", "cat", "1", "1", "40", "40", "120", "140"],
        ["two.png", "400", "300", "dog", "1", "2", "250", "170", "350", "280"],
        ["tall.png", "150", "900", "dog", "1", "1", "10", "600", "60", "660"],
        ["none.png", "300", "300", *[""] * 7],
    ]
    assert rows[5][0] == "broken.jpg"
    assert rows[5][10] != ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_small_phone_and_by_axe(open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page("server", **SMALL, color_scheme=scheme, bypass_csp=True)
    give_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    photo = page.locator("#now .photo").first.bounding_box()
    assert photo["width"] > 280, "a photo with boxes is as wide as the screen lets it"
    assert np.array(measure_boxes(page, 0))[1] == pytest.approx([0.1, 40 / 300, 0.3, 140 / 300], abs=0.02)
    assert find_serious(page) == []


def test_the_site_answers_as_the_core_does(open_page: Callable[..., Any], detector: Detector) -> None:
    """Photos of noise, in which each tile has heads of both classes that overlap."""
    rng = np.random.default_rng(5)
    sizes = [(320, 240), (33, 170), (501, 333), (1, 1)]
    noise = [encode(Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)), "PNG") for w, h in sizes]
    page = open_page("site")
    photos = [*noise, TWO, TALL, NONE]
    for found, one in zip(answer_in_browser(page, photos), detector.detect(photos), strict=True):
        check_same_heads(found, one.to_dict())
    (broken,) = answer_in_browser(page, [b"no photo"])
    assert broken == {"error": "This browser can't read it as a photo. JPEG, PNG and WebP always work."}


def test_detect_js_finds_what_decoding_finds(open_page: Callable[..., Any]) -> None:
    """Crowds of boxes of both classes, sure and unsure, that overlap, touch edges or hold nothing."""
    page = open_page("site")
    rng = np.random.default_rng(9)
    contract = CONTRACT.with_(threshold=0.3)
    for count, photo in ((0, (9, 9)), (1, (640, 480)), (60, (640, 480)), (900, (213, 1000)), (900, (30, 20))):
        middles, sides = rng.uniform(-10, 170, (count, 2)), rng.uniform(-5, 60, (count, 2))
        if count > 1:
            middles = np.round(middles / 40) * 40 + rng.normal(0, 4, (count, 2))  # heads with many boxes each
        boxes = np.concatenate([middles - sides / 2, middles + sides / 2], 1).astype(np.float32)
        scores = rng.beta(0.5, 2, (count, 2)).astype(np.float32)
        found = page.evaluate(
            """async ([boxes, scores, photo, contract]) => {
                const { findObjects } = await import("./detect.js");
                return findObjects(Float32Array.from(boxes), Float32Array.from(scores), photo, contract);
            }""",
            [boxes.ravel().tolist(), scores.ravel().tolist(), photo, json.loads(contract.to_json())],
        )
        expected = find_objects(boxes, scores, photo, contract) if count else ()
        check_same_heads(found, {"width": photo[0], "height": photo[1], "objects": [o.to_dict() for o in expected]})
