"""python -m catdog.aws upload|train|tune|status|deploy|invoke|transform|ps|delete"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from catdog.aws.app import app

# Importing a module registers its commands with ``app``, so this is also the order of --help.
COMMANDS: Final = (
    *("upload", "jobs.train", "jobs.tune", "jobs.status", "endpoints.deploy"),
    *("calls.invoke", "calls.transform", "endpoints.manage"),
)

for _name in COMMANDS:
    import_module(f"catdog.aws.{_name}")

if __name__ == "__main__":
    app(prog_name="python -m catdog.aws")
