"""A repair of SageMaker's serving toolkit, which would answer 500 to a mistake of the caller's."""

from __future__ import annotations


def take_bodies_as_bytes() -> None:
    """Make the toolkit pass on all bodies as bytes; does nothing where it isn't installed.

    It decodes those of the types in UTF8_TYPES itself, before any function of ours is called, and answers a body that
    isn't UTF-8 with 500 and a traceback (sagemaker-pytorch-inference 2.0.25, transformer.py). ``requests.parse`` says
    400 to that.
    """
    try:
        from sagemaker_inference import content_types
    except ImportError:
        return
    content_types.UTF8_TYPES = []
