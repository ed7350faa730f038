"""What SageMaker's instance types have (GPUs, processors, disks) and what an hour of them costs.

    count_processors("ml.c5.xlarge")                              -> 4
    count_gpus("ml.g5.12xlarge")                                  -> 4
    price_per_hour("ml.m5.large", "hosting", "us-east-1")         -> 0.115; None where the table doesn't say
    estimate_cost("hosting", "ml.m5.large", "us-east-1", count=2) -> {"usd_per_hour": 0.23, "note": "...", ...}

Prices are the on-demand prices in ``prices.json``, a dated table of one region; AWS is never asked. Another region's
prices are None, not guessed: they differ by up to half.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

from catdog.errors import SettingsError

PriceKind = Literal["training", "hosting", "transform"]

GIB_MB: Final = 1024
_DECIMALS: Final = 6
_TYPE: Final = re.compile(r"ml\.([a-z]+\d+[a-z0-9-]*)\.([a-z0-9]+)")
_OWN_DISK: Final = re.compile(r"[a-z]+\d+[a-z]*d[a-z]*|g5|g6e?|p5[a-z]*")
"""A d after the generation's number stands for a disk (m5d, r5dn, g4dn, p4de); some newer families go without it."""
_GPUS: Final = {
    **dict.fromkeys(("g4dn.12xlarge", "g5.12xlarge", "g5.24xlarge", "g6.12xlarge", "g6.24xlarge"), 4),
    **dict.fromkeys(("g6e.12xlarge", "g6e.24xlarge", "p3.8xlarge"), 4),
    **dict.fromkeys(("g5.48xlarge", "g6.48xlarge", "g6e.48xlarge", "p3.16xlarge", "p3dn.24xlarge"), 8),
    **dict.fromkeys(("p4d.24xlarge", "p4de.24xlarge", "p5.48xlarge", "p5e.48xlarge", "p5en.48xlarge"), 8),
}
"""Of the types that have more than one."""


def check_instance_type(instance_type: str) -> str:
    """Return ``instance_type`` if it has the form of one; raises SettingsError."""
    if not _TYPE.fullmatch(instance_type):
        raise SettingsError(f"--instance-type {instance_type}: not an instance type, such as ml.m5.large")
    return instance_type


def has_gpu(instance_type: str) -> bool:
    """Return whether the type has an NVIDIA GPU (the g and p families)."""
    return bool(re.match(r"[gp]\d", _split(instance_type)[0]))


def has_several_gpus(instance_type: str) -> bool:
    """Return whether the type has more than one GPU."""
    return count_gpus(instance_type) > 1


def count_gpus(instance_type: str) -> int:
    """Return the number of GPUs; 1 for a type with a GPU that catdog's list doesn't have."""
    return _GPUS.get(instance_type.removeprefix("ml."), int(has_gpu(instance_type)))


def has_own_disk(instance_type: str) -> bool:
    """Return whether the type's disks are its own. Their hardware encrypts them, so SageMaker refuses a volume key."""
    return bool(_OWN_DISK.fullmatch(_split(instance_type)[0]))


def count_processors(instance_type: str) -> int:
    """Return the number of vCPUs, from the size: 2 for medium and large, 4 for xlarge, 4 n for n xlarge (EC2's rule).

    Returns 1 for a size of another form.
    """
    size = _split(instance_type)[1]
    if size in ("medium", "large"):
        return 2
    factor = re.fullmatch(r"(\d*)xlarge", size)
    return 4 * int(factor[1] or 1) if factor else 1


def price_per_hour(instance_type: str, kind: PriceKind, region: str) -> float | None:
    """Return the price of one instance in US dollars, or None if the table lacks the instance type or the region."""
    if region != read_prices()["region"]:
        return None
    price: float | None = read_prices()[kind].get(instance_type)
    return price


def estimate_cost(kind: PriceKind, instance_type: str, region: str, count: int = 1) -> dict[str, Any]:
    """Return the cost of ``count`` instances, with the date and source of the price, as ``--dry-run`` shows it."""
    price = price_per_hour(instance_type, kind, region)
    total = None if price is None else round(price * count, _DECIMALS)
    note = _explain_price(price, instance_type, region)
    return {"usd_per_hour": total, "instances": count, "instance_type": instance_type, "note": note}


def estimate_serverless_cost(memory_mb: int, region: str) -> dict[str, Any]:
    """Return the cost of a serverless endpoint, which is paid by the second in which it answers."""
    prices, price = read_prices(), None
    if region == prices["region"]:
        price = round(float(prices["serverless_per_second_and_gb"]) * memory_mb / GIB_MB, 9)
    note = _explain_price(price, "serverless endpoints", region)
    return {"usd_per_hour": 0.0, "usd_per_busy_second": price, "memory_mb": memory_mb, "note": note}


@cache
def read_prices() -> dict[str, Any]:
    """Return the content of ``prices.json``."""
    prices: dict[str, Any] = json.loads(files("catdog.aws").joinpath("prices.json").read_text("utf-8"))
    return prices


def _explain_price(price: float | None, what: str, region: str) -> str:
    prices = read_prices()
    if price is None:
        return f"no price of {what} in {region} is in catdog's table ({prices['region']}, {prices['as_of']})"
    return f"{prices['region']}, {prices['as_of']}, {prices['source']}"


def _split(instance_type: str) -> tuple[str, str]:
    """Return family and size: ``ml.m5.large`` -> ("m5", "large"); empty strings for what is no instance type."""
    found = _TYPE.fullmatch(instance_type)
    return (found[1], found[2]) if found else ("", "")
