"""python -m export CHECKPOINT --out model.onnx [--int8]"""

from catdog.start import start

if __name__ == "__main__":
    start("export")
