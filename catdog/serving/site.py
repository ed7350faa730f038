"""catdog page: the page as a static site that answers on the visitor's own device, for any host of files.

    catdog page --out site
    python -m http.server --directory site            then open http://localhost:8000

The model runs in onnxruntime-web, which npm brings: two of its files are copied, whose contents are known.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("page")

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catdog.detection.models import load_model
from catdog.edge import edge, stop_on_sigterm
from catdog.errors import SettingsError
from catdog.files import check_output_folder, lock_folder, replace_file

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # since Python 3.11

RUNTIME: Final = "onnxruntime-web"
RUNTIME_VERSION: Final = "1.30.0"
# By their names on the site: those in the package, and their SHA-256. The .mjs becomes a .js, since not every host
# knows that it is a script.
RUNTIME_FILES: Final = {
    "ort.js": (
        "dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort.wasm": (
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
_OURS: Final = "All else is catdog, under the MIT license."
_NOTICE: Final = f"""ort.js and ort.wasm are {RUNTIME} {RUNTIME_VERSION}, (c) Microsoft Corporation, under the MIT
license: https://github.com/microsoft/onnxruntime. {_OURS}
"""
_NOTICE_NAME: Final = "NOTICE.txt"  # is written first: by what it says, a folder is known as one from here
_WORKER: Final = "sw.js"
_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'"
)
_HEAD: Final = f"""  <meta http-equiv="Content-Security-Policy" content="{_POLICY}">
  <meta name="theme-color" content="#faf9f7" media="(prefers-color-scheme: light)">
  <meta name="theme-color" content="#161514" media="(prefers-color-scheme: dark)">
  <link rel="manifest" href="manifest.webmanifest">
  <link rel="apple-touch-icon" href="icon.png">
"""
_FOR_SERVERS: Final = ('<nav aria-label="More"><a href="docs">API</a></nav>', "<noscript>")  # what the site leaves out

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(
    help="Write the page as a static site that answers on the visitor's device.",
    epilog="""\b
Examples:
  catdog page --out site
  python -m http.server --directory site                          then open http://localhost:8000
  catdog page --out site --model runs/first --runtime node_modules/onnxruntime-web

Exit codes: 0 written, 2 a bad argument, model or runtime, 130 Ctrl-C, 143 SIGTERM.
""",
)
@edge("catdog page", advice="the site is not complete; the same command writes all of it again")
def main(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to; a new folder, or one from here.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model or detector, instead of the embedded model.")
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help=f"The installed {RUNTIME} {RUNTIME_VERSION}; without it npm downloads it, once.",
        ),
    ] = None,
) -> None:
    check_output_folder("--out", out, [_NOTICE_NAME], _OURS.encode())
    with stop_on_sigterm():
        contents = collect(model, runtime)
        with lock_folder("--out", out, "catdog page"):
            for name, data in contents.items():
                _write_file(out, name, data)
    sent = sum(len(gzip.compress(data, 6)) for data in contents.values())
    typer.echo(f"{out}: {len(contents)} files, {sent / 1e6:.1f} MB for a first visit where the host compresses them")


def collect(model: str | None = None, runtime: Path | None = None) -> dict[str, bytes]:
    """Return the site's files by name, in the order in which they are to be written.

    The notice is the first, and the service worker the last, so that it never lists what isn't there yet.

    Raises ModelError, ContractError, or SettingsError where the runtime can't be had.
    """
    opened = load_model(model)
    here = files("catdog.serving")
    contents = {_NOTICE_NAME: _NOTICE.encode()}
    contents |= dict(_read_all(here.joinpath("page"))) | dict(_read_all(here.joinpath("device")))
    contents["index.html"] = _change_index(contents["index.html"].decode()).encode()
    contents |= {"model.onnx": opened.data, "contract.json": opened.contract.to_json().encode()}
    contents |= _read_runtime(runtime)
    worker = contents.pop(_WORKER).decode()
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in sorted(contents.items()))).hexdigest()
    worker = worker.replace('"@VERSION@"', json.dumps(f"catdog-{digest[:16]}"))
    worker = worker.replace('"@FILES@"', json.dumps(["./", *sorted(contents)]))
    return contents | {_WORKER: worker.encode()}


def _write_file(folder: Path, name: str, data: bytes) -> None:
    try:
        with replace_file(folder / name) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"--out {folder}: {name} can't be written there ({error.strerror})") from error


def _read_all(folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        if file.is_file():
            yield file.name, file.read_bytes()


def _change_index(text: str) -> str:
    """Return the server's page as that of a site: with a policy and a manifest, without what only a server has."""
    nav, noscript = _FOR_SERVERS
    assert nav in text
    before, _, rest = text.replace(nav, "").partition(noscript)
    return (before + rest.partition("</noscript>")[2]).replace("</head>", f"{_HEAD}</head>")


def _read_runtime(folder: Path | None) -> dict[str, bytes]:
    """Return onnxruntime-web's files; raises SettingsError where they can't be had or are others than expected."""
    source = _fill_cache() if folder is None else folder
    found = {}
    for name, (path, digest) in RUNTIME_FILES.items():
        try:
            found[name] = (source / path).read_bytes()
        except OSError as error:
            raise SettingsError(f"{source / path}: can't be read ({error.strerror}); {_advice()}") from error
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise SettingsError(f"{source / path}: is not that of version {RUNTIME_VERSION}; {_advice()}")
    return found


def _fill_cache() -> Path:
    """Return the folder in which the runtime is kept for later runs, once it is there; raises SettingsError."""
    try:
        # A RuntimeError says that there is no home.
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        kept = root / "catdog" / f"{RUNTIME}-{RUNTIME_VERSION}"
        if not all((kept / path).is_file() for path, _ in RUNTIME_FILES.values()):
            _download(kept)
        return kept
    except (OSError, RuntimeError) as error:
        raise SettingsError(
            f"{RUNTIME} can't be kept for later runs ({getattr(error, 'strerror', None) or error}); name a folder for "
            f"that by XDG_CACHE_HOME, or {_advice()}"
        ) from error


def _download(folder: Path) -> None:
    """Put the runtime's files into the folder, out of the package that npm downloads; nothing of it is run."""
    if shutil.which("npm") is None:
        raise SettingsError(f"npm is not installed, which would download {RUNTIME}; {_advice()}")
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", f"{RUNTIME}@{RUNTIME_VERSION}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        package = next(Path(scratch).glob("*.tgz"), None)
        if done.returncode or package is None:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
            raise SettingsError(f"npm could not download {RUNTIME} ({reason}); {_advice()}")
        with tarfile.open(package) as archive:
            for path, digest in RUNTIME_FILES.values():
                try:
                    member = archive.extractfile(f"package/{path}")
                except KeyError:
                    member = None
                content = member.read() if member else b""
                if hashlib.sha256(content).hexdigest() != digest:  # before it is kept for later runs
                    raise SettingsError(f"what npm gave for {RUNTIME} {RUNTIME_VERSION} isn't it; {_advice()}")
                with replace_file(folder / path) as temporary:
                    temporary.write_bytes(content)


def _advice() -> str:
    return f"install it elsewhere (npm install {RUNTIME}@{RUNTIME_VERSION}) and name its folder with --runtime"
