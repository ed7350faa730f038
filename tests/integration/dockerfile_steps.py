"""A Dockerfile carried out without an engine: its own steps, in folders that stand for the file systems of its stages.

    image = carry_out(dockerfile, context, folder)
    subprocess.run(image.command("serve"), env=image.environment, cwd=image.root)

What a base image has is stood for by this machine's programs and an environment of this Python without any package
but pip. An absolute path in ENV, ENTRYPOINT and CMD becomes one below the stage's folder; RUN steps are not rewritten,
so they must name what they write by relative paths or variables. A word that isn't known here fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

BASES: Final = {
    "python": ("/usr/local", {}),
    "gcr.io/distroless/python3": ("/usr", {}),
    "public.ecr.aws/lambda/python": ("/var/lang", {"LAMBDA_TASK_ROOT": "/var/task"}),
}
"""Where the base images have their Python, and variables that they set, by how their names begin."""
_WORD: Final = re.compile(r"\$\{(\w+)\}")


@dataclass
class Image:
    """What the last stage left."""

    root: Path
    """Stands for /."""
    python: str
    """The folder that has bin/python3, as the image names it."""
    variables: dict[str, str]
    """Set by ENV and the base image, as they are written."""
    workdir: str = "/"
    user: str = ""
    ports: list[int] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    copied_bytes: int = 0
    """Of the files that COPY brought: the size of the layers above the base image, if no RUN step writes."""

    def find(self, path: str) -> Path:
        """Return where a path of the image lies here."""
        return self.root / self.workdir.lstrip("/") / path if path[0] != "/" else self.root / path[1:]

    def command(self, *arguments: str) -> list[str]:
        """Return what ``docker run IMAGE ARGUMENTS`` starts."""
        return self.localise([*self.entrypoint, *(arguments or self.cmd)])

    def localise(self, words: list[str]) -> list[str]:
        return [str(self.find(word)) if word.startswith("/") else word for word in words]

    @property
    def environment(self) -> dict[str, str]:
        """What its processes see: none of this machine's variables."""
        values = self.localise(list(self.variables.values()))
        return {"PATH": f"{self.find(self.python)}/bin:/usr/bin:/bin"} | dict(zip(self.variables, values, strict=True))


def carry_out(dockerfile: Path, context: Path, folder: Path) -> Image:
    """Carry out all steps; ``folder`` gets a folder for each stage and one for the context."""
    arguments: dict[str, str] = {}
    stages: dict[str, Image] = {}
    image: Image | None = None
    sent = _send_context(dockerfile, context, folder / "context")
    for line in re.sub(r"^\s*#.*\n|\\\n", "", dockerfile.read_text(), flags=re.MULTILINE).splitlines():
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        value = _fill(rest, arguments | (image.variables if image else {}))
        if word == "ARG":
            name, _, default = value.partition("=")
            arguments[name] = default
        elif word == "FROM":
            base, _, name = value.partition(" AS ")
            image = stages[name] = _start_stage(base, folder / (name or "final"))
        elif not line:
            continue
        else:
            assert image is not None, line
            _take_step(image, word, rest if word in ("RUN", "HEALTHCHECK") else value, sent, stages)
    assert image is not None
    return image


def _fill(text: str, values: dict[str, str]) -> str:
    """Put in the variables that are known."""
    return _WORD.sub(lambda found: values.get(found[1], found[0]), text)


def _take_step(image: Image, word: str, rest: str, sent: Path, stages: dict[str, Image]) -> None:
    if word == "COPY":
        image.copied_bytes += _copy(image, rest, sent, stages)
    elif word == "RUN":
        command = re.sub(r"^(--mount=\S+\s+)+", "", rest)
        kept = {key: text for key, text in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        path = f"{image.find(image.python)}/bin:{os.environ['PATH']}"
        environment = kept | image.environment | {"PATH": path}
        subprocess.run(["sh", "-e", "-c", command], cwd=image.find("."), env=environment, check=True)
    elif word == "WORKDIR":
        image.workdir = rest
        image.find(".").mkdir(parents=True, exist_ok=True)
    elif word == "ENV":
        image.variables |= dict(pair.split("=", 1) for pair in rest.split())
    elif word == "USER":
        image.user = rest
    elif word == "EXPOSE":
        image.ports += [int(port) for port in rest.split()]
    elif word == "HEALTHCHECK":
        image.healthcheck = json.loads(rest.partition(" CMD ")[2])
    elif word == "ENTRYPOINT":
        image.entrypoint = json.loads(rest)
    elif word == "CMD":
        image.cmd = json.loads(rest)
    else:
        raise AssertionError(f"{word}: not known here")


def _send_context(dockerfile: Path, context: Path, folder: Path) -> Path:
    """Return the context as an engine gets it: without what .dockerignore leaves out."""
    ignored = context / ".dockerignore"
    if not ignored.is_file():
        return context
    from docker.utils.build import exclude_paths  # what Docker's own client for Python does

    lines = [line.strip() for line in ignored.read_text().splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    for name in sorted(exclude_paths(str(context), patterns, str(dockerfile.relative_to(context)))):
        if (context / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / name, folder / name)
    return folder


def _start_stage(base: str, root: Path) -> Image:
    python, variables = next(of for name, of in BASES.items() if base.startswith((f"{name}:", f"{name}-")))
    venv.create(root / python[1:], symlinks=True, with_pip=False)
    if base.startswith("python:"):
        (packages,) = (root / python[1:]).glob("lib/python*/site-packages")
        found = find_spec("pip")
        assert found is not None, "needs pip"
        assert found.origin is not None
        (packages / "pip").symlink_to(Path(found.origin).parent)
    return Image(root, python, dict(variables))


def _copy(image: Image, rest: str, sent: Path, stages: dict[str, Image]) -> int:
    *words, target = rest.split()
    source_image = stages[words.pop(0).removeprefix("--from=")] if words[0].startswith("--from=") else None
    place, size = image.find(target), 0
    for word in words:
        source = source_image.find(word) if source_image else sent / word
        files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
        for file in files:
            into = place / file.relative_to(source) if source.is_dir() else place
            into = into / file.name if into == place and target.endswith("/") and not source.is_dir() else into
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, into)
            size += file.stat().st_size
    return size
