"""make constraints: pip's report on an installation -> constraints.txt, names and exact versions only.

    python .ci/write_constraints.py report.json constraints.txt

What torch's builds for CUDA bring along is left out: it differs between machines, and torch itself names its versions.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

OF_THE_MACHINE = re.compile(r"(nvidia|cuda)-.*|triton|catdog-photos")


def main(report: str, constraints: str) -> None:
    installed = [item["metadata"] for item in json.loads(Path(report).read_text())["install"]]
    lines = sorted(
        f"{re.sub(r'[-_.]+', '-', one['name']).lower()}=={one['version'].partition('+')[0]}"
        for one in installed
        if not OF_THE_MACHINE.fullmatch(one["name"])
    )
    header = "# What the tests were run with on Python 3.11; make uses it, make constraints writes it anew.\n"
    Path(constraints).write_text(header + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
