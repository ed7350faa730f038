"""Debian's Chromium, driven by playwright, for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

QUIET = ("background-networking", "component-update", "sync", "gpu")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser without a window; skips where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which the extra dev installs")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine; on Debian: sudo apt-get install chromium")
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in QUIET)]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SMALL: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}


def find_serious(page: Any) -> list[str]:
    """What axe finds on the page that is serious or worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]
