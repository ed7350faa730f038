"""What each extra of ``pip install '.[NAME]'`` brings, and which extra a missing package belongs to."""

from __future__ import annotations

from typing import Final, NamedTuple


class Extra(NamedTuple):
    """An optional set of packages."""

    brings: str
    """What can be done once it is installed."""
    modules: tuple[str, ...]
    """The packages that it installs, as ``import`` names them."""


_TRAIN: Final = (
    "torch",
    "torchvision",
    "lightning",
    "matplotlib",
    "safetensors",
    "torchmetrics",
    "pycocotools",
    "yaml",
)
EXTRAS: Final = {
    "heic": Extra("read HEIC photos, as phones make them", ("pillow_heif",)),
    "score": Extra("catdog score: a row for every photo of a large collection", ("pyarrow",)),
    "drift": Extra("catdog drift: whether answers change, as numbers and a chart", ("matplotlib", "pyarrow")),
    "cloud": Extra("photos and results on S3, Google Cloud Storage and Azure", ("obstore",)),
    "s3": Extra("the same with AWS profiles, single sign-on and roles", ("boto3", "obstore")),
    "ray": Extra("catdog score --engine ray, on a Ray cluster", ("pyarrow", "ray")),
    "serve": Extra("catdog serve: answers over HTTP, and a page", ("prometheus_client", "starlette", "uvicorn")),
    "train": Extra("catdog train and catdog evaluate", _TRAIN),
    "export": Extra("catdog export: a trained model as one ONNX file", (*_TRAIN, "onnx")),
    "tune": Extra("catdog tune: search for good settings", (*_TRAIN, "optuna")),
    "aws": Extra(
        "catdog aws: train, deploy, call and watch on SageMaker",
        ("boto3", "matplotlib", "obstore", "pyarrow", "yaml"),
    ),
    "sagemaker": Extra(
        "the same with the SageMaker SDK's estimator",
        ("boto3", "matplotlib", "obstore", "pyarrow", "sagemaker", "yaml"),
    ),
}
"""By name, the smallest first, so that a missing package leads to the extra that installs least."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra, to be run in catdog's checkout."""
    return f"pip install '.[{extra}]'"


def name_extra(module: str, wanted: str | None = None) -> str | None:
    """Return the extra that installs a missing module: ``wanted`` if that one does, else the smallest, else None."""
    package = {"botocore": "boto3"}.get(module.partition(".")[0], module.partition(".")[0])
    fitting = [name for name, extra in EXTRAS.items() if package in extra.modules]
    return wanted if wanted in fitting else next(iter(fitting), None)
