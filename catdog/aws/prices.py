"""What an hour on SageMaker costs: on-demand prices from ``prices.json``, a dated table, never asked from AWS.

    hourly("ml.m5.large", "hosting", "us-east-1") -> 0.115; None where the table doesn't say
    cost("hosting", "ml.m5.large", count=2)       -> {"usd_per_hour": 0.23, "note": "us-east-1, 2026-11-21, ..."}

The table has the prices of one region. Another region's are None, not guessed: they differ by up to half.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

Kind = Literal["training", "hosting", "transform"]

GIB_MB: Final = 1024
_DECIMALS: Final = 6


@cache
def table() -> dict[str, Any]:
    """``prices.json``."""
    loaded: dict[str, Any] = json.loads(files("catdog.aws").joinpath("prices.json").read_text("utf-8"))
    return loaded


def hourly(instance_type: str, kind: Kind, region: str) -> float | None:
    """US dollars an hour of one instance; None for an instance type or a region that the table doesn't have."""
    if region != table()["region"]:
        return None
    price: float | None = table()[kind].get(instance_type)
    return price


def serverless_per_second(memory_mb: int, region: str) -> float | None:
    """US dollars a second in which a serverless endpoint of this memory answers; idle ones cost nothing."""
    if region != table()["region"]:
        return None
    return round(float(table()["serverless_per_second_and_gb"]) * memory_mb / GIB_MB, 9)


def cost(kind: Kind, instance_type: str, region: str, count: int = 1) -> dict[str, Any]:
    """The estimate that ``--dry-run`` and ``ps`` show, with the date and source of its price."""
    price = hourly(instance_type, kind, region)
    total = None if price is None else round(price * count, _DECIMALS)
    return {"usd_per_hour": total, "instances": count, "instance_type": instance_type, "note": _note(price, region)}


def serverless_cost(memory_mb: int, region: str) -> dict[str, Any]:
    """The same for a serverless endpoint."""
    price = serverless_per_second(memory_mb, region)
    return {"usd_per_hour": 0.0, "usd_per_busy_second": price, "memory_mb": memory_mb, "note": _note(price, region)}


def _note(price: float | None, region: str) -> str:
    about = table()
    if price is None:
        return f"no price of this in {region} is in catdog's table ({about['region']}, {about['as_of']})"
    return f"{about['region']}, {about['as_of']}, {about['source']}"
