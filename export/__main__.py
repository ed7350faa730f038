"""python -m export CHECKPOINT --out model.onnx [--int8]: the same command as python -m catdog.export."""

from __future__ import annotations

from catdog.export.__main__ import app

if __name__ == "__main__":
    app(prog_name="python -m export")
