"""A trained model to ``model.tar.gz``: all that SageMaker's inference container needs to serve it.

    model.safetensors, model.onnx, contract.json, golden.json, code/inference.py, code/requirements.txt, code/catdog/

The same run folder and the same code give the same bytes. The archive holds the modules that ``inference.py`` imports,
found by following its imports, and no others.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catdog.classifier import Classifier
from catdog.contract import CONTRACT_NAME, WEIGHTS_NAME, Contract
from catdog.errors import ModelError, SettingsError
from catdog.files import replace_file
from catdog.serving import golden
from catdog.serving.loading import GOLDEN_NAME, ONNX_NAME, check_same_contract

ROOT: Final = Path(__file__).resolve().parents[2]
INT8_NAME: Final = "model-int8.onnx"
ONNX_CHOICES: Final = (INT8_NAME, ONNX_NAME)
"""In a run folder, the first that is there is packed: int8 is two to three times as fast on a CPU."""
REQUIREMENTS: Final = """\
# Installed by the container before it serves. Small wheels only; torch and boto3 are the container's own.
# obstore reads photos that a request names on S3; pyyaml and safetensors are for the network on a GPU.
numpy>=1.26,<3
obstore>=0.12,<1
onnxruntime>=1.20,<2
pillow>=11.3,<14
pyyaml>=6,<7
safetensors>=0.5,<1
"""
_PACKAGE: Final = "catdog"


@dataclass(frozen=True)
class Package:
    """A ``model.tar.gz`` that was written."""

    path: Path
    sha256: str
    """Of the archive, hex."""
    size_bytes: int
    contract: Contract
    onnx: str
    """Which of the run folder's ONNX files is in it."""
    files: tuple[str, ...]
    """Names in the archive, in its order."""


def build_package(run: Path, out: Path, photos: Sequence[Path] = ()) -> Package:
    """Pack a run folder (or an unpacked training job's model) as the archive ``out``.

    ``run``: contract.json, an ONNX file (ONNX_CHOICES), and model.safetensors, without which a GPU is not used.
    ``photos``: of the user's, golden ones besides the drawn ones. Raises CatdogError: no contract, no ONNX file, one
    that isn't the contract's, or a photo that can't be read.
    """
    contract = Contract.read(run / CONTRACT_NAME)
    onnx = next((run / name for name in ONNX_CHOICES if (run / name).is_file()), None)
    if onnx is None:
        raise ModelError(f"{run}: no {' or '.join(ONNX_CHOICES)}; make it with python -m export {run}")
    classifier = Classifier(onnx, threads=1)
    check_same_contract(contract, classifier)
    contents = {
        CONTRACT_NAME: (run / CONTRACT_NAME).read_bytes(),
        GOLDEN_NAME: golden.write_golden(classifier, photos).encode("utf-8"),
        ONNX_NAME: onnx.read_bytes(),
        **{f"code/{name}": data for name, data in code(ROOT).items()},
    }
    if (run / WEIGHTS_NAME).is_file():
        contents[WEIGHTS_NAME] = (run / WEIGHTS_NAME).read_bytes()
    with replace_file(out) as temporary:
        temporary.write_bytes(archive(contents))
        data = temporary.read_bytes()
    return Package(out, hashlib.sha256(data).hexdigest(), len(data), contract, onnx.name, tuple(sorted(contents)))


def code(root: Path) -> dict[str, bytes]:
    """The files below ``code/``: the handler, its requirements, and the modules of catdog that it imports."""
    handler = root / "inference.py"
    if not handler.is_file():
        raise SettingsError(f"{handler}: no such file; packing a model needs a clone of catdog, not only its wheel")
    found = {"inference.py": handler.read_bytes(), "requirements.txt": REQUIREMENTS.encode("ascii")}
    return found | {str(path.relative_to(root)): path.read_bytes() for path in imported(handler, root)}


def imported(entry: Path, root: Path) -> list[Path]:
    """The files of catdog that a file imports, directly or not, at its top or inside a function; sorted."""
    waiting, found = [entry], set[Path]()
    while waiting:
        for path in _imports(waiting.pop(), root):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return sorted(found)


def archive(contents: dict[str, bytes]) -> bytes:
    """A .tar.gz of names and bytes that depends on nothing else: sorted, of no time, owner or machine."""
    raw = io.BytesIO()
    # Without mtime and name, gzip's own header would differ from run to run.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(contents):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(contents[name]), 0o644
            tar.addfile(entry, io.BytesIO(contents[name]))
    return raw.getvalue()


def _imports(path: Path, root: Path) -> Iterator[Path]:
    """Files of catdog that one file's import statements run, packages' ``__init__.py`` among them."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] == _PACKAGE:
                yield from _files(name, root)


def _files(name: str, root: Path) -> Iterator[Path]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())
