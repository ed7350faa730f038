"""Export a checkpoint as one ONNX file that answers as the checkpoint does, or as no file (python -m export).

exporting.py     every step in its order
photos.py        which photos calibrate and which ones prove
awkward.py       photos that go wrong elsewhere
onnx_file.py     the model as one ONNX file with its contract
quantize.py      float ONNX -> int8, with as few layers in float as it needs
rounding.py      int8 weights that keep a layer's outputs right
proof.py         the same photos through all engines, and the gates

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
    if name == "export":
        from catdog.export.exporting import export

        return export
    if name in __all__:
        from catdog.export import proof

        return getattr(proof, name)
    raise AttributeError(f"module 'catdog.export' has no attribute {name!r}")
