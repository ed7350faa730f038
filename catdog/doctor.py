"""catdog doctor: what is installed here, what each missing extra would bring, and on what the answers rest.

catdog doctor --json | jq .model
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, so that Ctrl-C is answered during them, too
    from catdog.start import start

    start("doctor")

import json
import math
import os
import platform
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from catdog import __version__
from catdog.edge import edge
from catdog.extras import EXTRAS, install_command
from catdog.machine import CGROUP, free_memory, usable_cores
from catdog.support import AS_OF, SUPPORT

CORE: Final = ("filelock", "numpy", "onnxruntime", "pillow", "rich", "typer")
_PACKAGES: Final = {"pillow_heif": "pillow-heif", "prometheus_client": "prometheus-client", "yaml": "pyyaml"}
"""Names on PyPI, where ``import`` has others."""
_GIB: Final = 2**30

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(
    help="Say what is installed here, and what is missing.",
    epilog="""\b
Examples:
  catdog doctor
  catdog doctor --json > installation.json

Exit codes: 0 said, also where something is missing, 2 the embedded model can't be used.
""",
)
@edge("catdog doctor")
def main(as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False) -> None:
    report = examine(date.today())
    typer.echo(json.dumps(report, indent=1) if as_json else describe(report))


def examine(today: date, cgroup: Path = CGROUP) -> dict[str, Any]:
    """Return all that ``catdog doctor`` knows, ready for JSON; memory in bytes, None where the machine doesn't say.

    Raises ModelError or ContractError where the embedded model can't be used.
    """
    import onnxruntime

    from catdog.classifier import load

    classifier, free = load(), free_memory(cgroup)
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "folder": str(Path(__file__).parent),
        "packages": {name: _find_version(name) for name in CORE},
        "extras": {
            name: {
                "brings": extra.brings,
                "installed": {module: _find_version(_PACKAGES.get(module, module)) for module in extra.modules},
                "missing": [module for module in extra.modules if not _is_installed(module)],
                "install": install_command(name),
            }
            for name, extra in EXTRAS.items()
        },
        "machine": {
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(cgroup),
            "free_memory": int(free) if math.isfinite(free) else None,
            "memory_limit": _read_memory_limit(cgroup),
        },
        "providers": onnxruntime.get_available_providers(),
        "model": {
            "name": classifier.name,
            "arch": classifier.contract.arch,
            "class_names": list(classifier.contract.class_names),
            "sha256": classifier.sha256,
            "threshold": classifier.contract.threshold,
            "quality": dict(classifier.contract.quality),
        },
        "support": {
            "as_of": AS_OF.isoformat(),
            "in_use": [
                {
                    "name": one.name,
                    "used_by": one.used_by,
                    "last_day": one.last_day and one.last_day.isoformat(),
                    "days_left": one.last_day and (one.last_day - today).days,
                    "note": one.note,
                }
                for one in SUPPORT
            ],
        },
    }


def describe(report: dict[str, Any]) -> str:
    """Return the report as one screen of text."""
    machine, model, quality = report["machine"], report["model"], report["model"]["quality"]
    lines = [
        f"catdog {report['version']} in {report['folder']}",
        f"Python {report['python']} on {report['platform']}",
        "packages   " + ", ".join(f"{name} {number}" for name, number in report["packages"].items()),
        f"machine    {machine['usable_cores']} of {machine['cores']} cores, "
        + f"{_format_gib(machine['free_memory'])} memory free"
        + (f"; the container's limit is {_format_gib(machine['memory_limit'])}" if machine["memory_limit"] else ""),
        f"providers  {', '.join(report['providers'])}",
        f"model      {model['name']} ({model['arch']}), sha256 {model['sha256'][:16]}",
        f"           {quality['int8_test_accuracy']:.2%} of {quality['int8_test_photos']:,.0f} unseen photos right; "
        f'"unsure" under {model["threshold"]:.1%}',
        "",
        "extras, installed in catdog's checkout, or elsewhere by pip install 'WHEEL[NAME]'",
    ]
    for name, extra in report["extras"].items():
        missing, rest = extra["missing"], len(extra["installed"]) - len(extra["missing"])
        state = extra["install"] + (f", for {', '.join(missing)}" if rest else "") if missing else "installed"
        lines.append(f"  {name:9} {extra['brings']}: {state}")
    lines += ["", f"support by AWS, as of {report['support']['as_of']}"]
    for one in report["support"]["in_use"]:
        last, left = one["last_day"], one["days_left"]
        when = "no day named" if last is None else f"ended {last}" if left < 0 else f"ends {last}, in {left} days"
        lines.append(f"  {one['name']}: {when}; {one['note']} ({one['used_by']})")
    return "\n".join(lines)


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _read_memory_limit(cgroup: Path) -> int | None:
    """Return the most memory that the container may take, bytes, by cgroup v2 or v1; None where there is no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < sys.maxsize // 2:  # v1 says "none" by a number near 2**63
            return int(text)
    return None


def _format_gib(size: int | None) -> str:
    return "an unknown amount of" if size is None else f"{size / _GIB:.1f} GiB"
