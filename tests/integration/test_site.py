"""catdog page: the static site in a real browser, where nothing but its own files is ever asked for."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.classifier import load
from catdog.image import load_pixels
from catdog.serving import golden
from catdog.serving.site import RUNTIME_FILES
from tests.conftest import TINY_CONTRACT, UNPRIVILEGED
from tests.integration.browsers import PHONE, find_serious, open_browser
from tests.integration.site_on_loopback import answer_in_browser, load_in_browser, serve

RNG = np.random.default_rng(7)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "catdog", "page", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with the embedded model."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine, which brings onnxruntime-web")
    folder = tmp_path_factory.mktemp("site")
    done = run("--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "files" in done.stdout
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def page(site: Path, browser: Any) -> Iterator[Any]:
    """The site, opened."""
    with serve(site) as url:
        context = browser.new_context()
        opened = context.new_page()
        opened.set_default_timeout(120_000)
        opened.goto(url)
        yield opened
        context.close()


def encode(mode: str, size: tuple[int, int], **options: Any) -> bytes:
    """A PNG of noise."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = RNG.integers(0, 256, (size[1], size[0], bands), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values.squeeze() if bands == 1 else values, mode if mode != "P" else "L").save(
        buffer, "PNG", **options
    )
    return buffer.getvalue()


PNGS = {
    "RGB": encode("RGB", (640, 480)),
    "tall, the height is resized first": encode("RGB", (300, 1200)),
    "wide": encode("RGB", (1500, 100)),
    "small": encode("RGB", (31, 17)),
    "one pixel": encode("RGB", (1, 1)),
    "alpha": encode("RGBA", (333, 222)),
    "grey": encode("L", (320, 240)),
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_size": 64, "resize": "short_side", "interpolation": "bicubic", "crop": 0.875},
        {"input_size": 160, "interpolation": "lanczos", "crop": 0.9},
        {"input_size": 320, "resize": "letterbox", "task": "detect"},
        {"input_size": 75, "resize": "letterbox", "task": "detect", "interpolation": "bicubic"},
    ],
    ids=["bilinear", "bicubic", "lanczos", "letterbox", "odd letterbox"],
)
def test_pixels_of_pngs_are_equal_to_the_bit(page: Any, changes: dict[str, Any]) -> None:
    contract = TINY_CONTRACT.with_(**({"input_size": 224} | changes))
    for (name, data), found in zip(PNGS.items(), load_in_browser(page, [*PNGS.values()], contract), strict=True):
        np.testing.assert_array_equal(found, load_pixels(data, contract), err_msg=name)


def test_answers_are_those_of_catdog_predict(page: Any) -> None:
    """The probabilities of PNGs to the fourth digit: WebAssembly adds up in another order."""
    classifier = load()
    drawn = dict(golden.draw_golden())
    answers = answer_in_browser(page, [*PNGS.values(), *drawn.values(), b"no photo"])
    assert answers.pop() == {"error": "This browser can't read it as a photo. JPEG, PNG and WebP always work."}
    expected = classifier.predict([*PNGS.values(), *drawn.values()])
    for name, answer, one in zip([*PNGS, *drawn], answers, expected, strict=True):
        limit = 1e-4 if name in PNGS or name.endswith("png") else 0.01
        assert answer["label"] == one.label, name
        assert answer["probabilities"] == pytest.approx(one.probabilities, abs=limit), name
        assert (
            answer["confidence"]
            == answer["probabilities"][max(answer["probabilities"], key=answer["probabilities"].get)]
        )


