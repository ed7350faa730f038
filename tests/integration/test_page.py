"""The page of catdog serve in a real browser: photos in by every way, cards out, and what stays."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.integration.browsers import DESKTOP, PHONE, SMALL, find_serious, open_browser
from tests.integration.server_process import ServerProcess, go_on, stop

Encode = Callable[..., bytes]


@pytest.fixture(scope="module")
def server(looking_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny model, served: red is a cat, blue a dog, grey unsure; it says where it looked."""
    with ServerProcess(tmp_path_factory.mktemp("page") / "log", "--model", str(looking_model)) as running:
        yield running.wait_ready()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as running:
        yield running


@pytest.fixture
def open_page(browser: Any, server: ServerProcess) -> Iterator[Callable[..., Any]]:
    """open_page(**options) -> the page in a browser without a past. Errors in its script fail the test."""
    contexts, errors = [], []

    def go(**options: Any) -> Any:
        contexts.append(browser.new_context(**(DESKTOP | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
        page.goto(server.url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def files(photo: Encode) -> dict[str, dict[str, Any]]:
    """Files as playwright gives them to a page."""
    contents = {
        "red.png": photo("red"),
        "blue.jpg": photo("blue", "JPEG", size=(400, 300)),
        "grey.png": photo("grey"),
        "notes.jpg": b"no photo",
        "<b>x.png": photo("red"),
    }
    return {name: {"name": name, "mimeType": "", "buffer": data} for name, data in contents.items()}


COUNT_KEPT = """count => new Promise((resolve) => {
    indexedDB.open("catdog").onsuccess = ({target}) => {
        target.result.transaction("answers").objectStore("answers").count().onsuccess = (event) => {
            target.result.close();
            resolve(event.target.result === count);
        };
    };
})"""


def give(page: Any, *chosen: dict[str, Any]) -> None:
    page.set_input_files("#files", list(chosen))


def cards(page: Any, where: str = "#now") -> list[tuple[str, str]]:
    """Name and answer of each card, once all have one."""
    page.wait_for_selector(f"{where} .card")
    page.wait_for_selector("[data-state=waiting]", state="detached")
    names = page.locator(f"{where} .card:not([hidden]) .name").all_inner_texts()
    labels = page.locator(f"{where} .card:not([hidden]) .label").all_inner_texts()
    return [(name, label.lower()) for name, label in zip(names, labels, strict=True)]


def test_photos_become_cards(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    assert page.locator("#results").is_hidden()
    give(page, *files.values())
    assert cards(page) == [
        ("red.png", "cat"),
        ("blue.jpg", "dog"),
        ("grey.png", "unsure"),
        ("notes.jpg", "no answer"),
        ("<b>x.png", "cat"),
    ]
    red = page.locator("#now .card").first
    assert red.locator(".confidence").inner_text() == ">\u00a099.9%"
    assert red.locator("dt").all_inner_texts() == ["cat", "dog"]
    assert red.locator("dd").all_inner_texts() == [">\u00a099.9%", "<\u00a00.1%"]
    assert red.locator("img").is_visible()
    grey = page.locator("#now .card").nth(2)
    assert (grey.locator(".confidence").inner_text(), grey.locator("dd").all_inner_texts()) == ("", ["50%", "50%"])
    junk = page.locator("#now .card").nth(3)
    assert junk.locator(".why").inner_text().startswith("Not an image that can be read")
    assert junk.locator("img").is_hidden()
    assert page.locator("#filters .chip").all_inner_texts() == ["All 5", "Cat 2", "Dog 1", "Unsure 1", "No answer 1"]
    page.get_by_role("button", name="Cat 2").click()
    assert cards(page) == [("red.png", "cat"), ("<b>x.png", "cat")]


def test_dropped_pasted_and_taken(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page(**PHONE)
    assert page.get_by_role("button", name="Take a picture").is_visible()
    page.set_input_files("#shot", files["red.png"])
    assert cards(page) == [("red.png", "cat")]
    # Only a real drag fills a DataTransfer in a browser; what a page can make is the same for the page.
    for kind, name in (("drop", "blue.jpg"), ("paste", "grey.png")):
        text = base64.b64encode(files[name]["buffer"]).decode()
        page.evaluate(
            """([kind, name, text]) => {
                const data = new DataTransfer();
                data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));
                const event = kind === "drop"
                    ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
                    : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
                document.body.dispatchEvent(event);
            }""",
            [kind, name, text],
        )
        page.wait_for_selector(f".name:text-is('{name}')")
    assert cards(page) == [("grey.png", "unsure"), ("blue.jpg", "dog"), ("red.png", "cat")]


def test_the_history_stays_in_the_browser(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    give(page, files["red.png"], files["notes.jpg"])
    before = cards(page)
    page.wait_for_function(COUNT_KEPT, arg=2)
    page.reload()
    assert cards(page, "#earlier") == before
    assert page.locator("#earlier img").first.is_visible()
    give(page, files["blue.jpg"])
    assert cards(page) == [("blue.jpg", "dog")]
    page.wait_for_function(COUNT_KEPT, arg=3)
    with page.expect_navigation():  # at once, so that nothing may be left to do
        page.evaluate("document.querySelector('[aria-label=\"Remove notes.jpg\"]').click(); location.reload()")
    assert cards(page, "#earlier") == [("blue.jpg", "dog"), ("red.png", "cat")]
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear all").click()
    page.wait_for_selector("#results", state="hidden")
    page.reload()
    page.wait_for_selector("#choose")
    assert page.locator(".card").count() == 0


def test_the_csv_is_that_of_catdog_predict(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    formula = files["red.png"] | {"name": '=1+"1".png'}
    give(page, files["red.png"], files["notes.jpg"], formula)
    cards(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "catdog.csv"
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    assert rows[0] == ["source", "label", "confidence", "cat", "dog", "error", "answered"]
    assert rows[1][:3] == ["red.png", "cat", "1"]
    assert rows[2][:5] == ["notes.jpg", "", "", "", ""]
    assert rows[3][0] == '\'=1+"1".png'


def test_with_the_network_cut_the_page_stays_and_says_so(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    give(page, files["red.png"], files["blue.jpg"])
    banner = page.get_by_text("The server can't be reached. 2 photos wait here and can be tried again.").first
    banner.wait_for()
    assert page.locator(".card").count() == 2
    page.context.set_offline(False)  # the browser tells the page, which goes on by itself
    assert cards(page) == [("red.png", "cat"), ("blue.jpg", "dog")]
    assert page.locator("#banner").is_hidden()
    page.route("**/predict*", lambda route: route.abort())  # the network is there, the server isn't
    give(page, files["grey.png"])
    page.get_by_text("The server can't be reached. 1 photo waits here and can be tried again.").first.wait_for()
    page.unroute("**/predict*")
    page.get_by_role("button", name="Try again").click()
    assert cards(page)[0] == ("grey.png", "unsure")


def test_progress_of_many_and_stop(open_page: Callable[..., Any], files: dict[str, Any], server: ServerProcess) -> None:
    page = open_page()
    decoders = server.decoders()
    stop(decoders)
    try:
        give(page, *[files["red.png"] | {"name": f"{i}.png"} for i in range(12)])
        page.get_by_text("0 of 12 answered").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.wait_for_selector("#results", state="hidden")
    finally:
        go_on(decoders)
    give(page, *[files["red.png"] | {"name": f"{i}.png"} for i in range(12)])
    assert len(cards(page)) == 12
    page.wait_for_selector("#progress", state="hidden")


def test_a_busy_server_is_asked_again(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    asked = []

    def refuse_once(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=429, headers={"Retry-After": "0.1"}, json={"error": "too many"})
        else:
            route.continue_()

    page.route("**/predict*", refuse_once)
    give(page, files["red.png"])
    assert cards(page) == [("red.png", "cat")]
    assert len(asked) == 2


def test_other_labels_are_shown_as_they_come(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    shares = {"cat": 0.1, "dog": 0.15, "neither": 0.75}
    answer = {"source": "x", "label": "neither", "confidence": 0.75, "probabilities": shares, "error": None}
    page.route("**/predict*", lambda route: route.fulfill(json=[answer]))
    give(page, files["red.png"])
    assert cards(page) == [("red.png", "neither")]
    assert page.locator("dt").all_inner_texts() == ["cat", "dog", "neither"]
    assert page.locator(".confidence").inner_text() == "75%"


def draw_corner(size: tuple[int, int]) -> dict[str, Any]:
    """A black photo, red in the upper right quarter."""
    photo, buffer = Image.new("RGB", size), io.BytesIO()
    photo.paste((255, 0, 0), (size[0] // 2, 0, size[0], size[1] // 2))
    photo.save(buffer, "PNG")
    return {"name": f"{size[0]}x{size[1]}.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def read_covers(page: Any, *places: tuple[float, float]) -> list[float]:
    """How much the first card's spotlight covers at places, (x, y) in [0, 1] from the upper left: 0.3 lit, 0.6 not."""
    page.wait_for_function("document.querySelector('.card canvas').width !== 300")  # which it has before it is drawn
    return [
        page.evaluate(
            """([x, y]) => {
                const canvas = document.querySelector(".card canvas");
                const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
                return canvas.getContext("2d").getImageData(...at, 1, 1).data[3] / 255;
            }""",
            place,
        )
        for place in places
    ]


@pytest.mark.parametrize("size", [(320, 240), (90, 900), (1500, 100)], ids=["usual", "tall", "panorama"])
def test_it_shows_where_the_model_looked(open_page: Callable[..., Any], size: tuple[int, int]) -> None:
    page = open_page()
    give(page, draw_corner(size))
    cards(page)
    switch = page.get_by_role("button", name="Show where it looked")
    spot = page.locator(".card canvas")
    switch.wait_for()
    assert (switch.get_attribute("aria-pressed"), spot.is_visible()) == ("false", False)
    switch.focus()
    page.keyboard.press("Space")
    assert (switch.get_attribute("aria-pressed"), spot.is_visible()) == ("true", True)
    corners = [(0.95, 0.05), (0.05, 0.05), (0.05, 0.95), (0.95, 0.95)]
    assert read_covers(page, *corners) == pytest.approx([0.3, 0.6, 0.6, 0.6], abs=0.03)
    assert page.evaluate("(img => img.naturalWidth / img.naturalHeight)(document.querySelector('.card img'))") == (
        pytest.approx(size[0] / size[1], rel=0.02)
    ), "the small picture is all of the photo"
    page.reload()
    cards(page, "#earlier")
    assert (switch.get_attribute("aria-pressed"), spot.is_visible()) == ("true", True)
    assert read_covers(page, *corners) == pytest.approx([0.3, 0.6, 0.6, 0.6], abs=0.03)
    switch.click()
    page.reload()
    cards(page, "#earlier")
    assert (switch.get_attribute("aria-pressed"), spot.is_visible()) == ("false", False)


def test_only_a_model_that_cannot_explain_ends_the_asking(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    """Another 400, of one photo, says nothing about the next."""
    page = open_page()
    asked: list[str] = []

    def refuse_once(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=400, json={"error": "red.png: something else is wrong"})
        else:
            route.continue_()

    page.route("**/predict*", refuse_once)
    for name in ("red.png", "blue.jpg"):
        give(page, files[name])
        cards(page)
    assert [url.rpartition("/")[2] for url in asked] == ["predict?explain=1"] * 2
    assert cards(page) == [("blue.jpg", "dog"), ("red.png", "no answer")]
    assert page.locator("#now .why").nth(1).inner_text() == "Something else is wrong"


def test_what_the_model_did_not_see_is_dim(open_page: Callable[..., Any]) -> None:
    page = open_page()
    answer = {"source": "x", "label": "cat", "confidence": 1, "probabilities": {"cat": 1, "dog": 0}, "error": None}
    seen = {"heat": [[1, 1], [1, 1]], "seen": {"resize": "short_side", "crop": 0.5}}
    page.route("**/predict*", lambda route: route.fulfill(json=[answer | seen]))
    give(page, draw_corner((400, 200)))
    cards(page)
    inside, outside = [(0.5, 0.5), (0.4, 0.3), (0.6, 0.7)], [(0.5, 0.2), (0.5, 0.8), (0.34, 0.5), (0.66, 0.5)]
    assert read_covers(page, *inside, *outside) == pytest.approx([0.3] * 3 + [0.6] * 4, abs=0.01)


def test_a_model_that_cannot_say_where_it_looked_leaves_the_button_out(
    browser: Any, tiny_model: Path, tmp_path: Path, files: dict[str, Any]
) -> None:
    with ServerProcess(tmp_path / "log", "--model", str(tiny_model)) as server:
        page = browser.new_page()
        page.goto(server.wait_ready().url)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
        for name in ("red.png", "blue.jpg"):
            give(page, files[name])
            cards(page)
        assert cards(page) == [("blue.jpg", "dog"), ("red.png", "cat")]
        assert asked == [f"{server.url}/predict{query}" for query in ("?explain=1", "", "")]
        assert page.get_by_role("button", name="Show where it looked").count() == 0
        page.close()


def test_by_keyboard_alone_and_with_a_screen_reader(open_page: Callable[..., Any], files: dict[str, Any]) -> None:
    page = open_page()
    page.on("filechooser", lambda chooser: chooser.set_files([files["red.png"], files["blue.jpg"]]))

    def focused() -> str:
        element = page.locator(":focus")
        return str(element.get_attribute("aria-label") or element.inner_text())

    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(focused())
    assert reached == ["Skip to the answers", "catdog", "API", "Choose photos"]
    page.keyboard.press("Enter")
    cards(page)
    assert page.get_by_role("status").inner_text() in ("red.png: cat, >\u00a099.9%", "blue.jpg: dog, >\u00a099.9%")
    page.get_by_role("button", name="Remove red.png").focus()
    page.keyboard.press("Enter")
    assert focused() == "Remove blue.jpg"
    page.keyboard.press("Space")
    assert focused() == "Choose photos"


@pytest.mark.parametrize(
    ("device", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "dark"), (SMALL, "light")]
)
def test_it_fits_and_axe_finds_nothing_serious(
    open_page: Callable[..., Any], files: dict[str, Any], device: dict[str, Any], scheme: str
) -> None:
    page = open_page(**device, color_scheme=scheme, bypass_csp=True)  # axe is a script of the test's
    assert find_serious(page) == []
    give(page, *[one | {"name": f"a name without end {i} {one['name']}"} for i, one in enumerate(files.values())])
    cards(page)
    assert find_serious(page) == []
    page.get_by_role("button", name="Show where it looked").click()
    assert find_serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
    page.goto(f"{page.url}docs")
    assert find_serious(page) == []
    for path in ("", "docs"):
        page.goto(page.url.removesuffix("docs") + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"


def test_nothing_comes_from_elsewhere(
    open_page: Callable[..., Any], server: ServerProcess, files: dict[str, Any]
) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    give(page, files["red.png"])
    cards(page)
    assert asked
    assert all(url.startswith((server.url, "blob:")) for url in asked)
    policy = server.http.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
