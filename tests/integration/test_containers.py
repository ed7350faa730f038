"""The server's image without an engine: what its Dockerfile's own steps make answers as ``catdog predict`` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="needs boto3: pip install '.[aws]'")

from catdog.aws.hosting import Hosting, container_environment
from catdog.aws.package import build_package
from catdog.serving.golden import draw_golden
from tests.conftest import TINY_CONTRACT, UNPRIVILEGED
from tests.integration.dockerfile_steps import Image, carry_out
from tests.integration.server_process import ServerProcess

pytest.importorskip("docker", reason="needs docker's client for Python, which the extra dev installs")

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
MOST_BYTES = 250_000_000
BASE_BYTES = 65_000_000
"""Assumed of the base image, unpacked: what it is made of has 58 MB in Debian 12, and Debian 13's is a little larger.
To be checked with: docker image inspect --format '{{.Size}}' gcr.io/distroless/python3-debian13:nonroot"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """What the steps made, on a disk that can't be written to."""
    folder = tmp_path_factory.mktemp("image")
    made = carry_out(DOCKERFILE, ROOT, folder)
    folders = [path for path in (made.root, *made.root.rglob("*")) if path.is_dir() and not path.is_symlink()]
    for path in folders:
        path.chmod(0o555)
    yield made
    for path in folders:
        path.chmod(0o755)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, looking_model: Path) -> Path:
    """A run folder with a model that isn't the one inside the image."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "model.onnx").write_bytes(looking_model.read_bytes())
    (folder / "contract.json").write_text(TINY_CONTRACT.to_json())
    return folder


@pytest.fixture(scope="module")
def endpoint(image: Image, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The image as SageMaker starts it: "serve", deploy's variables, model.tar.gz unpacked in /opt/ml/model."""
    folder = tmp_path_factory.mktemp("endpoint")
    package = build_package(run, folder / "model.tar.gz", with_code=False)
    with tarfile.open(package.path) as archive:
        archive.extractall(folder / "opt/ml/model", filter="data")
    given = container_environment(Hosting(), "us-east-1", "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1")
    # The folder stands for the volume that SageMaker mounts; loopback and a free port for all addresses and 8080.
    variables = {name: value.replace("/opt/", f"{folder}/opt/") for name, value in given.items()}
    variables |= {"CATDOG_HOST": "127.0.0.1", "CATDOG_PORT": "0"}
    command = [*UNPRIVILEGED, *image.command("serve")]
    with ServerProcess(folder / "log", command=command, env=image.environment | variables, cwd=image.root) as running:
        yield running.wait_ready()
    assert running.process.returncode == 0


@pytest.fixture(scope="module")
def server(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its CMD, started as SageMaker does, though on loopback and on a free port."""
    folder = tmp_path_factory.mktemp("server")
    environment = image.environment | {"CATDOG_HOST": "127.0.0.1", "CATDOG_PORT": "0"}
    command = [*UNPRIVILEGED, *image.command("serve")]
    with ServerProcess(folder / "log", command=command, env=environment, cwd=image.root) as running:
        yield running.wait_ready()
    assert running.process.returncode == 0


def test_it_is_what_a_host_expects(image: Image) -> None:
    assert image.command() == image.command("serve")
    assert image.command("serve")[1:] == ["-m", "catdog", "serve"]
    assert (image.variables["CATDOG_HOST"], image.variables["CATDOG_PORT"]) == ("0.0.0.0", "8080")
    assert image.ports == [8080]
    assert int(image.user) > 0  # a number, which Kubernetes' runAsNonRoot can check


def test_ping_and_invocations_answer_as_catdog_predict_does(
    image: Image, server: ServerProcess, tmp_path: Path
) -> None:
    assert server.http.get("/ping").status_code == 200
    photos = dict(draw_golden())
    for name, data in photos.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-m", "catdog", "predict", *photos]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    expected = [json.loads(line) | {"source": None} for line in done.stdout.splitlines()]

    def ask(data: bytes) -> dict[str, object]:
        reply = server.http.post("/invocations", content=data, headers={"Content-Type": "application/octet-stream"})
        return dict(reply.json()) | {"source": None}

    assert [ask(data) for data in photos.values()] == expected
    first = next(iter(photos.values()))
    done_inside = subprocess.run(
        image.command("predict", "-"), cwd=image.root, env=image.environment, input=first, capture_output=True
    )
    assert json.loads(done_inside.stdout) | {"source": None} == expected[0]


def test_on_sagemaker_it_answers_with_the_model_of_the_package(
    endpoint: ServerProcess, run: Path, tmp_path: Path
) -> None:
    assert endpoint.http.get("/ping").status_code == 200
    photos = dict(draw_golden())
    for name, data in photos.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-m", "catdog", "predict", *photos, "--model", str(run)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    for line, data in zip(done.stdout.splitlines(), photos.values(), strict=True):
        reply = endpoint.http.post("/invocations", content=data, headers={"Content-Type": "application/x-image"})
        assert reply.json() | {"source": None} == json.loads(line) | {"source": None}
    assert (
        endpoint.http.post("/invocations", content=b"junk", headers={"Content-Type": "image/jpeg"}).status_code == 422
    )


def test_it_is_the_image_s_own_code_and_packages(image: Image, server: ServerProcess) -> None:
    assert server.http.get("/").status_code == 200
    code = "import catdog, numpy, obstore, starlette; print(catdog.__file__, numpy.__file__)"
    command = [*image.command()[:1], "-c", code]
    told = subprocess.run(
        command, cwd=image.root, env=image.environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert told == [str(image.find(f"/app/{name}/__init__.py")) for name in ("catdog", "numpy")]
    for module in ("torch", "boto3", "pip"):
        assert subprocess.run(
            [*image.command()[:1], "-c", f"import {module}"], cwd=image.root, env=image.environment, capture_output=True
        ).returncode


def test_the_health_check_tells_a_server_that_is_there_from_one_that_is_not(
    image: Image, server: ServerProcess
) -> None:
    def check(port: str) -> int:
        environment = image.environment | {"CATDOG_PORT": port}
        return subprocess.run(image.localise(image.healthcheck), env=environment, capture_output=True).returncode

    assert check(server.url.rpartition(":")[2]) == 0
    assert check("9") == 1


def test_its_layers_are_under_250_mb(image: Image) -> None:
    print(f"{image.copied_bytes / 1e6:.1f} MB above the base image")
    assert 100_000_000 < image.copied_bytes < MOST_BYTES - BASE_BYTES


def test_nothing_but_what_is_needed_is_sent_or_copied(image: Image) -> None:
    sent = image.root.parent / "context"
    assert {path.name for path in sent.iterdir()} - {"deploy", ".dockerignore"} == {
        "LICENSE", "README.md", "catdog", "constraints.txt", "pyproject.toml",
    }  # fmt: skip
    assert [path for path in sent.rglob("*") if path.is_file() and "deploy" in path.relative_to(sent).parts] == [
        sent / DOCKERFILE.relative_to(ROOT)  # an engine gets it, too
    ]
    assert not list(sent.rglob("__pycache__"))
    app = image.find("/app")
    assert list((app / "catdog" / "serving" / "__pycache__").iterdir())
    assert not [path for path in app.rglob("tests") if path.is_dir()]
    assert not (app / "bin").exists()  # commands with the path of another Python in them
