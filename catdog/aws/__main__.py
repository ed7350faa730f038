"""python -m catdog.aws upload|train|tune|deploy|invoke|transform|status|ps|delete"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from catdog.aws.app import app

# Each registers its commands with ``app``; the order is that of --help.
COMMANDS: Final = ("upload", "train", "tune", "status", "deploy", "invoke", "transform", "manage")

for _name in COMMANDS:
    import_module(f"catdog.aws.{_name}")

if __name__ == "__main__":
    app(prog_name="python -m catdog.aws")
