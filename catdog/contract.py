"""The contract: all that must be known to use a model rightly. It travels with the model.

Training writes it as ``contract.json`` beside the weights, export puts it into the ONNX file's metadata under
``METADATA_KEY``, and every consumer reads it from there. This file holds the fields and their checks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from catdog.errors import ContractError

CONTRACT_VERSION = 1
METADATA_KEY = "catdog.contract"
CONTRACT_NAME = "contract.json"  # beside the weights
WEIGHTS_NAME = "model.safetensors"
MIN_CROP = 0.01  # of each side; less would resize a photo to more pixels than it may have
UNSURE = "unsure"  # the label of an answer whose confidence is under the threshold; no class may take this name
NEITHER = "neither"  # the class of photos that show none of the other classes; a model may have it or not

Task = Literal["classify", "detect"]
Resize = Literal["stretch", "short_side", "letterbox"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

# RGB, of pixels in [0, 1]; torchvision's ImageNet-1k V1 weights. Its means (0.485, 0.456, 0.406) are taken to whole
# 8-bit levels, so that an int8 model can take a pixel as it is: a quantized number whose zero point is the mean.
IMAGENET_MEAN = (124 / 255, 116 / 255, 104 / 255)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model expects and what its answers mean. Immutable; raises ContractError on an impossible value."""

    class_names: tuple[str, ...]
    """Names in the order of the model's outputs."""
    input_size: int
    """Side of the square input, px."""
    task: Task = "classify"
    """``classify``: one answer a photo. ``detect``: a box around each pet's head."""
    resize: Resize = "stretch"
    """``stretch``: both sides to the size, aspect ratio given up. ``short_side``: the shorter side to the size.
    ``letterbox``: the longer side to the size, and the mean colour around the photo."""
    interpolation: Interpolation = "bilinear"
    """Filter of the resize; Pillow's antialiased one."""
    crop: float = 1.0
    """Share of each side of the resized square that the centre crop keeps, [MIN_CROP, 1]."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """The model itself subtracts it from pixels in [0, 1], RGB; no consumer does."""
    std: tuple[float, float, float] = IMAGENET_STD
    """The model itself divides by it, RGB."""
    temperature: float = 1.0
    """The model itself divides its logits by it, > 0 (Guo et al. 2017, section 4.2)."""
    threshold: float = 0.5
    """Confidence under which the answer is "unsure", or under which a box is not given, [0, 1]."""
    neither_threshold: float = 0.5
    """Probability of the class "neither", where there is one, from which on it is the answer, [0, 1]."""
    fast_size: int | None = None
    """Side of the smaller square, px, that ``--fast`` answers first; None where the model has no such pass."""
    fast_bound: float | None = None
    """Confidence from which on the answer at that size stands, [0, 1]; other photos are answered at ``input_size``."""
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
        words = all(isinstance(name, str) and name and name.isprintable() for name in names)
        _check(words, "class_names must be words, without line breaks and the like")
        _check(len(set(names)) == len(names) and UNSURE not in names, f"class_names must differ and not be {UNSURE!r}")
        _check(_is_whole(self.input_size) and 8 <= self.input_size <= 4096, "input_size must be 8..4096 px")
        _check(self.task in get_args(Task), f"task must be one of {get_args(Task)}")
        _check(self.resize in get_args(Resize), f"resize must be one of {get_args(Resize)}")
        _check(self.interpolation in get_args(Interpolation), f"interpolation must be one of {get_args(Interpolation)}")
        _check(_is_number(self.crop) and MIN_CROP <= self.crop <= 1, f"crop must be in [{MIN_CROP}, 1]")
        _check(self.resize != "letterbox" or self.crop == 1, "crop must be 1 where resize is letterbox")
        _check(len(self.mean) == 3 and all(map(_is_number, self.mean)), "mean needs three numbers")
        _check(len(self.std) == 3 and all(_is_number(s) and s > 0 for s in self.std), "std needs three numbers above 0")
        _check(_is_number(self.temperature) and self.temperature > 0, "temperature must be positive")
        _check(_is_number(self.threshold) and 0 <= self.threshold <= 1, "threshold must be in [0, 1]")
        refused = self.neither_threshold
        _check(_is_number(refused) and 0 <= refused <= 1, "neither_threshold must be in [0, 1]")
        small, bound = self.fast_size, self.fast_bound
        _check((small is None) == (bound is None), "fast_size and fast_bound go together")
        is_smaller = small is None or (_is_whole(small) and 8 <= small < self.input_size)
        _check(is_smaller and (small is None or self.task == "classify"), "fast_size must be 8 px or more, and smaller")
        _check(bound is None or (_is_number(bound) and 0 <= bound <= 1), "fast_bound must be in [0, 1]")
        texts = (self.arch, self.model_fingerprint, self.data_fingerprint)
        _check(all(isinstance(text, str) for text in texts), "arch and fingerprints must be text")
        measured = self.quality.values() if isinstance(self.quality, Mapping) else [None]
        _check(all(map(_is_number, measured)), "quality must map names to numbers")

    @property
    def resized(self) -> int:
        """The side, px, that a photo is resized to before the centre crop to ``input_size``."""
        return round(self.input_size / self.crop)

    def with_(self, **changes: Any) -> Contract:
        """Return a copy with some fields changed, checked again."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """Return JSON text, keys in field order; ``from_json`` reads it back to an equal contract."""
        return json.dumps(asdict(self) | {"quality": dict(self.quality)}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "contract") -> Contract:
        """Read JSON text; raises ContractError naming ``source`` when it is no contract of this version."""
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
        """Return the contract in a JSON file; raises ContractError."""
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


def _is_number(value: object) -> bool:
    largest = sys.float_info.max  # a whole number may be larger, and no float holds it then; NaN compares as False
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
