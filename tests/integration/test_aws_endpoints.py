"""catdog aws deploy, invoke, transform, ps and delete against moto, with the real handler behind InvokeEndpoint."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from catdog.aws.app import app
from catdog.aws.archive import make_archive
from catdog.aws.calls import invoke, transform  # noqa: F401 - they register their commands
from catdog.aws.calls.results import S3Folder, join_outputs
from catdog.aws.endpoints import deploy, manage, rollback  # noqa: F401
from catdog.aws.endpoints.scaling import scaling_requests
from catdog.aws.hosting import Hosting, config_request, container_environment, model_request
from catdog.aws.inventory import make_version_name
from catdog.aws.package import build_package
from catdog.classifier import Classifier
from catdog.sources import objects
from tests.conftest import TINY_CONTRACT, build_tiny_model
from tests.detectors import CONTRACT as DETECTOR
from tests.detectors import build_detector, draw_photo
from tests.integration.aws_on_loopback import moto_server, use
from tests.integration.control_plane import ControlPlane
from tests.integration.runtime_shim import Deployed, Handler, RuntimeShim, fetch, forward
from tests.integration.server_process import ServerProcess

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install '.[aws]'")
pytest.importorskip("moto.server", reason="no control plane to test against: pip install 'moto[server]'")

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "aws"
BUCKET = "catdog-tests"
ROLE = "arn:aws:iam::123456789012:role/catdog-endpoint"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"
OWN_IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"
STAMP = "20261121120000-1a2b"
FAST = ("--image", IMAGE, "--test-timeout", "0")


@dataclass
class Cloud:
    """All of AWS that these commands talk to."""

    plane: ControlPlane
    shim: RuntimeShim
    sagemaker: Any
    s3: Any
    scaling: Any
    alarms: Any
    folder: Path

    def serve(self, name: str) -> None:
        """InvokeEndpoint of ``name`` goes to whatever model the control plane says is deployed there."""
        self.shim.targets[name] = Deployed(self.sagemaker, self.s3, name, self.folder)

    def left(self) -> list[str]:
        """Every endpoint, config, model, scalable target and alarm there is."""
        found = [e["EndpointName"] for e in self.sagemaker.list_endpoints()["Endpoints"]]
        found += [
            f"config {c['EndpointConfigName']}" for c in self.sagemaker.list_endpoint_configs()["EndpointConfigs"]
        ]
        found += [f"model {m['ModelName']}" for m in self.sagemaker.list_models()["Models"]]
        targets = self.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        found += [f"scaling {target['ResourceId']}" for target in targets]
        return found + [f"alarm {name}" for name in self.list_alarms()]

    def list_alarms(self) -> list[str]:
        return sorted(alarm["AlarmName"] for alarm in self.alarms.describe_alarms()["MetricAlarms"])

    def place(self, name: str, package_uri: str = f"s3://{BUCKET}/none", **tags: str) -> str:
        """An endpoint as deploy makes them, past commands and proxy; its ARN."""
        given = {"Project": "catdog", "Owner": "tester", "Command": "deploy", "Endpoint": name, **tags}
        listed, version = [{"Key": k, "Value": v} for k, v in given.items()], make_version_name(name, STAMP)
        how = Hosting()
        environment = container_environment(how, "us-east-1", IMAGE)
        self.sagemaker.create_model(**model_request(version, IMAGE, package_uri, ROLE, environment, listed))
        self.sagemaker.create_endpoint_config(**config_request(version, version, how, listed))
        made = self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=version, Tags=listed)
        return str(made["EndpointArn"])

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """The parameters of all requests for this operation, in order."""
        return [parameters for _, name, parameters in self.plane.requests if name == operation]

    def served(self, name: str) -> str:
        """The config that an endpoint serves."""
        return str(self.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"])

    def scale(self, name: str, count: int) -> None:
        """What autoscaling does."""
        wanted = {"VariantName": "AllTraffic", "DesiredInstanceCount": count, "DesiredWeight": 1}
        self.sagemaker.update_endpoint_weights_and_capacities(EndpointName=name, DesiredWeightsAndCapacities=[wanted])

    def clear(self) -> None:
        """Delete all that a test left, past the proxy."""
        for endpoint in self.sagemaker.list_endpoints()["Endpoints"]:
            self.sagemaker.delete_endpoint(EndpointName=endpoint["EndpointName"])
        for config in self.sagemaker.list_endpoint_configs()["EndpointConfigs"]:
            self.sagemaker.delete_endpoint_config(EndpointConfigName=config["EndpointConfigName"])
        for model in self.sagemaker.list_models()["Models"]:
            self.sagemaker.delete_model(ModelName=model["ModelName"])
        for target in self.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]:
            keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
            self.scaling.deregister_scalable_target(**{key: target[key] for key in keys})
        self.alarms.delete_alarms(AlarmNames=self.list_alarms())
        self.plane.taken.clear()

    def tags(self, name: str) -> dict[str, str]:
        arn = self.sagemaker.describe_endpoint(EndpointName=name)["EndpointArn"]
        return {tag["Key"]: tag["Value"] for tag in self.sagemaker.list_tags(ResourceArn=arn)["Tags"]}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with (
        moto_server() as behind,
        ControlPlane(behind, policy="person") as plane,
        RuntimeShim() as shim,
        pytest.MonkeyPatch.context() as environment,
    ):
        use(
            environment,
            plane.url,
            ("AWS_", "CATDOG_"),
            AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=shim.url,
            CATDOG_BUCKET=BUCKET,
            CATDOG_ROLE=ROLE,
            CATDOG_OWNER="tester",
        )
        session = boto3.session.Session()
        url = f"http://127.0.0.1:{behind}"
        services = ("sagemaker", "s3", "application-autoscaling", "cloudwatch")
        clients = [session.client(service, endpoint_url=url) for service in services]
        clients[1].create_bucket(Bucket=BUCKET)
        shim.s3 = clients[1]
        objects.close()
        sagemaker, storage, scaling, alarms = clients
        yield Cloud(plane, shim, sagemaker, storage, scaling, alarms, tmp_path_factory.mktemp("containers"))
        objects.close()
        for client in clients:
            client.close()


@pytest.fixture
def cloud(everything: Cloud) -> Iterator[Cloud]:
    """Empty, and without plans to fail."""
    yield everything
    forbidden = list(everything.plane.forbidden)
    everything.plane.reset()
    everything.shim.faults = iter(())
    everything.shim.targets.clear()
    everything.shim.asked.clear()
    everything.clear()
    assert forbidden == []  # else docs/aws/person.json lacks something


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run folder with the tiny model."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "model.onnx").write_bytes(tiny_model.read_bytes())
    (folder / "contract.json").write_text(TINY_CONTRACT.to_json())
    return folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, which is sure of nothing."""
    folder = tmp_path_factory.mktemp("other")
    contract = TINY_CONTRACT.with_(threshold=1.0).to_json()
    (folder / "model.onnx").write_bytes(build_tiny_model(contract))
    (folder / "contract.json").write_text(contract)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of a detector, which finds red heads, of cats, and blue ones, of dogs."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "model.onnx").write_bytes(build_detector())
    (folder / "contract.json").write_text(DETECTOR.to_json())
    return folder


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    """One command, in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="catdog aws")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def made(result: Result) -> dict[str, Any]:
    """The JSON of a command that went well."""
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# --- the requests -----------------------------------------------------------------------------------------------------

DRY_RUNS = {
    "deploy-realtime": ("deploy", "MODEL", "--name", "catdog-a"),
    "deploy-gpu-autoscale": (
        *("deploy", "MODEL", "--name", "catdog-a", "--instance-type", "ml.g4dn.xlarge", "--instances", "2"),
        *("--autoscale", "1..4", "--autoscale-target", "300", "--ttl", "2h", "--capture", "10"),
    ),
    "deploy-serverless": ("deploy", "MODEL", "--name", "catdog-a", "--serverless", "--memory", "3072"),
    "deploy-async": (
        *("deploy", "MODEL", "--name", "catdog-a", "--async", "--kms-key", "alias/catdog"),
        *("--autoscale", "0..2", "--allow-s3", "s3://photos/in"),
    ),
    "deploy-own-image": (
        *("deploy", "MODEL", "--name", "catdog-a", "--image", OWN_IMAGE, "--allow-s3", "s3://photos/in"),
        *("--async", "--ttl", "2h"),
    ),
    "deploy-from-job": ("deploy", "--from-job", "catdog-train-1", "--name", "catdog-a"),
    "transform": ("transform", "MODEL", "s3://photos/in", "s3://photos/out", "--kms-key", "alias/catdog"),
}


@pytest.mark.parametrize("case", DRY_RUNS)
def test_a_dry_run_prints_the_exact_requests_and_sends_nothing(case: str, cloud: Cloud, model: Path) -> None:
    image = () if "--image" in DRY_RUNS[case] else ("--image", IMAGE)
    result = run(*(model if a == "MODEL" else a for a in DRY_RUNS[case]), "--dry-run", *image)
    assert result.exit_code == 0, result.stderr
    assert ("AWS patched it until 2026-06-30; catdog's own image" in result.stderr) == bool(image)
    assert cloud.plane.seen == []
    assert cloud.shim.asked == []
    text = normalised(result.stdout)
    golden = GOLDEN / f"{case}.json"
    if os.environ.get("WRITE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def normalised(text: str) -> str:
    """What differs from run to run or from tree to tree, by its name."""
    text = re.sub(r"\d{14}-[0-9a-f]{4}", "STAMP", text)
    text = re.sub(r"transform-\d{8}-\d{6}-[0-9a-f]{4}", "transform-STAMP", text)
    text = re.sub(r"models/[0-9a-f]{16}/", "models/SHA256/", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"<\d+ bytes>|<a stream>", "<bytes>", text)
    return re.sub(r'"[0-9a-f]{64}"', '"SHA256"', text)


def test_the_other_commands_have_a_dry_run_too(cloud: Cloud, photo: Callable[..., bytes]) -> None:
    for options, operations in (
        (("invoke", "catdog-a", "-"), ["InvokeEndpoint"]),
        (("invoke", "catdog-a", "-", "--async"), ["PutObject", "InvokeEndpointAsync"]),
        (("ps",), ["ListEndpoints"]),
    ):
        said = made(run(*options, "--dry-run", stdin=photo("red")))
        assert [request["operation"] for request in said["requests"]] == operations
    assert (cloud.plane.seen, cloud.shim.asked) == ([], [])


def test_what_is_sent_is_what_the_dry_run_said(cloud: Cloud, model: Path) -> None:
    cloud.serve("catdog-same")
    options = ("deploy", model, "--name", "catdog-same", "--autoscale", "1..2", *FAST)
    said = json.loads(run(*options, "--dry-run").stdout)["requests"]
    made(run(*options))
    writes = [name for name in cloud.plane.seen if not name.startswith(("Describe", "List", "HEAD", "GET"))]
    assert writes == [
        f"PUT /{BUCKET}/{r['parameters']['Key']}" if r["service"] == "s3" else r["operation"] for r in said
    ]


def test_the_image_is_aws_own_unless_one_is_named(cloud: Cloud, model: Path) -> None:
    done = run("deploy", model, "--dry-run")
    said = json.loads(done.stdout)["requests"]
    container = next(r for r in said if r["operation"] == "CreateModel")["parameters"]["PrimaryContainer"]
    assert container["Image"].endswith("/pytorch-inference:2.6.0-cpu-py312")
    assert "pytorch-inference:2.6.0-cpu-py312: AWS patched it until 2026-06-30" in done.stderr


def test_catdog_s_own_image_is_deployed_and_tested_with_the_model_alone(cloud: Cloud, model: Path) -> None:
    """tests/integration/test_containers.py starts what the image is made of."""
    package = made(run("deploy", model, "--name", "catdog-own", "--image", OWN_IMAGE, "--no-wait"))["package"]
    folder = fetch(cloud.s3, package, cloud.folder / "own")
    assert {path.name for path in folder.iterdir()} - {"model.tar.gz"} == {"contract.json", "golden.json", "model.onnx"}
    with ServerProcess(cloud.folder / "own.log", "--model", str(folder)) as server:
        cloud.shim.targets["catdog-own"] = forward(server.wait_ready().url)
        report = made(run("deploy", model, "--name", "catdog-own", "--test-timeout", "0"))  # an update keeps the image
    assert report["tested"]["photos"] == 3
    assert report["tested"]["largest_difference"] == 0
    gpu = run("deploy", model, "--name", "catdog-own", "--instance-type", "ml.g4dn.xlarge")
    assert (gpu.exit_code, "computes on the CPU" in gpu.stderr) == (2, True)
    made(run("deploy", model, "--name", "catdog-own", "--image", "", "--no-wait"))
    first, second, third = (request["PrimaryContainer"] for request in cloud.asked("CreateModel"))
    assert (first["Image"], second) == (OWN_IMAGE, first)
    assert third["Image"] == IMAGE
    assert "CATDOG_MODEL" not in third["Environment"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "mine"), "must be catdog-"),
        (("--name", "catdog-a_b"), "no endpoint's name"),
        (("--instance-type", "m5.large"), "not an instance type"),
        (("--ttl", "2 weeks"), "90m, 2h or 3d"),
        (("--autoscale", "4..1"), "MIN <= MAX"),
        (("--autoscale", "0..0"), "MAX of 1 or more"),
        (("--autoscale", "many"), "like 1..4"),
        (("--autoscale", "1..2", "--no-wait"), "needs an endpoint in service"),
        (("--serverless", "--capture", "5"), "serverless endpoint has none"),
        (("--serverless", "--memory", "2000"), "must be one of"),
        (("--serverless", "--async"), "--serverless"),
        (("--instance-type", "ml.g5.xlarge", "--kms-key", "k"), "encrypts itself"),
        (("--async", "--async-output", "/tmp/out"), "not an S3 address"),
        (("--capture", "101"), "must be 0 to 100"),
        (("--image", "catdog"), "not a container's full address"),
        (("--image", OWN_IMAGE, "--instance-type", "ml.g4dn.xlarge"), "computes on the CPU"),
        (("--from-job", "x"), "one of them"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    options: tuple[str, ...], message: str, cloud: Cloud, model: Path
) -> None:
    result = run("deploy", model, *options)
    assert (result.exit_code, cloud.plane.seen) == (2, [])
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_from_a_model_to_a_deleted_endpoint(
    cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    cloud.serve("catdog-story")
    report = made(run("deploy", model, "--name", "catdog-story", "--ttl", "2h", *FAST))
    assert (report["endpoint"], report["status"], report["tested"]["photos"]) == ("catdog-story", "InService", 3)
    assert report["cost"]["usd_per_hour"] == 0.115
    tags = cloud.tags("catdog-story")
    assert {"Project": "catdog", "Owner": "tester", "Command": "deploy"}.items() <= tags.items()

    for colour, kind in (("red", "JPEG"), ("blue", "PNG"), ("red", "WEBP")):
        (tmp_path / f"{colour}.{kind.lower()}").write_bytes(photo(colour, kind))
    answers = [json.loads(line) for line in run("invoke", "catdog-story", tmp_path).stdout.splitlines()]
    ours = Classifier(model / "model.onnx", threads=1).predict(sorted(tmp_path.iterdir()))
    assert answers == [p.to_dict() for p in ours]
    assert {kind for _, kind, _ in cloud.shim.asked[-3:]} == {"image/png", "image/jpeg", "image/webp"}

    listed = made(run("ps"))
    assert [(e["endpoint"], e["usd_per_hour"], e["expired"]) for e in listed["endpoints"]] == [
        ("catdog-story", 0.115, False)
    ]
    deleted = made(run("delete", "catdog-story", "--yes"))["deleted"][0]
    assert [len(deleted[kind]) for kind in ("endpoints", "configs", "models")] == [1, 1, 1]
    assert cloud.left() == []
    assert made(run("delete", "catdog-story", "--yes"))["deleted"][0]["was_there"] is False  # a second time is fine


def test_the_same_package_is_uploaded_once(cloud: Cloud, model: Path) -> None:
    made(run("deploy", model, "--name", "catdog-one", "--no-wait", *FAST))
    cloud.plane.seen.clear()
    made(run("deploy", model, "--name", "catdog-two", "--no-wait", *FAST))
    assert not [operation for operation in cloud.plane.seen if operation.startswith("PUT")]


def test_a_training_job_s_archive_is_packed_anew(cloud: Cloud, model: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        for path in model.iterdir():
            tar.add(path, path.name)
        tar.add(ROOT / "README.md", "../../escape.md")
    cloud.s3.upload_file(str(tmp_path / "model.tar.gz"), BUCKET, "catdog/jobs/x/output/model.tar.gz")
    cloud.serve("catdog-job")
    report = made(run("deploy", f"s3://{BUCKET}/catdog/jobs/x/output/model.tar.gz", "--name", "catdog-job", *FAST))
    folder = fetch(cloud.s3, report["package"], tmp_path / "fetched")
    assert (folder / "code" / "inference.py").is_file()
    assert not list(folder.rglob("escape.md"))


def test_a_training_job_s_archive_without_an_onnx_file_says_how_to_make_one(cloud: Cloud, model: Path) -> None:
    data = make_archive({"contract.json": (model / "contract.json").read_bytes(), "model.safetensors": b"weights"})
    uri = f"s3://{BUCKET}/catdog/jobs/bare/output/model.tar.gz"
    cloud.s3.put_object(Bucket=BUCKET, Key="catdog/jobs/bare/output/model.tar.gz", Body=data)
    result = run("deploy", uri, *FAST)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"{uri}: has no model.onnx" in result.stderr
    assert f"aws s3 cp {uri} - | tar -xzC run && catdog export run --out run/model.onnx" in result.stderr


@pytest.mark.parametrize("content", [b"not a tar", b"", b"\x1f\x8b\x08\x00broken"])
def test_a_corrupt_archive_is_one_sentence(content: bytes, cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(content)
    result = run("deploy", tmp_path / "model.tar.gz", *FAST)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "not a model.tar.gz" in result.stderr


@pytest.mark.parametrize("missing", ["contract.json", "model.onnx"])
def test_a_model_without_contract_or_onnx_is_refused(missing: str, cloud: Cloud, model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    result = run("deploy", tmp_path, *FAST)
    assert (result.exit_code, cloud.plane.seen) == (2, ["DescribeEndpoint"])
    assert missing.partition(".")[0] in result.stderr


# --- half-finished deploys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("CreateModel", "refuse"),
        ("CreateEndpointConfig", "refuse"),
        ("CreateEndpoint", "quota"),
        ("DescribeEndpoint", "refuse"),
        ("RegisterScalableTarget", "refuse"),
        ("PutScalingPolicy", "refuse"),
    ],
)
def test_a_half_finished_deploy_is_cleaned_up(operation: str, fault: str, cloud: Cloud, model: Path) -> None:
    cloud.serve("catdog-half")
    # DescribeEndpoint: the first is asked before anything is made, the second while waiting.
    plan = ["", fault] if operation == "DescribeEndpoint" else [fault]
    cloud.plane.faults[operation] = iter(plan)
    result = run("deploy", model, "--name", "catdog-half", "--autoscale", "1..2", *FAST)
    assert result.exit_code == 2
    assert cloud.left() == []
    assert "nothing of it is left" in result.stderr or operation == "CreateModel"
    assert "Traceback" not in result.stderr


def test_an_endpoint_that_fails_is_cleaned_up(cloud: Cloud, model: Path) -> None:
    cloud.plane.states["catdog-fails"] = iter([{"EndpointStatus": "Failed", "FailureReason": "ping failed"}])
    result = run("deploy", model, "--name", "catdog-fails", *FAST)
    assert (result.exit_code, cloud.left()) == (1, [])
    assert "ping failed" in result.stderr


def test_somebody_else_was_faster_with_the_name(cloud: Cloud, model: Path) -> None:
    cloud.plane.faults["DescribeEndpoint"] = iter(["missing"])
    arn = cloud.place("catdog-race")
    cloud.plane.taken.add(("Endpoint", "catdog-race"))
    result = run("deploy", model, "--name", "catdog-race", *FAST)
    assert result.exit_code == 2
    assert "somebody has just made" in result.stderr
    assert cloud.sagemaker.describe_endpoint(EndpointName="catdog-race")["EndpointArn"] == arn
    assert len(cloud.left()) == 3  # theirs


def test_throttling_and_lost_answers_are_met_with_patience(cloud: Cloud, model: Path) -> None:
    cloud.serve("catdog-patient")
    cloud.plane.faults["CreateModel"] = iter(["throttle", "lose answer"])
    cloud.plane.faults["CreateEndpointConfig"] = iter(["error", "hang up"])
    cloud.plane.faults["CreateEndpoint"] = iter(["lose answer"])
    assert made(run("deploy", model, "--name", "catdog-patient", *FAST))["status"] == "InService"


def test_what_cannot_be_taken_back_is_named_and_delete_finds_it(cloud: Cloud, model: Path) -> None:
    cloud.plane.faults["CreateEndpoint"] = iter(["quota"])
    cloud.plane.faults["DeleteModel"] = iter(["refuse"])
    result = run("deploy", model, "--name", "catdog-stuck", *FAST)
    assert result.exit_code == 2
    (left,) = cloud.left()
    assert f"left behind: {left}" in result.stderr
    made(run("delete", "catdog-stuck", "--yes"))
    assert cloud.left() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_it_is_made_leaves_nothing(number: signal.Signals, code: int, cloud: Cloud, model: Path) -> None:
    program = (
        "import sys, catdog.aws.endpoints.deploy, catdog.aws.endpoints.manage, catdog.aws.app as a; a.app(sys.argv[1:])"
    )
    cloud.plane.states["catdog-stop"] = itertools.repeat({"EndpointStatus": "Creating"})
    command = [sys.executable, "-c", program, "deploy", str(model), "--name", "catdog-stop", *FAST]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "Creating" in line:
                break
        process.send_signal(number)
        cloud.plane.states.clear()  # only now: a command that asks in between would find no endpoint, and end by itself
        rest = process.stderr.read()
    assert (process.returncode, cloud.left()) == (code, []), rest
    assert "nothing of it is left" in rest


# --- the smoke test, updates and rolling back -------------------------------------------------------------------------


def test_wrong_answers_end_a_new_endpoint(cloud: Cloud, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (90, 60, 40)).save(tmp_path / "mine.png")
    cloud.shim.targets["catdog-wrong"] = lambda body, kind, accept: (
        200,
        b'{"source": "image", "label": "cat", "confidence": 0.9, "probabilities": {"cat": 0.9, "dog": 0.1}}',
        "application/json",
    )
    result = run("deploy", model, "--name", "catdog-wrong", "--test-photo", tmp_path / "mine.png", *FAST)
    assert (result.exit_code, cloud.left()) == (1, [])
    assert "instead of" in result.stderr


@pytest.mark.parametrize(("fault", "message"), [("broken", "500 boom"), ("silent", "Invocation timed out")])
def test_a_container_that_only_pings_ends_a_new_endpoint(fault: str, message: str, cloud: Cloud, model: Path) -> None:
    cloud.serve("catdog-pings")
    cloud.shim.faults = itertools.repeat(fault)
    result = run("deploy", model, "--name", "catdog-pings", *FAST)
    assert (result.exit_code, cloud.left()) == (1, [])
    assert message in result.stderr


def test_a_detector_is_not_put_on_a_gpu(cloud: Cloud, model: Path, detector: Path) -> None:
    gpu = ("--instance-type", "ml.g5.xlarge")
    for arguments in (
        ("deploy", detector),
        ("deploy", detector, "--dry-run"),
        ("transform", detector, "s3://photos/in", "s3://photos/out"),
    ):
        result = run(*arguments, *gpu)
        assert (result.exit_code, result.stdout) == (2, "")
        line = result.stderr.splitlines()[-1]
        assert line.endswith(
            "a detector runs on the CPU here, and a GPU would be idle; give --instance-type ml.c7i.large"
        )
    assert not [name for name in cloud.plane.seen if name.startswith(("Create", "PUT"))]
    made(run("deploy", model, "--name", "catdog-gpu", "--instance-type", "ml.g4dn.xlarge", "--no-wait"))
    before = cloud.left()
    refused = run("deploy", detector, "--name", "catdog-gpu", "--no-wait")  # an update keeps the instance type
    assert (refused.exit_code, cloud.left()) == (2, before)
    made(run("deploy", detector, "--name", "catdog-gpu", "--instance-type", "ml.c5.large", "--no-wait"))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "answers its test photo cat.png with without a head instead of cat 1.000 at"),
        ([("cat", 0.9)], "with cat 0.900 at 40 60 100 110 instead of cat 1.000 at"),
        (None, "answers its test photo large.jpg for another task than the model's"),
    ],
    ids=["missed", "less sure", "a classifier"],
)
def test_wrong_heads_end_a_new_endpoint(
    found: Any, said: str, cloud: Cloud, detector: Path, handler: Handler, tmp_path: Path
) -> None:
    draw_photo((320, 240), ("red", (40, 60, 100, 110))).save(tmp_path / "cat.png")
    right = Deployed(cloud.sagemaker, cloud.s3, "catdog-wrong", tmp_path)

    def answer(body: bytes, kind: str, accept: str) -> tuple[int, bytes, str]:
        status, data, media_type = right(body, kind, accept)
        if body == (tmp_path / "cat.png").read_bytes():
            objects = [{"label": label, "confidence": value, "box": [40, 60, 100, 110]} for label, value in found]
            data = json.dumps(json.loads(data) | {"objects": objects}).encode()
        return status, data, media_type

    cloud.shim.targets["catdog-wrong"] = handler if found is None else answer
    result = run("deploy", detector, "--name", "catdog-wrong", "--test-photo", tmp_path / "cat.png", *FAST)
    assert (result.exit_code, cloud.left()) == (1, [])
    assert said in result.stderr


def test_an_update_replaces_config_and_model(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-up")
    first = made(run("deploy", model, "--name", "catdog-up", *FAST))
    second = made(run("deploy", other_model, "--name", "catdog-up", "--ttl", "1h", *FAST))
    assert second["replaced"] == first["version"]
    assert "ExpiresAt" in cloud.tags("catdog-up")
    third = made(run("deploy", model, "--name", "catdog-up", *FAST))
    kept = sorted((second["version"], third["version"]))  # the last but one is kept, for a rollback
    assert sorted(cloud.left()) == sorted(
        [
            *("catdog-up", *(f"config {version}" for version in kept), *(f"model {version}" for version in kept)),
            *(f"alarm {version}-{kind}" for version in kept for kind in ("errors", "latency")),
        ]
    )


@pytest.mark.parametrize("how", ["wrong answers", "failed update", "tags refused"])
def test_an_update_that_fails_is_rolled_back(how: str, cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-back")
    first = made(run("deploy", model, "--name", "catdog-back", "--autoscale", "1..2", *FAST))
    before, tags = cloud.left(), cloud.tags("catdog-back")
    if how == "wrong answers":
        cloud.shim.faults = itertools.repeat("broken")
    elif how == "failed update":
        cloud.plane.states["catdog-back"] = iter([{}, {"EndpointStatus": "UpdateRollbackFailed"}])
    else:
        cloud.plane.faults["AddTags"] = iter(["refuse"])
    result = run("deploy", other_model, "--name", "catdog-back", "--autoscale", "2..3", "--ttl", "1h", *FAST)
    assert result.exit_code == (2 if how == "tags refused" else 1)
    assert cloud.left() == before, result.stderr
    assert cloud.tags("catdog-back") == tags
    assert cloud.sagemaker.describe_endpoint(EndpointName="catdog-back")["EndpointConfigName"] == first["version"]
    (target,) = cloud.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 2)


def test_somebody_else_s_endpoint_is_left_alone(cloud: Cloud, model: Path) -> None:
    cloud.place("catdog-theirs", Project="other")
    for command in (("deploy", model, "--name", "catdog-theirs", *FAST), ("delete", "catdog-theirs", "--yes")):
        result = run(*command)
        assert result.exit_code == 2
        assert "isn't catdog's" in result.stderr
    assert made(run("ps"))["endpoints"] == []


def test_an_endpoint_of_another_kind_is_not_updated(cloud: Cloud, model: Path) -> None:
    cloud.place("catdog-kind")
    result = run("deploy", model, "--name", "catdog-kind", "--serverless", *FAST)
    assert result.exit_code == 2
    assert "is realtime" in result.stderr


# --- updates that keep, move in steps, and go back --------------------------------------------------------------------


def test_an_update_changes_what_it_names_and_nothing_else(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-keep")
    options = ("--instance-type", "ml.c5.2xlarge", "--instances", "4", "--capture", "10", "--kms-key", "alias/catdog")
    allowed = ("--allow-s3", f"s3://{BUCKET}/catdog/datasets")
    first = made(run("deploy", model, "--name", "catdog-keep", *options, *allowed, *FAST))
    updated = run("deploy", other_model, "--name", "catdog-keep", *FAST)
    second = made(updated)
    before, after = cloud.asked("CreateEndpointConfig")
    assert json.loads(json.dumps(after).replace(second["version"], first["version"])) == before
    environments = [request["PrimaryContainer"]["Environment"] for request in cloud.asked("CreateModel")]
    assert environments[0] == environments[1]
    assert second["cost"] == first["cost"]
    shown = [line.strip() for line in updated.stderr.splitlines() if " -> " in line]
    assert shown == [f"package: {first['package']} -> {second['package']}"]

    third = run("deploy", other_model, "--name", "catdog-keep", "--instances", "2", "--capture", "0", *FAST)
    made(third)
    assert "instances: 4 -> 2" in third.stderr
    assert "percent captured: 10 -> none" in third.stderr
    config = cloud.asked("CreateEndpointConfig")[-1]
    assert (config["ProductionVariants"][0]["InitialInstanceCount"], config["KmsKeyId"]) == (2, "alias/catdog")
    assert "DataCaptureConfig" not in config


def test_what_other_tools_have_set_stays(cloud: Cloud, model: Path) -> None:
    version, arn = make_version_name("catdog-hand", STAMP), cloud.place("catdog-hand")
    assert arn.endswith("catdog-hand")
    made_by_hand = {"SAGEMAKER_MODEL_SERVER_WORKERS": "9", "MY_SETTING": "kept"}
    cloud.sagemaker.delete_model(ModelName=version)
    cloud.sagemaker.create_model(**model_request(version, IMAGE, "s3://x/y", ROLE, made_by_hand, []))
    cloud.sagemaker.delete_endpoint_config(EndpointConfigName=version)
    config = config_request(version, version, Hosting(), [])
    config["ProductionVariants"][0]["ModelDataDownloadTimeoutInSeconds"] = 1234
    cloud.sagemaker.create_endpoint_config(**config)
    cloud.serve("catdog-hand")
    made(run("deploy", model, "--name", "catdog-hand", *FAST))
    (variant,) = cloud.asked("CreateEndpointConfig")[-1]["ProductionVariants"]
    assert variant["ModelDataDownloadTimeoutInSeconds"] == 1234
    environment = cloud.asked("CreateModel")[-1]["PrimaryContainer"]["Environment"]
    assert (environment["MY_SETTING"], environment["SAGEMAKER_MODEL_SERVER_WORKERS"]) == ("kept", "2")


def test_a_serverless_endpoint_stays_one(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-less")
    made(run("deploy", model, "--name", "catdog-less", "--serverless", "--memory", "3072", *FAST))
    report = made(run("deploy", other_model, "--name", "catdog-less", *FAST))
    assert (report["mode"], report["cost"]["memory_mb"]) == ("serverless", 3072)
    assert "DeploymentConfig" not in cloud.asked("UpdateEndpoint")[0]  # AWS knows none for these
    assert cloud.list_alarms() == []
    refused = run("deploy", model, "--name", "catdog-less", "--instance-type", "ml.m5.large", *FAST)
    assert (refused.exit_code, "is serverless, and has no instances" in refused.stderr) == (2, True)


@pytest.mark.parametrize(("bounds", "count"), [("2..10", 9), ("2..6", 6)])
def test_autoscaling_begins_with_what_runs(bounds: str, count: int, cloud: Cloud, model: Path) -> None:
    cloud.place("catdog-nine")
    cloud.scale("catdog-nine", 9)
    cloud.serve("catdog-nine")
    made(run("deploy", model, "--name", "catdog-nine", "--autoscale", bounds, *FAST))
    (variant,) = cloud.asked("CreateEndpointConfig")[0]["ProductionVariants"]
    assert variant["InitialInstanceCount"] == count


def test_an_update_is_asked_about_on_a_terminal(cloud: Cloud, model: Path) -> None:
    cloud.place("catdog-ask")
    ours, theirs = os.openpty()
    os.write(ours, b"n\n")
    line = [sys.executable, "-m", "catdog.aws", "deploy", str(model), "--name", "catdog-ask", *FAST]
    ended = subprocess.run(line, cwd=ROOT, stdin=theirs, capture_output=True, text=True, timeout=120, check=False)
    os.close(ours)
    os.close(theirs)
    assert (ended.returncode, ended.stdout.strip()) == (1, ""), ended.stderr
    assert "Update it?" in ended.stderr
    assert not [name for name in cloud.plane.seen if name.startswith(("Create", "Update", "PUT"))]


def test_an_update_moves_in_steps_under_its_alarms(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-steps")
    made(run("deploy", model, "--name", "catdog-steps", "--instances", "4", *FAST))
    version = made(run("deploy", other_model, "--name", "catdog-steps", *FAST))["version"]
    alarms = [f"{version}-errors", f"{version}-latency"]
    assert cloud.asked("UpdateEndpoint") == [
        {
            "EndpointName": "catdog-steps",
            "EndpointConfigName": version,
            "DeploymentConfig": {
                "BlueGreenUpdatePolicy": {
                    "TrafficRoutingConfiguration": {
                        "Type": "CANARY",
                        "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
                        "WaitIntervalInSeconds": 300,
                    },
                    "TerminationWaitInSeconds": 300,
                    "MaximumExecutionTimeoutInSeconds": 2400,
                },
                "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]},
            },
        }
    ]
    assert set(alarms) < set(cloud.list_alarms())
    arn = cloud.alarms.describe_alarms(AlarmNames=alarms)["MetricAlarms"][0]["AlarmArn"]
    assert {"Key": "Project", "Value": "catdog"} in cloud.alarms.list_tags_for_resource(ResourceARN=arn)["Tags"]
    made(run("delete", "catdog-steps", "--yes"))
    assert cloud.left() == []


def test_an_update_that_sagemaker_takes_back_leaves_nothing(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-alarm")
    first = made(run("deploy", model, "--name", "catdog-alarm", *FAST))["version"]
    before = cloud.left()
    back = {"EndpointStatus": "InService", "EndpointConfigName": first, "FailureReason": "an alarm went off"}
    cloud.plane.states["catdog-alarm"] = iter([{}, back, back])
    failed = run("deploy", other_model, "--name", "catdog-alarm", *FAST)
    assert failed.exit_code == 1
    assert "an alarm went off" in failed.stderr
    assert (cloud.left(), len(cloud.asked("UpdateEndpoint"))) == (before, 1)  # it is back already


def test_alarms_that_may_not_be_made_end_a_deploy(cloud: Cloud, model: Path) -> None:
    cloud.plane.faults["PutMetricAlarm"] = iter(["", "refuse"])
    refused = run("deploy", model, "--name", "catdog-mute", *FAST)
    assert (refused.exit_code, cloud.left()) == (2, [])


def test_a_rollback_goes_back_and_forward(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-undo")
    first = made(run("deploy", model, "--name", "catdog-undo", "--instance-type", "ml.c5.large", *FAST))["version"]
    nothing = run("rollback", "catdog-undo")
    assert (nothing.exit_code, "nothing to go back to" in nothing.stderr) == (2, True)
    second = made(run("deploy", other_model, "--name", "catdog-undo", "--instance-type", "ml.m5.large", *FAST))[
        "version"
    ]
    before = cloud.left()

    said = made(run("rollback", "catdog-undo", "--dry-run"))["requests"]
    assert [r["operation"] for r in said] == ["PutMetricAlarm", "PutMetricAlarm", "UpdateEndpoint", "AddTags"]
    assert cloud.served("catdog-undo") == second

    cloud.plane.requests.clear()
    rolled = run("rollback", "catdog-undo")
    report = made(rolled)
    assert (report["version"], report["replaced"], cloud.served("catdog-undo")) == (first, second, first)
    assert "instance type: ml.m5.large -> ml.c5.large" in rolled.stderr
    (request,) = cloud.asked("UpdateEndpoint")
    policy = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"]["Type"] == "ALL_AT_ONCE"
    assert f"{first}-errors" in json.dumps(request)
    assert cloud.left() == before  # nothing is gone
    assert made(run("rollback", "catdog-undo"))["version"] == second

    back = {"EndpointStatus": "InService", "EndpointConfigName": second, "FailureReason": "an alarm went off"}
    cloud.plane.states["catdog-undo"] = iter([{}, back])
    assert run("rollback", "catdog-undo").exit_code == 1
    assert cloud.tags("catdog-undo")["FormerConfig"] == first


def test_a_rollback_keeps_the_instances_that_autoscaling_chose(cloud: Cloud, model: Path, other_model: Path) -> None:
    cloud.serve("catdog-many")
    made(run("deploy", model, "--name", "catdog-many", "--autoscale", "1..9", *FAST))
    made(run("deploy", other_model, "--name", "catdog-many", *FAST))
    cloud.scale("catdog-many", 7)
    assert made(run("rollback", "catdog-many"))["cost"]["instances"] == 7
    assert cloud.asked("UpdateEndpoint")[-1]["RetainAllVariantProperties"] is True
    (variant,) = cloud.sagemaker.describe_endpoint(EndpointName="catdog-many")["ProductionVariants"]
    assert variant["DesiredInstanceCount"] == 7


def test_asynchronous_instances_may_go_to_zero_and_come_back(cloud: Cloud, model: Path) -> None:
    cloud.serve("catdog-zero")
    cloud.shim.answers_to["catdog-zero"] = f"s3://{BUCKET}/catdog/async/catdog-zero"
    made(run("deploy", model, "--name", "catdog-zero", "--async", "--autoscale", "0..2", *FAST))
    (target,) = cloud.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    policies = cloud.scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    (from_zero,) = [policy for policy in policies if policy["PolicyType"] == "StepScaling"]
    (alarm,) = cloud.alarms.describe_alarms(AlarmNames=["catdog-zero-backlog"])["MetricAlarms"]
    assert (target["MinCapacity"], alarm["MetricName"]) == (0, "HasBacklogWithoutCapacity")
    assert alarm["AlarmActions"] == [from_zero["PolicyARN"]]
    made(run("deploy", model, "--name", "catdog-zero", "--autoscale", "1..2", *FAST))  # no word of --async
    assert "catdog-zero-backlog" not in cloud.list_alarms()
    made(run("delete", "catdog-zero", "--yes"))
    assert cloud.left() == []
    refused = run("deploy", model, "--name", "catdog-zero", "--autoscale", "0..2", *FAST)
    assert (refused.exit_code, "only an endpoint made with --async" in refused.stderr) == (2, True)


def test_photos_that_the_role_may_not_read_are_refused_before_anything_is_made(cloud: Cloud, model: Path) -> None:
    ours, theirs = f"s3://{BUCKET}/catdog/datasets/x", "s3://photos/in"
    refused = run("deploy", model, "--name", "catdog-reads", "--allow-s3", ours, "--allow-s3", theirs, *FAST)
    assert (refused.exit_code, cloud.left()) == (2, [])
    assert f"--allow-s3 {theirs}: the role catdog-endpoint may not read there" in refused.stderr
    cloud.plane.faults["SimulatePrincipalPolicy"] = iter(["refuse"])
    unsure = run("deploy", model, "--name", "catdog-reads", "--allow-s3", theirs, "--no-wait", *FAST)
    assert (unsure.exit_code, "wasn't checked" in unsure.stderr) == (0, True)


# --- ps and delete ----------------------------------------------------------------------------------------------------


def test_expired_endpoints_are_found_and_ended(cloud: Cloud) -> None:
    for name, hours in (("catdog-old", -1), ("catdog-new", 1)):
        cloud.place(name, ExpiresAt=f"{datetime.now(timezone.utc) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}")
    assert [e["endpoint"] for e in made(run("ps", "--expired"))["endpoints"]] == ["catdog-old"]
    assert made(run("delete", "--expired", "--owner", "somebody", "--yes"))["deleted"] == []
    dry = made(run("delete", "--expired", "--dry-run"))["requests"]
    assert [r["operation"] for r in dry] == ["DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"]
    made(run("delete", "--expired", "--yes"))
    assert [e["endpoint"] for e in made(run("ps"))["endpoints"]] == ["catdog-new"]


def test_other_people_s_endpoints_in_a_shared_account_are_passed_over(cloud: Cloud) -> None:
    expired = f"{datetime.now(timezone.utc) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    for name in ("payroll", "catdog-locked", "catdog-mine"):
        cloud.place(name, ExpiresAt=expired)
    cloud.plane.faults["ListTags"] = iter(["refuse"])
    shown = run("ps")
    assert [e["endpoint"] for e in made(shown)["endpoints"]] == ["catdog-mine"]
    assert "catdog-locked: passed over" in shown.stderr
    assert cloud.asked("ListEndpoints")[0]["NameContains"] == "catdog-"
    assert [e["endpoint"] for e in made(run("ps", "--name", "lock"))["endpoints"]] == ["catdog-locked"]
    cloud.plane.faults["ListTags"] = iter(["refuse"])
    made(run("delete", "--expired", "--yes"))
    left = [e["EndpointName"] for e in cloud.sagemaker.list_endpoints()["Endpoints"]]
    assert sorted(left) == ["catdog-locked", "payroll"]


def test_delete_shows_its_requests_without_credentials(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    named = made(run("delete", "catdog-a", "--dry-run"))
    assert [request["operation"] for request in named["requests"]] == ["DeleteEndpoint"]
    assert "no AWS credentials" in named["note"]
    everything = made(run("delete", "--all", "--dry-run"))
    assert [request["operation"] for request in everything["requests"]] == ["ListEndpoints"]
    assert cloud.plane.seen == []


def test_an_endpoint_goes_even_if_nobody_may_look_for_its_alarms(cloud: Cloud) -> None:
    cloud.place("catdog-blind")
    cloud.plane.faults["DescribeAlarms"] = iter(["refuse"])
    deleted = run("delete", "catdog-blind", "--yes")
    assert (made(deleted)["deleted"][0]["endpoints"], cloud.left()) == (["catdog-blind"], [])
    assert "its alarms stay" in deleted.stderr


def test_delete_asks_first(cloud: Cloud) -> None:
    cloud.place("catdog-asks")
    result = run("delete", "catdog-asks", stdin=b"y\n")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert len(cloud.left()) == 3


def place_with_autoscaling(cloud: Cloud, name: str) -> None:
    cloud.place(name)
    for operation, parameters in scaling_requests(name, Hosting(autoscale="1..2"), []):
        getattr(cloud.scaling, operation)(**parameters)


def test_delete_sends_what_its_dry_run_said(cloud: Cloud) -> None:
    place_with_autoscaling(cloud, "catdog-said")
    said = [request["operation"] for request in made(run("delete", "catdog-said", "--dry-run"))["requests"]]
    assert not [operation for operation in cloud.plane.seen if operation.startswith(("Delete", "Deregister"))]
    made(run("delete", "catdog-said", "--yes"))
    sent = [operation for operation in cloud.plane.seen if operation.startswith(("Delete", "Deregister"))]
    assert (
        sent
        == said
        == [
            *(
                "DeleteScalingPolicy",
                "DeregisterScalableTarget",
                "DeleteEndpoint",
                "DeleteEndpointConfig",
                "DeleteModel",
            )
        ]
    )


def test_delete_goes_on_after_a_failure(cloud: Cloud) -> None:
    place_with_autoscaling(cloud, "catdog-again")
    cloud.plane.faults["DeleteEndpointConfig"] = iter(["refuse"])
    assert run("delete", "catdog-again", "--yes").exit_code == 2
    made(run("delete", "catdog-again", "--yes"))
    assert cloud.left() == []


# --- invoke -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handler(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Handler:
    """The tiny model in the real handler."""
    folder = tmp_path_factory.mktemp("package")
    build_package(model, folder / "model.tar.gz")
    with tarfile.open(folder / "model.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return Handler(folder)


@pytest.fixture
def served(cloud: Cloud, handler: Handler) -> str:
    """The name of an endpoint that answers."""
    cloud.shim.targets["catdog-served"] = handler
    return "catdog-served"


def test_answers_are_those_of_predict_in_every_format(
    served: str, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    from catdog.predict import app as predict

    (tmp_path / "red.png").write_bytes(photo("red"))
    (tmp_path / "text.jpg").write_text("no photo")
    paths = [str(tmp_path), str(tmp_path / "nowhere.jpg")]
    for kind in ("jsonl", "json", "csv", "table"):
        here = CliRunner().invoke(predict, [*paths, "--model", str(model / "model.onnx"), "--format", kind])
        there = run("invoke", served, *paths, "--format", kind)
        assert (there.exit_code, there.stdout) == (here.exit_code, here.stdout) == (1, here.stdout)


def test_a_photo_on_stdin(served: str, photo: Callable[..., bytes]) -> None:
    result = run("invoke", served, "-", stdin=photo("blue"))
    assert (result.exit_code, json.loads(result.stdout)["label"]) == (0, "dog")


def test_each_photo_has_its_own_error(served: str, photo: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "a-good.png").write_bytes(photo("red"))
    (tmp_path / "b-cut.jpg").write_bytes(photo("red", "JPEG", size=(400, 300))[:700])
    (tmp_path / "c-empty.jpg").write_bytes(b"")
    (tmp_path / "d-huge.jpg").write_bytes(b"\xff\xd8\xff" + bytes(6 * 2**20))
    result = run("invoke", served, tmp_path, "--parallel", "3")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [row["label"] for row in rows] == ["cat", None, None, None]
    assert [row["source"] for row in rows] == [str(path) for path in sorted(tmp_path.iterdir())]
    assert "6 MB at most" in rows[3]["error"]
    assert all("\n" not in row["error"] for row in rows[1:])


def test_a_detector_s_answers_are_drawn_as_catdog_detect_draws_them(
    cloud: Cloud, detector: Path, tmp_path: Path
) -> None:
    from catdog.detection.__main__ import app as detect

    cloud.serve("catdog-heads")
    (tmp_path / "in").mkdir()
    draw_photo((320, 240), ("red", (40, 60, 100, 110)), ("blue", (200, 20, 280, 90))).save(tmp_path / "in" / "a.png")
    draw_photo((64, 48)).save(tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "c.jpg").write_bytes(b"\xff\xd8\xff cut off")
    report = made(run("deploy", detector, "--name", "catdog-heads", "--test-photo", tmp_path / "in" / "a.png", *FAST))
    assert report["tested"]["largest_difference"] == 0
    for kind in ("table", "csv"):
        here = CliRunner().invoke(detect, [str(tmp_path / "in"), "--model", str(detector), "--format", kind])
        assert run("invoke", "catdog-heads", tmp_path / "in", "--format", kind).stdout == here.stdout
    here = CliRunner().invoke(
        detect, [str(tmp_path / "in"), "--model", str(detector), "--draw", str(tmp_path / "here")]
    )
    for _ in range(2):  # it may replace its own
        there = run("invoke", "catdog-heads", tmp_path / "in", "--draw", tmp_path / "there")
        assert (there.exit_code, there.stdout) == (here.exit_code, here.stdout) == (1, here.stdout)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert sorted(drawn) == ["a.jpg", "b.jpg"]
    assert drawn == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}


def test_what_cannot_be_drawn_is_one_line(
    served: str, cloud: Cloud, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    for folder, name in (("in", "red.jpg"), ("theirs", "holiday.jpg")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(photo("red", "JPEG"))
    for out, options, said, asked in (
        ("theirs", (), "holiday.jpg: is there already, and not from this command", 0),
        ("in/drawn", (), "lies in", 0),
        ("drawn", ("--bench", "3"), "--draw: shows answers", 0),
        ("drawn", (), f"{served} serves a classifier", 1),
    ):
        result = run("invoke", served, tmp_path / "in", "--draw", tmp_path / out, *options)
        assert (result.exit_code, result.stdout, len(cloud.shim.asked)) == (2, "", asked)
        (line,) = result.stderr.splitlines()
        assert said in line
    assert sorted(path.name for path in tmp_path.rglob("*.jpg")) == ["holiday.jpg", "red.jpg"]


def test_a_serverless_endpoint_takes_smaller_photos(served: str, cloud: Cloud, tmp_path: Path) -> None:
    cloud.place(served)
    serverless = {"VariantName": "AllTraffic", "CurrentServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5}}
    cloud.plane.states[served] = itertools.repeat({"ProductionVariants": [serverless]})
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(5 * 2**20))
    rows = [json.loads(line) for line in run("invoke", served, tmp_path, "--parallel", 1).stdout.splitlines()]
    assert all(f"{served} takes 4 MB at most" in row["error"] for row in rows)
    assert (cloud.shim.asked, cloud.plane.seen) == ([], ["DescribeEndpoint"])


def test_overload_is_met_with_patience(served: str, cloud: Cloud, photo: Callable[..., bytes]) -> None:
    cloud.shim.faults = iter(["throttle", "busy", "unavailable", "not ready", "hang up"])
    result = run("invoke", served, "-", stdin=photo("red"))
    assert (result.exit_code, json.loads(result.stdout)["label"]) == (0, "cat"), result.stdout


def test_a_server_error_that_stays_is_the_photo_s(
    served: str, cloud: Cloud, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(photo("red"))
    cloud.shim.faults = itertools.repeat("broken")
    result = run("invoke", served, tmp_path / "a.png")
    row = json.loads(result.stdout)
    assert result.exit_code == 1
    assert row["error"] == f"{tmp_path / 'a.png'}: the endpoint failed (500): boom"


@pytest.mark.parametrize("fault", ["unknown", "forbidden"])
def test_what_would_fail_every_photo_ends_it(
    fault: str, served: str, cloud: Cloud, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(photo("red"))
    if fault == "forbidden":
        cloud.shim.faults = itertools.repeat("forbidden")
    result = run("invoke", served if fault == "forbidden" else "catdog-nowhere", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert {"unknown": "no endpoint catdog-nowhere", "forbidden": "sagemaker:InvokeEndpoint"}[fault] in result.stderr
    assert len(cloud.shim.asked) < 20


def test_an_endpoint_that_is_not_catdog_s(served: str, cloud: Cloud, photo: Callable[..., bytes]) -> None:
    cloud.shim.targets[served] = lambda body, kind, accept: (200, b"[[0.1, 0.9]]", "application/json")
    result = run("invoke", served, "-", stdin=photo("red"))
    assert result.exit_code == 1
    assert "something else than catdog's JSON" in result.stderr


def test_bench_gives_percentiles(served: str, photo: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(photo("red"))
    found = made(run("invoke", served, tmp_path, "--bench", "40", "--parallel", "4"))
    assert (found["requests"], found["failed"]) == (40, 0)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["requests_per_s"] > 0


def test_an_asynchronous_endpoint_answers_through_s3(
    cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    cloud.serve("catdog-async")
    cloud.shim.answers_to["catdog-async"] = f"s3://{BUCKET}/catdog/async/catdog-async"
    report = made(run("deploy", model, "--name", "catdog-async", "--async", *FAST))
    assert report["tested"]["photos"] == 3
    (tmp_path / "red.png").write_bytes(photo("red"))
    (tmp_path / "text.jpg").write_text("no photo")
    result = run("invoke", "catdog-async", tmp_path, "--async")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, [row["label"] for row in rows]) == (1, ["cat", None])
    assert waiting_photos(cloud) == []


def waiting_photos(cloud: Cloud) -> list[bytes]:
    """What lies in S3 for the asynchronous endpoint to read."""
    found = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix="catdog/async/catdog-async/inputs/").get("Contents", ())
    return [cloud.s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read() for entry in found]


@pytest.fixture
def late(cloud: Cloud, model: Path) -> Iterator[str]:
    """An asynchronous endpoint that gives no answer for now."""
    name = "catdog-async"
    cloud.serve(name)
    cloud.shim.answers_to[name] = f"s3://{BUCKET}/catdog/async/{name}"
    made(run("deploy", model, "--name", name, "--async", "--no-wait", *FAST))
    cloud.shim.faults = itertools.repeat("late")
    yield name
    for entry in cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"catdog/async/{name}/inputs/").get("Contents", ()):
        cloud.s3.delete_object(Bucket=BUCKET, Key=entry["Key"])


def test_a_photo_whose_answer_is_late_stays_for_it(
    late: str, cloud: Cloud, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(photo("red"))
    result = run("invoke", late, tmp_path / "red.png", "--async", "--timeout", "0")
    told, error = result.stderr.splitlines()
    assert told.startswith(f"{tmp_path}/red.png: its answer will come at s3://{BUCKET}/catdog/async/{late}/answers/")
    assert (result.exit_code, "no answer about" in error) == (1, True)
    assert waiting_photos(cloud) == [photo("red")]


def test_ctrl_c_leaves_no_photo_in_s3(late: str, cloud: Cloud, photo: Callable[..., bytes], tmp_path: Path) -> None:
    for colour in ("red", "blue", "white", "black"):
        (tmp_path / f"{colour}.png").write_bytes(photo(colour))
    with subprocess.Popen(
        [sys.executable, "-m", "catdog.aws", "invoke", late, str(tmp_path), "--async"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as above
    ) as process:
        while len(cloud.shim.asked) < 4 and process.poll() is None:
            time.sleep(0.05)
        assert len(waiting_photos(cloud)) == 4
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, error
    assert waiting_photos(cloud) == []


# --- transform --------------------------------------------------------------------------------------------------------


def execute(cloud: Cloud, job: str, folder: Path) -> None:
    """Do what SageMaker would: each object to the container, each good answer to <key>.out."""
    found = cloud.sagemaker.describe_transform_job(TransformJobName=job)
    model = cloud.sagemaker.describe_model(ModelName=found["ModelName"])["PrimaryContainer"]
    handler = Handler(fetch(cloud.s3, model["ModelDataUrl"], folder))
    uri = found["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    _, _, place = found["TransformOutput"]["S3OutputPath"].removeprefix("s3://").partition("/")
    for entry in cloud.s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        body = cloud.s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        status, answer, _ = handler(body, found["TransformInput"]["ContentType"], found["TransformOutput"]["Accept"])
        if status == 200:
            key = f"{place}/{entry['Key'].removeprefix(prefix)}.out"
            cloud.s3.put_object(Bucket=bucket, Key=key, Body=answer)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_transform_gives_each_photo_one_row(
    ending: str, cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    from catdog.score import output
    from catdog.sources.stores import open_store

    folder = f"catdog/transform-{ending}"
    photos = {"a.png": photo("red"), "b/c.jpg": photo("blue", "JPEG"), "notes.txt": b"no photo", "z.jpg": b"broken"}
    for name, data in photos.items():
        cloud.s3.put_object(Bucket=BUCKET, Key=f"{folder}/in/{name}", Body=data)
    places = (f"s3://{BUCKET}/{folder}/in", f"s3://{BUCKET}/{folder}/out")
    begun = made(run("transform", model, *places, "--no-wait", "--image", IMAGE))
    execute(cloud, begun["job"], tmp_path / "container")
    out = str(tmp_path / f"results.{ending}")
    result = run("transform", "--job", begun["job"], "--out", out)
    assert result.exit_code == 1, result.stderr
    report = json.loads(result.stdout)
    assert (report["photos"], report["ok"], report["labels"]) == (3, 2, {"cat": 1, "dog": 1})
    table = [
        dict(zip(batch, values, strict=True))
        for batch in output.read_columns(*open_store(out))
        for values in zip(*batch.values(), strict=True)
    ]
    assert [row["source"] for row in table] == [f"{places[0]}/{name}" for name in ("a.png", "b/c.jpg", "z.jpg")]
    assert [row["label"] or None for row in table] == ["cat", "dog", None]
    assert table[2]["error"]
    assert cloud.left() == []  # the job's model goes with it


def job_with_one_answer(cloud: Cloud, model: Path, photo: Callable[..., bytes], folder: str, tmp_path: Path) -> str:
    """The name of a transform job that has ended, of one photo."""
    cloud.s3.put_object(Bucket=BUCKET, Key=f"{folder}/in/a.png", Body=photo("red"))
    places = (f"s3://{BUCKET}/{folder}/in", f"s3://{BUCKET}/{folder}/out")
    job = made(run("transform", model, *places, "--no-wait", "--image", IMAGE))["job"]
    execute(cloud, job, tmp_path / "container")
    return str(job)


def test_a_transform_of_an_uploaded_dataset_asks_for_no_answer_about_its_manifest(
    cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    for name in ("manifest.json", "report.json", ".DS_Store"):
        cloud.s3.put_object(Bucket=BUCKET, Key=f"catdog/dataset/in/{name}", Body=b"{}")
    cloud.s3.put_object(Bucket=BUCKET, Key="catdog/dataset/in/a photo without an ending", Body=photo("blue"))
    job = job_with_one_answer(cloud, model, photo, "catdog/dataset", tmp_path)
    out = tmp_path / "results.jsonl"
    assert made(run("transform", "--job", job, "--out", out))["photos"] == 2
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == ["dog", "cat"]  # in key order


@pytest.mark.parametrize("theirs", ["results.csv", "results.csv.run.json", "results.csv.parts/part-00000000.parquet"])
def test_a_transform_overwrites_and_clears_nothing_that_it_did_not_make(
    theirs: str, cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    path = tmp_path / "out" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("somebody's")
    out = tmp_path / "out" / "results.csv"
    refused = run("transform", model, f"s3://{BUCKET}/catdog/theirs/in", "--out", out, "--image", IMAGE)
    assert (refused.exit_code, cloud.plane.seen) == (2, [])  # refused before a job is begun
    assert f"--out {out}" in refused.stderr
    job = job_with_one_answer(cloud, model, photo, "catdog/theirs", tmp_path)
    assert run("transform", "--job", job, "--out", out).exit_code == 2
    assert path.read_text() == "somebody's"
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [path]


def test_a_transform_joins_again_into_its_own_table(
    cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    job = job_with_one_answer(cloud, model, photo, "catdog/again", tmp_path)
    out = tmp_path / "results.csv"
    first = made(run("transform", "--job", job, "--out", out))
    table = out.read_bytes()
    out.write_bytes(table[:10])
    assert made(run("transform", "--job", job, "--out", out)) == first
    assert out.read_bytes() == table


def test_a_transform_s_outputs_are_not_all_listed_before_the_first_row(
    cloud: Cloud, model: Path, photo: Callable[..., bytes], tmp_path: Path
) -> None:
    job_with_one_answer(cloud, model, photo, "catdog/many", tmp_path)
    answer = cloud.s3.get_object(Bucket=BUCKET, Key="catdog/many/out/a.png.out")["Body"].read()
    for number in range(40):
        cloud.s3.put_object(Bucket=BUCKET, Key=f"catdog/many/in/{number:03}.png", Body=b"x")
    rows = join_outputs(S3Folder(BUCKET, "catdog/many/in/"), S3Folder(BUCKET, "catdog/many/out/"), 100)
    assert next(rows).row.status == "missing"
    cloud.s3.put_object(
        Bucket=BUCKET, Key="catdog/many/out/039.png.out", Body=answer
    )  # a list made before would lack it
    assert [row.source.rpartition("/")[2] for row in rows if row.row.status == "ok"] == ["039.png", "a.png"]


def test_a_transform_that_fails_keeps_what_it_answered(cloud: Cloud, model: Path, tmp_path: Path) -> None:
    cloud.s3.put_object(Bucket=BUCKET, Key="catdog/none/in/a.png", Body=b"x")
    places = (f"s3://{BUCKET}/catdog/none/in", f"s3://{BUCKET}/catdog/none/out")
    out = tmp_path / "results.jsonl"
    result = run("transform", model, *places, "--out", out, "--image", IMAGE)
    assert result.exit_code == 1
    row = json.loads(out.read_text())
    assert (row["status"], row["label"]) == ("missing", None)


def test_a_transform_job_that_cannot_begin_leaves_no_model(cloud: Cloud, model: Path) -> None:
    cloud.plane.faults["CreateTransformJob"] = iter(["quota"])
    result = run("transform", model, f"s3://{BUCKET}/in", f"s3://{BUCKET}/out", "--image", IMAGE)
    assert (result.exit_code, cloud.left()) == (2, [])


def test_a_transform_into_its_own_input_is_refused(cloud: Cloud, model: Path) -> None:
    result = run("transform", model, f"s3://{BUCKET}/in", f"s3://{BUCKET}/in/out")
    assert (result.exit_code, cloud.plane.seen) == (2, [])
