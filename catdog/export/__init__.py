"""Export a checkpoint as one ONNX file that answers as the checkpoint does, or as no file (catdog export).

Torch is on one side, ONNX Runtime on the other. Both are imported when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catdog.export.exporting import export
    from catdog.export.proof import Gates, Proof, ProofError

__all__ = ["Gates", "Proof", "ProofError", "export"]


def __getattr__(name: str) -> Any:
    # torch and onnx take seconds, which --help and a mistyped option need not wait for.
    if name not in __all__:
        raise AttributeError(f"module 'catdog.export' has no attribute {name!r}")
    from catdog.export import exporting

    return getattr(exporting, name)
