"""When AWS ends the support of what ``catdog aws`` runs on; a table of 2026-11-24, never asked from AWS.

A test compares the versions here with those that catdog/aws asks for.
"""

from __future__ import annotations

from datetime import date
from typing import Final, NamedTuple

AS_OF: Final = date(2026, 11, 24)


class Support(NamedTuple):
    """One thing that is in use."""

    name: str
    used_by: str
    last_day: date | None
    """After it no patches come; None where AWS names no day."""
    note: str


_DEPLOY: Final = "catdog aws deploy, transform"
_TRAIN: Final = "catdog aws train, tune"
SUPPORT: Final = (
    Support("PyTorch inference container 2.6", _DEPLOY, date(2026, 6, 30), "the newest there is"),
    Support("TorchServe, inside it", _DEPLOY, None, "in maintenance: no updates or fixes are planned"),
    Support("PyTorch training containers to 2.10", _TRAIN, date(2027, 1, 21), "2.10 is the last"),
    Support("SageMaker Python SDK 2", _TRAIN, date(2027, 7, 6), "version 3 has no PyTorch estimator"),
)
