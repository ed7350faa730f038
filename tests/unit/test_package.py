"""model.tar.gz: what is in it, that it is always the same, and when it is refused."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from catdog.aws.account import Account
from catdog.aws.package import build_package, list_code, prepare_upload
from catdog.contract import Contract
from catdog.errors import ContractError, ImageError, ModelError, SettingsError
from tests.conftest import TINY_CONTRACT, build_tiny_model

ROOT = Path(__file__).parents[2]
CODE = [
    "inference.py",
    "requirements.txt",
    *(
        f"catdog/{name}.py"
        for name in [
            "__init__",
            "ahead",
            "answers",
            "boxes",
            "classifier",
            "colours",
            "contract",
            "detection/__init__",
            "detection/answers",
            "detection/decoding",
            "detection/detector",
            "detection/models",
            "errors",
            "explain",
            "extras",
            "files",
            "image",
            "machine",
            "onnx_model",
            "picture_folder",
            "prediction",
            "serving/__init__",
            "serving/endpoint",
            "serving/explaining",
            "serving/golden",
            "serving/limits",
            "serving/loading",
            "serving/multipart",
            "serving/requests",
            "sources/__init__",
            "sources/addresses",
            "sources/archives",
            "sources/contents",
            "sources/folders",
            "sources/lists",
            "sources/listing",
            "sources/members",
            "sources/names",
            "sources/objects",
            "sources/stores",
            "sources/web",
            "text",
            "training/__init__",
            "training/detector",
            "training/model",
            "training/settings",
        ]
    ),
]


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Path:
    """A run folder with a contract and an ONNX file, and what a run folder has besides."""
    folder = tmp_path / "run"
    (folder / "reports").mkdir(parents=True)
    (folder / "contract.json").write_text(TINY_CONTRACT.to_json() + "\n")
    (folder / "model.onnx").write_bytes(tiny_model.read_bytes())
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "reports/curves.png").write_bytes(b"")
    (folder / "metrics.json").write_text("{}")
    return folder


def test_it_holds_what_serving_needs_and_nothing_else(run: Path, tmp_path: Path) -> None:
    package = build_package(run, tmp_path / "out/model.tar.gz")
    wanted = ["contract.json", "golden.json", "model.onnx", "model.safetensors", *(f"code/{name}" for name in CODE)]
    with tarfile.open(package.path) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(wanted)
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime, m.mode) for m in members} == {(0, 0, "", "", 0, 0o644)}
        for name in ("contract.json", "model.onnx", "model.safetensors"):
            file = archive.extractfile(name)
            assert file is not None
            assert file.read() == (run / name).read_bytes()
    data = package.path.read_bytes()
    assert (package.size_bytes, package.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    first = build_package(run, tmp_path / "a.tar.gz")
    for file in run.rglob("*"):
        file.touch()
    second = build_package(run, tmp_path / "elsewhere/b.tar.gz")
    assert first.sha256 == second.sha256
    assert first.path.read_bytes()[3:8] == bytes(5)  # gzip: no name, no time (RFC 1952, section 2.3)


def test_int8_goes_before_float(run: Path, tmp_path: Path) -> None:
    other = build_tiny_model(TINY_CONTRACT.with_(quality={"int8_test_accuracy": 0.9}).to_json())
    (run / "model-int8.onnx").write_bytes(other)
    package = build_package(run, tmp_path / "model.tar.gz")
    with tarfile.open(package.path) as archive:
        file = archive.extractfile("model.onnx")
        assert file is not None
        assert file.read() == other
    assert package.model_sha256 == hashlib.sha256(other).hexdigest()


def test_the_user_s_photos_are_golden_too(run: Path, tmp_path: Path, photo: Callable[..., bytes]) -> None:
    (tmp_path / "red.png").write_bytes(photo("red"))
    package = build_package(run, tmp_path / "model.tar.gz", [tmp_path / "red.png"])
    with tarfile.open(package.path) as archive:
        file = archive.extractfile("golden.json")
        assert file is not None
        found = json.load(file)["photos"]
    assert [p["name"] for p in found] == ["large.jpg", "turned.jpg", "alpha.png", "red.png"]
    assert found[-1]["probabilities"] == {"cat": 1.0, "dog": 0.0}
    (tmp_path / "red.png").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"^test photo red\.png: not an image"):
        build_package(run, tmp_path / "model.tar.gz", [tmp_path / "red.png"])


def test_what_can_not_be_served_is_not_packed(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.tar.gz"
    (run / "contract.json").rename(run / "c")
    with pytest.raises(ContractError, match="no contract could be read"):
        build_package(run, out)
    (run / "contract.json").write_text(Contract(class_names=("cat", "dog"), input_size=16).to_json())
    with pytest.raises(ContractError, match="not that of"):
        build_package(run, out)
    (run / "c").rename(run / "contract.json")
    (run / "model.onnx").write_bytes(build_tiny_model(None))
    with pytest.raises(ContractError, match="carries no catdog contract"):
        build_package(run, out)
    (run / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"no model-int8\.onnx or model\.onnx"):
        build_package(run, out)
    assert not out.exists()


def test_what_is_no_model_says_what_is(tmp_path: Path) -> None:
    account = Account(region="us-east-1", bucket="photos", owner="me", role=None, dry_run=True)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"not packed")
    for name, says in (
        ("holiday", r"holds no model; name a run folder"),
        ("model.onnx", r"\); give one, or a run folder"),
    ):
        (tmp_path / f"for-{name}").mkdir()
        with pytest.raises(ModelError, match=says):
            prepare_upload(account, str(tmp_path / name), tmp_path / f"for-{name}", "pytorch-inference:1")


def test_the_code_runs_on_its_own(run: Path, tmp_path: Path) -> None:
    with tarfile.open(build_package(run, tmp_path / "model.tar.gz").path) as archive:
        archive.extractall(tmp_path / "model", filter="data")
    script = (
        "import sys; sys.path.insert(0, 'code'); import inference, catdog.training.model, catdog.sources.objects\n"
        "import catdog\n"
        "from catdog.serving import loading\n"
        "print(catdog.__file__, loading.load_model(__import__('pathlib').Path('.')).contract.class_names)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script] if sys.version_info >= (3, 11) else [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path / "model",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"code/catdog/__init__\.py \('cat', 'dog'\)", done.stdout)


def test_without_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"inference\.py: is missing; deploy from a checkout"):
        list_code(tmp_path)


def test_the_container_installs_exact_versions_by_hash_and_all_that_they_need() -> None:
    """Ranges gave an instance that was added months later other packages than the first ones had."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours = [Requirement(r) for r in (*project["dependencies"], *extras["train"], *extras["cloud"])]
    text = list_code()["requirements.txt"].decode().replace("\\\n", "")
    pins = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            pin, *hashes = line.split()
            name, pins[name] = pin.split("==")
            assert hashes, f"{name} has no hash, and pip takes all or none"
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
    tested = set((ROOT / "constraints.txt").read_text().splitlines())
    assert {f"{name}=={version}" for name, version in pins.items()} <= tested
    assert {"numpy", "obstore", "onnxruntime", "pillow", "pyyaml", "safetensors"} <= pins.keys()
    assert all(one.specifier.contains(pins[one.name]) for one in ours if one.name in pins)
    for name in pins:  # with hashes, pip installs nothing that isn't listed
        needed = [Requirement(r) for r in requires(name) or ()]
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": "", "python_version": "3.12"}):
                assert one.specifier.contains(pins[one.name.replace("_", "-")]), (name, one)
    assert not {"torch", "torchvision", "boto3", "sagemaker"} & pins.keys()  # the container's own
