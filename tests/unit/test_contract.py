"""The contract survives JSON unchanged, and anything else is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from catdog.contract import CONTRACT_VERSION, Contract
from catdog.errors import ContractError

GOOD = Contract(class_names=("cat", "dog"), input_size=224)


def altered(**changes: Any) -> str:
    return json.dumps(json.loads(GOOD.to_json()) | changes)


def test_json_gives_back_an_equal_contract() -> None:
    full = GOOD.with_(
        resize="short_side",
        interpolation="bicubic",
        crop=0.875,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        temperature=1.3,
        threshold=0.7,
        fast_size=144,
        fast_bound=0.985,
        arch="resnet18",
        model_fingerprint="a" * 64,
        data_fingerprint="b" * 64,
        quality={"accuracy": 0.99},
    )
    assert Contract.from_json(full.to_json()) == full
    assert list(json.loads(full.to_json())) == [field.name for field in dataclasses.fields(Contract)]


def test_resized_side_holds_the_crop() -> None:
    assert GOOD.resized == 224
    assert GOOD.with_(crop=0.875).resized == 256


def test_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOOD.threshold = 0.9  # type: ignore[misc]


BAD_VALUES: list[tuple[str, Any]] = [
    ("class_names", ["cat"]),
    ("class_names", ["cat", ""]),
    ("class_names", ["cat", 1]),
    ("class_names", ["cat", "cat"]),
    ("class_names", ["cat", "unsure"]),
    ("class_names", None),
    ("class_names", "cd"),
    ("input_size", 7),
    ("input_size", 4097),
    ("input_size", 224.0),
    ("input_size", True),
    ("resize", "squash"),
    ("resize", []),
    ("interpolation", "nearest"),
    ("crop", 0),
    ("crop", 1.1),
    ("crop", "1"),
    ("crop", float("nan")),
    ("mean", [0.5, 0.5]),
    ("mean", [0.5, 0.5, None]),
    ("mean", 0.5),
    ("std", [1, 1, 0]),
    ("temperature", 0),
    ("temperature", float("inf")),
    ("threshold", -0.1),
    ("threshold", 1.1),
    ("threshold", True),
    ("threshold", None),
    ("fast_size", 144),  # without a bound
    ("fast_bound", 0.9),
    ("quality", ["accuracy"]),
    ("quality", {"accuracy": "high"}),
    ("arch", 18),
]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES)
def test_refuses_a_bad_value(field: str, value: Any) -> None:
    with pytest.raises(ContractError, match=r"^model\.onnx: ") as caught:
        Contract.from_json(altered(**{field: value}), "model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"fast_size": size} for size in (7, 224, 144.0, True, "144")] + [{"fast_bound": b} for b in (-0.1, 1.1, "1")],
)
def test_refuses_a_bad_fast_pass(values: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="bad contract: fast_"):
        Contract.from_json(altered(**({"fast_size": 144, "fast_bound": 0.9} | values)))
    with pytest.raises(ContractError, match="fast_size must be"):
        GOOD.with_(task="detect", fast_size=144, fast_bound=0.9)


def test_reads_a_contract_that_says_nothing_of_a_fast_pass() -> None:
    older = {name: value for name, value in json.loads(GOOD.to_json()).items() if not name.startswith("fast_")}
    assert Contract.from_json(json.dumps(older)) == GOOD


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{", b"\xff\xfe", '{"version": 1}', "[" * 100_000])
def test_refuses_junk(text: str | bytes) -> None:
    with pytest.raises(ContractError, match=r"^junk: "):
        Contract.from_json(text, "junk")


@pytest.mark.parametrize("version", [0, CONTRACT_VERSION + 1, "1", None])
def test_refuses_another_version_and_says_what_to_do(version: object) -> None:
    with pytest.raises(ContractError, match="export the model again"):
        Contract.from_json(altered(version=version))


def test_refuses_an_unknown_field_by_its_name() -> None:
    with pytest.raises(ContractError, match="unknown contract field 'colour'"):
        Contract.from_json(altered(colour="BGR"))


def test_reads_a_file_and_names_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    with pytest.raises(ContractError, match=r"contract\.json: no contract could be read"):
        Contract.read(path)
    path.write_text(GOOD.to_json())
    assert Contract.read(path) == GOOD
