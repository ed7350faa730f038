"""What SageMaker's PyTorch inference container calls: four functions, handed over to catdog.serving.

The toolkit counts a function's parameters: its own two (one for ``model_fn``), or one more for TorchServe's context.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from catdog.detection.models import Model
from catdog.errors import CatdogError
from catdog.serving import endpoint, loading
from catdog.serving.requests import Request


def model_fn(model_dir: str, context: Any) -> Model:
    """The model of the folder, ready; raises CatdogError, so that the worker doesn't start, and its log says why."""
    loading.take_bodies_as_bytes()
    try:
        return loading.load_model(Path(model_dir), loading.find_gpu(context.system_properties.get("gpu_id")))
    except CatdogError as error:
        logging.getLogger(__name__).error("catdog: the model is refused: %s", error)
        raise


def input_fn(body: object, content_type: object) -> Request | endpoint.Refusal:
    """The request's photos."""
    return endpoint.read_request(body, content_type)


def predict_fn(request: Request | endpoint.Refusal, model: Model) -> endpoint.Answers | endpoint.Refusal:
    """An answer a photo."""
    return endpoint.answer_request(request, model)


def output_fn(answers: endpoint.Answers | endpoint.Refusal, accept: object, context: Any) -> tuple[bytes, str]:
    """The response's body and media type; its status goes to the context."""
    reply = endpoint.write_reply(answers, accept)
    context.set_response_status(code=reply.status, phrase=reply.phrase)
    return reply.body, reply.content_type
