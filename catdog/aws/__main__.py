"""python -m catdog.aws upload|train|tune|deploy|invoke|transform|status|ps|delete"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.edge import start

    start("aws")

from importlib import import_module
from typing import Final

from catdog.aws.app import app

__all__ = ["app"]
# Each registers its commands with ``app``; the order is that of --help.
COMMANDS: Final = ("upload", "train", "tune", "status", "deploy", "invoke", "transform", "manage")

for _name in COMMANDS:
    import_module(f"catdog.aws.{_name}")
