"""catdog lambda package --out DIR: what AWS Lambda runs, for an image and as a zip, made without Docker.

DIR/task/           catdog, its packages for Linux on x86_64, and model/: the image's context is DIR
DIR/function.zip    the same as a zip, for a function without an image
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("lambda")

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

import typer

from catdog.edge import edge, stop_on_sigterm, write_summary
from catdog.errors import CatdogError, SettingsError
from catdog.files import check_output_folder, lock_folder, replace_file

PACKAGES: Final = ("numpy>=1.26", "obstore>=0.12", "onnxruntime>=1.20", "pillow>=11.3")
"""What the handler imports. obstore reads and writes on S3; typer and rich are for the command line alone."""
PYTHON: Final = "3.13"  # Lambda's runtime python3.13
RUNTIMES: Final = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""The Pythons that Lambda has and catdog runs on."""
OLD_RUNTIMES: Final = ("3.10", "3.11")
"""Those on Amazon Linux 2, whose glibc is 2.26, older than what onnxruntime's wheels need."""
PLATFORMS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux2014")
"""What runs on Amazon Linux 2023, whose glibc is 2.34."""
MOST_UNZIPPED: Final = 250 * 2**20  # bytes that Lambda takes of a zip; an image may have 10 GB
MOST_SENT: Final = 50 * 2**20  # bytes of a zip that goes to Lambda directly; a larger one goes through S3
TASK: Final = "task"
ZIP: Final = "function.zip"
_STAGED: Final = ".task"
_ROOT: Final = Path(__file__).resolve().parents[2]
_CONSTRAINTS: Final = _ROOT / "constraints.txt"  # in a checkout
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # the first that zip knows

