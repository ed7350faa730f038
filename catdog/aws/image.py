"""catdog aws image ADDRESS: the build context of catdog's own container, and the commands that put it into ECR."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from catdog.aws.app import app, exit_on_error, say
from catdog.aws.source_code import ROOT
from catdog.errors import SettingsError
from catdog.files import check_output_folder, lock_folder, write_text

DOCKERFILE: Final = "deploy/docker/Dockerfile"
_SENT: Final = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "catdog")
"""What the Dockerfile copies; a test compares it with what .dockerignore lets through."""
_COMMANDS: Final = "catdog-image.sh"
"""The commands, as a file; also that by which a folder is known to be written by this command."""
_ADDRESS: Final = re.compile(
    r"(?P<registry>\d{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?)/[a-z0-9._/-]+:[\w.-]{1,128}"
)

_HELP: Final = """Make catdog's own container for endpoints: Python and catdog serve, for CPUs, without torch.

Writes the build context into a folder and prints the three commands that log in to ECR, build and push. Nothing is sent
from here, and no engine is needed to write it. ADDRESS is where the image is to go: a repository of your account's ECR,
in the region of the endpoints, which aws ecr create-repository makes, and a tag. Build it again every few weeks, from a
newer checkout: that is how it gets patches.

\b
Examples:
  aws ecr create-repository --repository-name catdog
  catdog aws image 123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1
  catdog aws deploy runs/mine --image 123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1 --ttl 2h

\b
Exit codes: 0 written, 2 a bad argument, 130 Ctrl-C."""


@app.command(help=_HELP)
def image(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write: new, empty, or written before.")
    ] = Path("build/image"),
) -> None:
    with exit_on_error("image"):
        commands = list_commands(address, out)
        write_context(out, commands)
        for line in commands:
            typer.echo(line)
        say(f"next: the commands above, then catdog aws deploy MODEL --image {address}")


def write_context(out: Path, commands: Sequence[str], root: Path = ROOT) -> None:
    """Write what the engine needs, and the commands.

    Raises SettingsError if ``root`` is no checkout, or ``out`` holds other things.
    """
    for name in (DOCKERFILE, *_SENT):
        if not (root / name).exists():
            raise SettingsError(f"{root / name}: is missing; make the image from a checkout of catdog")
    check_output_folder("--out", out, (_COMMANDS,))
    with lock_folder("--out", out, "catdog aws image"):
        write_text(out / _COMMANDS, "\n".join(["set -e", *commands, ""]))
        shutil.copyfile(root / DOCKERFILE, out / "Dockerfile")
        shutil.rmtree(out / "catdog", ignore_errors=True)
        for path in _list_files(root):
            target = out / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def list_commands(address: str, context: Path) -> list[str]:
    """Return the shell commands that log in, build and push; raises SettingsError if ``address`` is none of ECR's."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise SettingsError(
            f"{address}: not an image's address in ECR, such as 123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"
        )
    registry, region = found["registry"], found["region"]
    # SageMaker takes no index of several manifests, which a build with provenance makes.
    build = f"docker build --platform linux/amd64 --provenance=false -t {address} {shlex.quote(str(context))}"
    return [
        f"aws ecr get-login-password --region {region} | docker login --username AWS --password-stdin {registry}",
        build,
        f"docker push {address}",
    ]


def _list_files(root: Path) -> Iterator[Path]:
    for name in _SENT:
        place = root / name
        yield from (
            (path for path in sorted(place.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
            if place.is_dir()
            else (place,)
        )
