"""make constraints: what an endpoint's container installs -> exact versions, and the hashes of their files.

    python .ci/write_pins.py constraints.txt catdog/aws/endpoint_requirements.txt

pip reports which files it would install for each Python and processor that a container may have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGES = ("numpy", "obstore", "onnxruntime", "pillow", "pyyaml", "safetensors")
"""What the handler imports. obstore is for photos on S3; pyyaml and safetensors are for the network on a GPU."""
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
PLATFORMS = (*(f"manylinux_2_{minor}" for minor in range(35, 16, -1)), "manylinux2014")  # glibc of Ubuntu 22.04: 2.35
HEADER = """\
# What an endpoint's container installs before it serves; make constraints writes it anew, from constraints.txt.
# torch and boto3 are the container's own.
"""


def find_files(constraints: str, python: str, machine: str) -> list[dict[str, Any]]:
    """Return pip's report on what it would install."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [word for platform in PLATFORMS for word in ("--platform", f"{platform}_{machine}")]
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command += ["--target", folder, "--report", str(report), "--constraint", constraints]
        subprocess.run([*command, *PACKAGES], check=True)
        return list(json.loads(report.read_text())["install"])


def main(constraints: str, pins: str) -> None:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for python, machine in product(PYTHONS, MACHINES):
        for item in find_files(constraints, python, machine):
            name = item["metadata"]["name"].lower().replace("_", "-")
            found[f"{name}=={item['metadata']['version']}"].add(
                item["download_info"]["archive_info"]["hashes"]["sha256"]
            )
    lines = [
        " \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in sorted(digests))])
        for pin, digests in sorted(found.items())
    ]
    Path(pins).write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