_HELP: Final = """Package the handler for AWS Lambda; docs/lambda.md says how it gets there."""
_PACKAGE_HELP: Final = """Write what AWS Lambda runs: DIR/task for an image, DIR/function.zip for a function without.

Both hold catdog, the packages that the handler imports (for Linux on x86_64, whatever this machine is; in a checkout in
the versions of constraints.txt), and the model with golden photos, whose answers are checked at each start. No Docker
is needed, but pip and a package registry are.

\b
Examples:
  catdog lambda package --out build/lambda
  catdog lambda package --out build/lambda --model runs/first
  docker build --provenance=false --platform linux/amd64 -t catdog-lambda \\
    -f deploy/docker/Dockerfile.lambda build/lambda

\b
Exit codes: 0 written, 2 a bad argument or model, pip failed, or the zip would be over Lambda's 250 MB, 130 Ctrl-C,
143 SIGTERM."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@dataclass(frozen=True)
class Package:
    """What was written."""

    zip: Path
    zip_bytes: int
    unzipped_bytes: int
    is_compiled: bool
    """Whether .pyc files are in it, without which a start takes about three times as long."""


@app.callback(help=_HELP)
def _lambda() -> None:
    pass


@app.command("package", help=_PACKAGE_HELP)
@edge("catdog lambda package", advice="the folder is as it was, or lacks the zip")
def main(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write: new, empty, or written before.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help='An ONNX file, a run folder, an address of one, or "embedded".')
    ] = "embedded",
    python: Annotated[
        str, typer.Option(metavar="3.N", help=f"The Python of Lambda's runtime: {', '.join(RUNTIMES)}.")
    ] = PYTHON,
) -> None:
    with stop_on_sigterm():
        package = build_package(model, out, python)
    typer.echo(
        f"{package.zip}: {_to_mb(package.zip_bytes)}, unzipped {_to_mb(package.unzipped_bytes)} of the "
        f"{_to_mb(MOST_UNZIPPED)} that Lambda takes",
        err=True,
    )
    if package.zip_bytes > MOST_SENT:
        typer.echo(f"over {_to_mb(MOST_SENT)} it goes there through S3, as sam deploy sends it", err=True)
    if not package.is_compiled:
        typer.echo(
            f"without .pyc files, since python{python} is not on this machine: a start takes three times as long; "
            "an image gets them when it is built",
            err=True,
        )
    if python in OLD_RUNTIMES:
        typer.echo(
            f"Lambda's python{python} runs on Amazon Linux 2, whose glibc is older than these packages need; "
            f"for Lambda give --python {PYTHON}",
            err=True,
        )
    write_summary(
        {
            "zip": str(package.zip),
            "zip_bytes": package.zip_bytes,
            "unzipped_bytes": package.unzipped_bytes,
            "task": str(out / TASK),
            "python": python,
            "compiled": package.is_compiled,
        }
    )


def build_package(model: str, out: Path, python: str = PYTHON) -> Package:
    """Write the folder ``task`` and the zip; the same model, versions and code give the same bytes.

    Raises CatdogError, also where Lambda would not take the zip; ``task`` is complete then. What is interrupted leaves
    the former ``task`` and nothing of the new one.
    """
    if python not in RUNTIMES:
        raise SettingsError(f"--python {python}: give the version of a runtime of Lambda's: {', '.join(RUNTIMES)}")
    check_output_folder("--out", out, (TASK, _STAGED))
    contents = _pack_model(model)
    with lock_folder("--out", out, "catdog lambda package"):
        staged, task = out / _STAGED, out / TASK
        try:
            shutil.rmtree(staged, ignore_errors=True)
            typer.echo(f"installing the handler's packages for Python {python} on Linux, x86_64 ...", err=True)
            _install(staged, python)
            _copy_code(staged)
            for name, data in contents.items():
                (staged / "model").mkdir(exist_ok=True)
                (staged / "model" / name).write_bytes(data)
            is_compiled = _compile(staged, python)
            (out / ZIP).unlink(missing_ok=True)
            shutil.rmtree(task, ignore_errors=True)
            staged.rename(task)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        zip_bytes, unzipped_bytes = write_zip(task, out / ZIP)
        return Package(out / ZIP, zip_bytes, unzipped_bytes, is_compiled)


def write_zip(folder: Path, path: Path, most_bytes: int = MOST_UNZIPPED) -> tuple[int, int]:
    """Zip a folder, readable for everybody and always in the same way; returns the sizes, zipped and not.

    Raises SettingsError where it has more than ``most_bytes``.
    """
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    unzipped = sum(file.stat().st_size for file in found)
    if unzipped > most_bytes:
        raise SettingsError(
            f"{path}: would have {_to_mb(unzipped)} unzipped, over the {_to_mb(most_bytes)} that Lambda takes; "
            f"{folder} is complete: deploy it as an image, which may have 10 GB, or take a smaller --model"
        )
    with replace_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in found:
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _TIME)
            info.external_attr = 0o100644 << 16
            archive.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path.stat().st_size, unzipped


def _pack_model(model: str) -> dict[str, bytes]:
    """Return the files that ``loading.load_model`` reads, by their names."""
    from catdog.contract import CONTRACT_NAME  # after parsing: --help is quick
    from catdog.detection.models import load_model
    from catdog.serving.golden import write_golden
    from catdog.serving.loading import GOLDEN_NAME, ONNX_NAME

    loaded = load_model(model, threads=1)
    texts = {CONTRACT_NAME: loaded.contract.to_json(), GOLDEN_NAME: write_golden(loaded)}
    return {ONNX_NAME: loaded.data, **{name: text.encode("utf-8") for name, text in texts.items()}}


def _install(folder: Path, python: str) -> None:
    if find_spec("pip") is None:
        raise SettingsError("pip is not installed in this environment; python -m ensurepip installs it")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(folder), "--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", f"{platform}_x86_64")]
    if _CONSTRAINTS.is_file() and python != "3.10":  # for which some of these versions were never made
        command += ["--constraint", str(_CONSTRAINTS)]
    done = subprocess.run([*command, *PACKAGES], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise CatdogError(f"pip could not install what the handler imports: {(lines or ['no reason given'])[-1]}")
    for useless in (folder / "bin", *folder.rglob("tests")):  # commands with this machine's path in them; numpy's tests
        shutil.rmtree(useless, ignore_errors=True)


def _copy_code(folder: Path) -> None:
    """Copy catdog's modules; of its data, the handler needs none."""
    code = Path(__file__).parents[1]
    for path in sorted(code.rglob("*.py")):
        target = folder / "catdog" / path.relative_to(code)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _compile(folder: Path, python: str) -> bool:
    """Write .pyc files, if that Python is on this machine; Lambda's disk is read-only, so it would keep none."""
    is_this = python == f"{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = sys.executable if is_this else shutil.which(f"python{python}")
    if interpreter is None:
        return False
    options = ["-q", "-s", str(folder), "-p", "/var/task", "--invalidation-mode", "unchecked-hash"]
    return subprocess.run([interpreter, "-m", "compileall", *options, str(folder)], capture_output=True).returncode == 0


def _to_mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"
