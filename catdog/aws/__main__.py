"""catdog aws upload|train|tune|status|logs|image|deploy|rollback|invoke|transform|capture|ps|delete"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("aws")

from importlib import import_module
from typing import Final

from catdog.aws.app import app

# Importing a module registers its commands with ``app``.
MODULES: Final = (
    *("upload", "jobs.train", "jobs.tune", "jobs.status"),
    *("image", "endpoints.deploy", "endpoints.rollback", "endpoints.manage", "calls.invoke", "calls.transform"),
    *("watch.capture", "watch.logs"),
)
HELP_ORDER: Final = (
    *("upload", "train", "tune", "status", "logs"),
    *("image", "deploy", "rollback", "invoke", "transform", "capture", "ps", "delete"),
)

for _name in MODULES:
    import_module(f"catdog.aws.{_name}")
app.registered_commands.sort(key=lambda command: HELP_ORDER.index(getattr(command.callback, "__name__", "")))
