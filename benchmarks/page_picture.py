"""The picture of the page in docs/page.jpg: catdog serve, photos of scikit-image dropped on its page, in Chromium.

python -m benchmarks.page_picture
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.integration.browsers import open_browser
from tests.integration.server_process import ServerProcess

OUT = Path(__file__).parents[1] / "docs" / "page.jpg"
SIZE = (900, 760)  # px


def main() -> None:
    """Write the picture."""
    command = [sys.executable, str(Path(__file__).with_name("demo_photos.py"))]
    photos = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    with (
        tempfile.TemporaryDirectory() as scratch,
        ServerProcess(Path(scratch, "log")) as server,
        open_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(server.wait_ready().url)
        page.set_input_files("#files", photos)
        page.wait_for_selector("#now .card img:visible")
        page.wait_for_selector("[data-state=waiting]", state="detached")
        page.get_by_role("button", name="Show where it looked").click()
        page.wait_for_timeout(500)  # the pictures fade in
        page.screenshot(path=OUT, type="jpeg", quality=90)


if __name__ == "__main__":
    main()
