"""The picture of the page in docs/page.png: catdog serve, photos of scikit-image dropped on its page, in Chromium.

python -m benchmarks.page_picture
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.demo_photos import PHOTOS, download
from tests.integration.browsers import open_browser
from tests.integration.server_process import ServerProcess

OUT = Path(__file__).parents[1] / "docs" / "page.png"
SIZE = (1120, 700)  # px
COLOURS = 192


def main() -> None:
    """Write the picture."""
    folder = Path("build/demo")
    if not all((folder / name).is_file() for name in PHOTOS):
        download(folder)
    with (
        tempfile.TemporaryDirectory() as scratch,
        ServerProcess(Path(scratch, "log")) as server,
        open_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(server.wait_ready().url)
        page.set_input_files("#files", [str(folder / name) for name in PHOTOS])
        page.wait_for_selector("#now .card img:visible")
        page.wait_for_selector("[data-state=waiting]", state="detached")
        page.wait_for_timeout(500)  # the pictures fade in
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(COLOURS, dither=Image.Dither.FLOYDSTEINBERG).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
