"""What an endpoint is made of, and what it costs; nothing is asked of AWS."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("boto3", reason="needs boto3: pip install '.[aws]'")

from catdog.aws import __main__  # noqa: F401  it registers every command
from catdog.aws.app import app, parse_duration
from catdog.aws.calls.endpoint import detect_media_type, parse_answer
from catdog.aws.containers import (
    check_image,
    find_inference_image,
    find_training_image,
    has_serving_toolkit,
    is_aws_inference,
    tell_support,
)
from catdog.aws.endpoints.alarms import deployment_config
from catdog.aws.failures import CloudError
from catdog.aws.hosting import Hosting, config_request, container_environment
from catdog.aws.image import DOCKERFILE, list_commands
from catdog.aws.instances import (
    PriceKind,
    count_gpus,
    count_processors,
    estimate_cost,
    has_gpu,
    price_per_hour,
    read_prices,
)
from catdog.aws.inventory import check_endpoint_name, make_version_name, read_endpoint
from catdog.aws.jobs.requests import Machines
from catdog.aws.watch.cloudwatch import Log
from catdog.errors import SettingsError
from catdog.support import TRAINING

ROOT = Path(__file__).parents[2]
STAMP = "20261121120000-1a2b"
AWS_IMAGE = find_inference_image("us-east-1", "ml.m5.large")


@pytest.mark.parametrize(
    ("instance_type", "count"),
    [("ml.t2.medium", 2), ("ml.m5.large", 2), ("ml.c5.xlarge", 4), ("ml.m5.4xlarge", 16), ("ml.c6i.32xlarge", 128)],
)
def test_a_worker_a_processor(instance_type: str, count: int) -> None:
    assert count_processors(instance_type) == count
    environment = container_environment(Hosting(instance_type=instance_type), "us-east-1", AWS_IMAGE)
    assert environment["SAGEMAKER_MODEL_SERVER_WORKERS"] == str(count)


@pytest.mark.parametrize(
    ("instance_type", "gpu"),
    [("ml.g4dn.xlarge", 1), ("ml.g5.2xlarge", 1), ("ml.g5.12xlarge", 4), ("ml.p4d.24xlarge", 8), ("ml.m5.large", 0)],
)
def test_a_worker_a_gpu(instance_type: str, gpu: int) -> None:
    hosting = Hosting(instance_type=instance_type)
    assert has_gpu(instance_type) == hosting.on_gpu == bool(gpu)
    assert (hosting.workers, count_gpus(instance_type)) == (gpu or 2, gpu)
    assert ("OMP_NUM_THREADS" in container_environment(hosting, "us-east-1", AWS_IMAGE)) != bool(gpu)


@pytest.mark.parametrize(
    ("instance_type", "own"),
    [
        *((f"ml.{name}", True) for name in ("g4dn.xlarge", "g5.xlarge", "m5dn.large", "r5dn.large", "p5en.48xlarge")),
        *((f"ml.{name}", False) for name in ("m5.large", "c5n.xlarge", "p3.2xlarge")),
    ],
)
def test_training_and_hosting_agree_on_which_instances_have_their_own_disk(instance_type: str, own: bool) -> None:
    assert (Machines(instance_type=instance_type, kms_key="key").volume_kms_key is None) == own
    if own:
        with pytest.raises(SettingsError, match="encrypts itself"):
            Hosting(instance_type=instance_type, kms_key="key")
    else:
        assert Hosting(instance_type=instance_type, kms_key="key").kms_key == "key"


@pytest.mark.parametrize(
    ("instances", "bake", "canary"), [(1, 5, None), (2, 5, 1), (19, 5, 1), (40, 5, 4), (4, 0, None)]
)
def test_the_first_step_of_an_update_is_at_most_half_of_the_instances(
    instances: int, bake: float, canary: int | None
) -> None:
    policy = deployment_config("catdog-a", instances, bake, timeout_min=5)["BlueGreenUpdatePolicy"]
    routing = policy["TrafficRoutingConfiguration"]
    assert (routing["Type"], routing.get("CanarySize", {}).get("Value")) == (
        "CANARY" if canary else "ALL_AT_ONCE",
        canary,
    )
    assert policy["MaximumExecutionTimeoutInSeconds"] > 2 * bake * 60  # else AWS refuses it
    assert policy["MaximumExecutionTimeoutInSeconds"] >= 600


def test_the_key_of_an_update_is_left_out_of_a_disk_of_its_own() -> None:
    kept = config_request("a", "a", Hosting(kms_key="key", capture=5, capture_to="s3://b/c"), [])
    moved = config_request("b", "b", Hosting(instance_type="ml.g5.xlarge", capture=5, capture_to="s3://b/c"), [], kept)
    assert ("KmsKeyId" in moved, moved["DataCaptureConfig"]["KmsKeyId"]) == (False, "key")
    taken = config_request("b", "b", Hosting(kms_key="", capture=5, capture_to="s3://b/c"), [], kept)
    assert "KmsKeyId" not in {**taken, **taken["DataCaptureConfig"]}


@pytest.mark.parametrize("endpoint", ["catdog-a", "catdog-" + "x" * 56, "catdog-" + "a-" * 27 + "b"])
def test_a_version_s_name_is_one_that_sagemaker_takes(endpoint: str) -> None:
    assert check_endpoint_name(make_version_name(endpoint, STAMP)).endswith(STAMP)


@pytest.mark.parametrize(
    ("variants", "count"),
    [
        ([{"CurrentInstanceCount": 0, "DesiredInstanceCount": 0}], 0),  # asynchronous, and nobody asks
        ([{"CurrentInstanceCount": 3, "DesiredInstanceCount": 2}], 3),
        ([{"CurrentInstanceCount": 0, "DesiredInstanceCount": 2}], 2),
        ([], 1),
    ],
)
def test_an_endpoint_costs_what_its_instances_of_now_cost(variants: list[dict[str, int]], count: int) -> None:
    class SageMaker:
        def describe_endpoint(self, **_: str) -> dict[str, Any]:
            now = datetime.now(timezone.utc)
            return {"EndpointStatus": "InService", "CreationTime": now, "EndpointConfigName": "c"} | (
                {"ProductionVariants": variants} if variants else {}
            )

        def describe_endpoint_config(self, **_: str) -> dict[str, Any]:
            return {"ProductionVariants": [{"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}]}

    found = read_endpoint(SageMaker(), "catdog-a", {})
    assert found is not None
    told = found.to_json(datetime.now(timezone.utc), "us-east-1")
    price = price_per_hour("ml.m5.large", "hosting", "us-east-1")
    assert price is not None
    assert (told["instances"], told["usd_per_hour"]) == (count, pytest.approx(count * price))


def test_a_log_of_any_length_is_read_in_bounded_memory() -> None:
    class Logs:
        """A day of lines, one a second."""

        exceptions = SimpleNamespace(ResourceNotFoundException=KeyError)

        def get_paginator(self, _: str) -> Logs:
            return self

        def paginate(self, startTime: int = 0, **_: str) -> Iterator[dict[str, Any]]:  # noqa: N803  AWS's name
            for hour in range(24):
                times = range(hour * 3_600_000, (hour + 1) * 3_600_000, 1000)
                some = (at for at in times if at >= startTime)
                line = {"logStreamName": "a", "message": ""}
                yield {"events": (line | {"timestamp": at, "eventId": f"{at:056}"} for at in some)}

    log = Log(Logs(), "group")
    tracemalloc.start()
    assert sum(1 for _ in log.read_new_lines()) == 24 * 3600
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20, "all lines' names take 20 MB"
    tracemalloc.stop()
    assert list(log.read_new_lines()) == [], "each line comes once"


@pytest.mark.parametrize("name", ["", "-a", "a_b", "a" * 64, "a-", "ä"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        check_endpoint_name(name)


def test_times_to_live() -> None:
    assert [parse_duration("--ttl", text) for text in ("90m", "2h", "3d")] == [
        timedelta(minutes=90),
        timedelta(hours=2),
        timedelta(days=3),
    ]
    for text in ("", "2", "0h", "-1h", "1.5h", "3651d", "99999999999d"):
        with pytest.raises(SettingsError):
            parse_duration("--ttl", text)


def test_prices_are_never_guessed() -> None:
    assert price_per_hour("ml.m5.large", "hosting", "us-east-1") == 0.115
    assert price_per_hour("ml.m5.large", "hosting", "eu-west-1") is None
    assert price_per_hour("ml.new.large", "hosting", "us-east-1") is None
    assert estimate_cost("hosting", "ml.m5.large", "us-east-1", 3)["usd_per_hour"] == 0.345
    unknown = estimate_cost("hosting", "ml.m5.large", "eu-west-1")
    assert unknown["usd_per_hour"] is None
    assert "no price of ml.m5.large in eu-west-1" in unknown["note"]
    prices = read_prices()
    kinds: tuple[PriceKind, ...] = ("training", "hosting", "transform")
    for kind, name in ((each, name) for each in kinds for name in prices[each]):
        known = estimate_cost(kind, name, prices["region"])
        assert known["usd_per_hour"] > 0
        assert known["note"].startswith(f"{prices['region']}, {prices['as_of']}, ")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "application/x-image"),
        (b"", "application/x-image"),
    ],
)
def test_the_media_type_is_told_by_the_bytes(data: bytes, kind: str) -> None:
    assert detect_media_type(data) == kind


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"7", b"{}", b"[[1,2]]", b"\xff", b"[" * 100_000),
        b'{"label": "bird", "confidence": 1, "probabilities": {"cat": 1}}',
        b'{"label": "cat", "confidence": "x", "probabilities": {"cat": 1}}',
        b'{"width": 9, "height": 9, "objects": [{"label": "cat", "confidence": 1, "box": [0, 0, 9, 9.1]}]}',
        b'{"width": 9, "height": 9, "objects": [{"label": "cat", "confidence": 1, "box": [-1, 0, 9, 9]}]}',
    ],
)
def test_an_answer_that_is_not_catdog_s_is_no_prediction(body: bytes) -> None:
    with pytest.raises(CloudError, match="something else"):
        parse_answer("a.jpg", body, "catdog-x")


def test_the_addresses_of_aws_s_containers_are_those_that_its_sdk_knows() -> None:
    sdk = find_spec("sagemaker")  # which takes 2 s to import
    if sdk is None or sdk.origin is None:
        pytest.skip("needs the SageMaker SDK: pip install '.[sagemaker]'")
    known = json.loads(Path(sdk.origin).with_name("image_uri_config").joinpath("pytorch.json").read_text())
    versions = known["inference"]["versions"]
    assert list(versions)[-1] == "2.6.0"  # else there is a newer one to deploy in
    for region, account in versions["2.6.0"]["registries"].items():
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        address = f"{account}.dkr.ecr.{region}.{domain}/pytorch-inference:2.6.0"
        assert find_inference_image(region, "ml.m5.large") == f"{address}-cpu-py312"
        assert find_inference_image(region, "ml.g5.xlarge") == f"{address}-gpu-py312"
    for version, one in known["training"]["versions"].items():
        if version in TRAINING:
            address = find_training_image("eu-south-1", "ml.g4dn.xlarge", version)
            assert address.endswith(f"/{one['repository']}:{version}-gpu-{one['py_versions'][0]}")


def test_what_an_image_s_address_says() -> None:
    own = "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"
    for address in (own, "public.ecr.aws/a/b/pytorch:2.14", f"localhost.a:5000/x@sha256:{'0' * 64}"):
        assert check_image(address) == address
        assert not has_serving_toolkit(address)
        assert tell_support(address, date(2026, 1, 1)) == ("", False)
    assert has_serving_toolkit(AWS_IMAGE)
    copy = AWS_IMAGE.replace(AWS_IMAGE.partition(".")[0], "123456789012")
    assert has_serving_toolkit(copy)
    assert [is_aws_inference(image) for image in (AWS_IMAGE, copy, own)] == [True, False, False]
    for wrong in ("", "catdog", "catdog:1", f"https://{own}", f"{own} ", f"{own}:2", own.upper()):
        with pytest.raises(SettingsError, match="not a container's full address"):
            check_image(wrong)
    newest = find_training_image("us-east-1", "ml.m5.large", "2.14")
    assert tell_support(newest, date(2027, 9, 28)) == (
        "pytorch:2.14-cpu-amzn2023-sagemaker: AWS patches it until 2027-09-28",
        False,
    )
    assert tell_support(newest, date(2027, 9, 29))[1]
    public = "public.ecr.aws/deep-learning-containers/pytorch:2.13-cu133-amzn2023-sagemaker"
    assert tell_support(public, date(2026, 11, 29))[0].endswith("until 2027-07-20")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--memory", "3072"), "--memory 3072: needs --serverless"),  # it would make an endpoint that costs by the hour
        (("--concurrency", "9"), "--concurrency 9: needs --serverless"),
        (("--serverless", "--instances", "3"), "--instances 3: needs instances"),
        (("--async-output", "s3://bucket/answers"), "--async-output s3://bucket/answers: needs --async"),
        (("--autoscale-target", "300"), "--autoscale-target 300.0: needs --autoscale"),
    ],
)
def test_an_option_of_another_kind_of_endpoint_is_refused(options: tuple[str, ...], says: str) -> None:
    role = "arn:aws:iam::123456789012:role/catdog"
    common = ("--region", "us-east-1", "--role", role, "--bucket", "bucket", "--dry-run")
    done = CliRunner().invoke(app, ["deploy", "embedded", *options, *common])
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_catdog_s_own_image_finds_the_model_where_sagemaker_puts_it() -> None:
    hosting = Hosting(allow_s3=["s3://photos/in"])
    variables = container_environment(hosting, "us-east-1", "a.b/catdog:1", 50 * 2**20 + 1)
    assert variables == {
        "CATDOG_MODEL": "/opt/ml/model", "CATDOG_ALLOWED_S3": "s3://photos/in", "CATDOG_MAX_BODY": "51",
    }  # fmt: skip


@pytest.mark.parametrize(
    "address",
    ["", "catdog:1", "1.dkr.ecr.us-east-1.amazonaws.com/catdog:1", "$(x).dkr.ecr.us-east-1.amazonaws.com/c:1"],
)
def test_commands_are_printed_for_an_address_in_ecr_only(address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not an image's address in ECR"):
        list_commands(address, tmp_path)


def test_the_image_s_context_is_what_an_engine_gets_from_the_checkout(tmp_path: Path) -> None:
    exclude_paths = pytest.importorskip("docker.utils.build", reason="needs docker's client for Python").exclude_paths
    address, out = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/photos/catdog:1", tmp_path / "my image"
    done = CliRunner().invoke(app, ["image", address, "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        "aws ecr get-login-password --region cn-north-1 | docker login --username AWS --password-stdin "
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        f"docker build --platform linux/amd64 --provenance=false -t {address} '{out}'",
        f"docker push {address}",
    ]
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    sent = {name for name in exclude_paths(str(ROOT), patterns, "Dockerfile") if (ROOT / name).is_file()}
    sent -= {".dockerignore"}
    written = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    assert written.pop("catdog-image.sh").read_text().splitlines()[1:] == done.stdout.splitlines()
    assert written.pop("Dockerfile").read_bytes() == (ROOT / DOCKERFILE).read_bytes()
    assert written.keys() == sent
    assert all(path.read_bytes() == (ROOT / name).read_bytes() for name, path in written.items())
    (out / "catdog" / "gone.py").touch()  # as from an older checkout
    assert CliRunner().invoke(app, ["image", address, "--out", str(out)]).exit_code == 0
    assert not (out / "catdog" / "gone.py").exists()


def test_the_image_s_context_replaces_nothing_of_somebody_else_s(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM mine")
    (tmp_path / "catdog").mkdir()
    address = "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"
    done = CliRunner().invoke(app, ["image", address, "--out", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "holds files of something else" in done.stderr
    assert (tmp_path / "Dockerfile").read_text() == "FROM mine"