def test_it_works_without_a_network_and_sends_nothing(site: Path, browser: Any) -> None:
    context = browser.new_context(**PHONE)
    page = context.new_page()
    page.set_default_timeout(120_000)
    photo = {"name": "noise.png", "mimeType": "image/png", "buffer": PNGS["RGB"]}
    with serve(site) as url:
        page.goto(url)
        assert "Photos never leave this device" in page.locator("#privacy").inner_text()
        assert page.get_by_role("link", name="API").count() == 0
        page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
        page.set_input_files("#files", photo)
        page.wait_for_selector("#now .card")
        page.wait_for_selector("[data-state=waiting]", state="detached")
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page.reload()  # the server is gone
    page.wait_for_selector("#earlier .card")
    page.set_input_files("#files", photo)
    page.wait_for_selector("#now .card")
    page.wait_for_selector("[data-state=waiting]", state="detached")
    assert page.locator("#now .label").inner_text() == page.locator("#earlier .label").inner_text()
    assert all(address.startswith((url, "blob:")) for address in asked)
    context.close()


def test_axe_finds_nothing_serious(site: Path, browser: Any) -> None:
    with serve(site) as url:
        context = browser.new_context(bypass_csp=True)
        page = context.new_page()
        page.goto(url)
        assert find_serious(page) == []
        context.close()


def test_what_it_may_do_is_written_into_the_page(site: Path) -> None:
    text = (site / "index.html").read_text()
    assert "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'" in text
    assert "unsafe-inline" not in text
    assert "docs" not in text
    worker = (site / "sw.js").read_text()
    assert "@" not in worker
    assert all(f'"{path.name}"' in worker for path in site.iterdir() if path.name != "sw.js")


def test_it_is_written_anew_but_not_over_something_else(site: Path, tmp_path: Path) -> None:
    before = (site / "sw.js").read_text()
    assert run("--out", str(site)).returncode == 0
    assert (site / "sw.js").read_text() == before
    for name in ("diary.txt", "sw.js", "NOTICE.txt"):  # a stranger's site has a service worker, too
        (folder := tmp_path / f"has {name}").mkdir()
        (folder / name).write_text("x")
        done = run("--out", str(folder))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "holds files of something else" in done.stderr
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "x"
    (tmp_path / "other" / "dist").mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / "other" / "dist" / name).write_bytes(b"another version")
    for runtime, said in (("other", "is not that of version"), ("missing", "can't be read")):
        done = run("--out", str(tmp_path / "new"), "--runtime", str(tmp_path / runtime))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert said in done.stderr
        assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_is_one_line(site: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "unwritable").mkdir(mode=0o500)
    (tmp_path / "in the way" / "model.onnx").mkdir(parents=True)
    shutil.copy(site / "NOTICE.txt", tmp_path / "in the way")
    for name, said in (
        ("file", "is a file; give a folder"),
        ("file/below", "can't be written (Not a directory)"),
        ("unwritable/site", "can't be written (Permission denied)"),
        ("unwritable", "can't be written (Permission denied)"),
        ("in the way", "model.onnx can't be written there (Is a directory)"),
    ):
        command = [*UNPRIVILEGED, sys.executable, "-m", "catdog", "page", "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert said in done.stderr
    assert (tmp_path / "file").read_text() == "x"
    assert list((tmp_path / "unwritable").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_nothing_behind_and_say_so(tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "dist").mkdir()
    for name in RUNTIME_FILES:
        os.mkfifo(tmp_path / RUNTIME_FILES[name][0])  # reading it waits for a writer
    command = [sys.executable, "-m", "catdog", "page", "--out", str(tmp_path / "new"), "--runtime", str(tmp_path)]
    runtime = tmp_path / RUNTIME_FILES["ort.js"][0]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, runtime.open("wb"):  # it is at work
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said == "catdog page: interrupted; the site is not complete; the same command writes all of it again\n"
    assert not (tmp_path / "new").exists()


def test_a_site_that_a_kill_cut_off_is_written_again(tmp_path: Path) -> None:
    for name in (".catdog.lock", ".NOTICE.txt.abcdefgh.tmp"):  # what it leaves at the very beginning
        (tmp_path / name).touch()
    assert run("--out", str(tmp_path)).returncode == 0
    for path in tmp_path.iterdir():
        if path.name not in ("NOTICE.txt", "index.html"):  # the first that are written
            path.unlink()
    assert run("--out", str(tmp_path)).returncode == 0
    assert (tmp_path / "sw.js").exists()
