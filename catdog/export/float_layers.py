"""Choose which layers of an int8 model stay in float: as few as the validation photos ask for.

The layers are ranked by what quantizing each one costs on calibration photos. The costliest ones stay in float until
the validation split passes the accuracy limit. The test split has no part in it, so its accuracy is not the luck of a
choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from catdog.errors import ExportError
from catdog.export.onnx_file import write_onnx
from catdog.export.photos import Labelled
from catdog.export.proof import Engine, measure_accuracy
from catdog.export.quantize import Quantizer
from catdog.training.answering import Probabilities

RANKING_PHOTOS: Final = 128  # of the calibration's; every layer is tried on them
MAX_FLOAT_SHARE: Final = 0.25  # of the weights: 44% of the float file's size; beyond, it is hardly an int8 model


def choose_float_layers(
    quantizer: Quantizer,
    reference: Engine,
    calibration: Labelled,
    validation: Labelled,
    accuracy_loss: float,
    path: Path,
    say: Callable[[str], None],
) -> tuple[onnx.ModelProto, list[str]]:
    """Return the int8 model, which is also written to ``path``, and the names of its float layers.

    ``reference``: the float model. ``accuracy_loss``: percentage points that may be lost on ``validation``. Raises
    ExportError when that can't be reached with ``MAX_FLOAT_SHARE`` of the weights in float.
    """

    def attempt(in_float: Sequence[str]) -> tuple[onnx.ModelProto, Engine]:
        model = quantizer.quantize(in_float)
        write_onnx(model, reference.model.contract, path)
        return model, Engine.of_file("int8", path)

    needed = measure_accuracy(reference.answer(validation.paths), validation.labels) - accuracy_loss
    in_float: list[str] = []
    ranking: list[str] = []
    while True:
        model, engine = attempt(in_float)
        reached = measure_accuracy(engine.answer(validation.paths), validation.labels)
        say(f"{len(in_float)} layers in float: {reached:.2f}% of validation photos right, {needed:.2f}% needed")
        if reached >= needed:
            return model, in_float
        if not ranking:
            say("measuring what the quantization of each layer costs")
            photos = calibration.paths[:RANKING_PHOTOS]
            truth = reference.answer(photos)
            left = {name: measure_distance(attempt([name])[1].answer(photos), truth) for name in quantizer.layers}
            ranking = keep_affordable(sorted(left, key=left.__getitem__), quantizer.layers)
        if in_float == ranking:
            raise ExportError(
                f"int8: {reached:.2f}% of validation photos right with {len(in_float)} layers in float, "
                f"{needed:.2f}% needed; no file was written"
            )
        in_float = ranking[: max(1, 2 * len(in_float))]


def measure_distance(answers: Probabilities, truth: Probabilities) -> float:
    """Return the root mean square difference of log probabilities, which don't flatten near 0 and 1."""
    tiny = 1e-6
    return float(np.sqrt(np.square(np.log(answers + tiny) - np.log(truth + tiny)).mean()))


def keep_affordable(names: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    """Return those of ``names``, in order, that together stay within the share of weights that may be in float."""
    left = MAX_FLOAT_SHARE * sum(sizes.values())
    chosen = []
    for name in names:
        if sizes[name] <= left:
            chosen.append(name)
            left -= sizes[name]
    return chosen
