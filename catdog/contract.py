"""The contract: all that a consumer must know to use a model rightly, travelling with the model.

Training writes it as ``contract.json`` beside the weights, export puts it into the ONNX file's metadata under
``METADATA_KEY``, and every consumer reads it from there. This file knows the fields and their checks, nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from catdog.errors import ContractError

CONTRACT_VERSION = 1
METADATA_KEY = "catdog.contract"
UNSURE = "unsure"  # the label of an answer whose confidence is under the threshold; no class may take this name

Resize = Literal["stretch", "short_side"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in [0, 1]; torchvision's ImageNet-1k V1 weights
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model expects and what its answers mean. Immutable; raises ContractError on an impossible value."""

    class_names: tuple[str, ...]
    """Names in the order of the model's outputs."""
    input_size: int
    """Side of the square input, px."""
    resize: Resize = "stretch"
    """``stretch``: both sides to the size, aspect ratio given up. ``short_side``: the shorter side to the size."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize; Pillow's antialiased one."""
    crop: float = 1.0
    """Share of each side of the resized square that the centre crop keeps, (0, 1]."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted inside the model from pixels in [0, 1], RGB. For information: no consumer applies it."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divided by inside the model, RGB."""
    temperature: float = 1.0
    """Logits are divided by it inside the model, > 0 (Guo et al. 2017, section 4.2)."""
    threshold: float = 0.5
    """Confidence under which the answer is "unsure", [0, 1]."""
    arch: str = ""
    """torchvision's name of the architecture."""
    model_fingerprint: str = ""
    """SHA-256 of the checkpoint's weights."""
    data_fingerprint: str = ""
    """SHA-256 of the manifest that the model was trained on."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Measured on the untouched test split: accuracy, f1, photos, ..."""
    version: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        _check(self.version == CONTRACT_VERSION, f"version {self.version!r}, this catdog reads {CONTRACT_VERSION}")
        names = self.class_names
        _check(isinstance(names, tuple) and len(names) >= 2, "class_names needs two names or more")
        _check(all(isinstance(name, str) and name for name in names), "class_names must be words")
        _check(len(set(names)) == len(names) and UNSURE not in names, f"class_names must differ and not be {UNSURE!r}")
        _check(_whole(self.input_size) and 8 <= self.input_size <= 4096, "input_size must be 8..4096 px")
        _check(self.resize in get_args(Resize), f"resize must be one of {get_args(Resize)}")
        _check(self.interpolation in get_args(Interpolation), f"interpolation must be one of {get_args(Interpolation)}")
        _check(_number(self.crop) and 0 < self.crop <= 1, "crop must be in (0, 1]")
        _check(len(self.mean) == 3 and all(map(_number, self.mean)), "mean needs three numbers")
        _check(len(self.std) == 3 and all(_number(s) and s > 0 for s in self.std), "std needs three positive numbers")
        _check(_number(self.temperature) and self.temperature > 0, "temperature must be positive")
        _check(_number(self.threshold) and 0 <= self.threshold <= 1, "threshold must be in [0, 1]")
        texts = (self.arch, self.model_fingerprint, self.data_fingerprint)
        _check(all(isinstance(text, str) for text in texts), "arch and fingerprints must be text")
        measured = self.quality.values() if isinstance(self.quality, Mapping) else [None]
        _check(all(map(_number, measured)), "quality must map names to numbers")

    @property
    def resized(self) -> int:
        """Side, px, that the photo is resized to before the centre crop to ``input_size``."""
        return round(self.input_size / self.crop)

    def with_(self, **changes: Any) -> Contract:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """The contract as JSON text, keys in field order; ``from_json`` gives it back equal."""
        return json.dumps(asdict(self) | {"quality": dict(self.quality)}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "contract") -> Contract:
        """Parse; raises ContractError naming ``source`` when the text is no contract of this version."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"{source}: the contract is not JSON ({error})") from error
        if not isinstance(data, dict):
            raise ContractError(f"{source}: the contract is not a JSON object")
        if data.get("version") != CONTRACT_VERSION:
            raise ContractError(
                f"{source}: contract version {data.get('version')!r}, but this catdog reads version "
                f"{CONTRACT_VERSION}; export the model again with this catdog"
            )
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ContractError(f"{source}: unknown contract field {unknown[0]!r}")
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
            return cls(**values)
        except (ContractError, TypeError) as error:
            raise ContractError(f"{source}: {error}") from error

    @classmethod
    def read(cls, path: str | Path) -> Contract:
        """The contract in a JSON file."""
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise ContractError(
                f"{path}: no contract could be read ({error.strerror}); a checkpoint needs contract.json beside it"
            ) from error
        return cls.from_json(text, str(path))


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ContractError(f"bad contract: {message}")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
