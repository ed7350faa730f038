"""AWS Lambda's entry point, ``catdog.serving.aws_lambda.handler``; importing it loads the model.

The model's folder (contract.json, model.onnx, golden.json) lies beside the package, as ``catdog lambda package`` puts
it there, or where CATDOG_MODEL says.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

from catdog.detection.models import Model
from catdog.errors import CatdogError
from catdog.serving.endpoint import BUDGET_S
from catdog.serving.lambda_events import answer_event
from catdog.serving.lambda_objects import find_answers_folder
from catdog.serving.loading import load_model
from catdog.sources import objects

MODEL: Final = "CATDOG_MODEL"
READING: Final = 0.75
"""The share of the function's time that reading may take; the rest is for what was read last, and for writing."""

_log = logging.getLogger(__name__)


def handler(event: object, context: Any) -> Any:
    """Answer an event; ``context`` is Lambda's, which knows how much time is left."""
    left_s = context.get_remaining_time_in_millis() / 1000
    return answer_event(event, _model, min(BUDGET_S, READING * left_s))


def _start() -> Model:
    try:
        find_answers_folder()  # a typo ends the start, not an event
        # The golden photos warm it up for one photo; a call with sixteen would be half of a cold start.
        return load_model(Path(os.environ.get(MODEL) or Path(__file__).parents[2] / "model"), batches=())
    except CatdogError as error:
        _log.error("catdog: the model is refused: %s", error)
        raise


_model = _start()
try:
    from snapshot_restore_py import register_before_snapshot
except ImportError:  # only runtimes with SnapStart have it
    pass
else:
    register_before_snapshot(objects.close)  # connections and credentials would be stale in every copy of the snapshot
