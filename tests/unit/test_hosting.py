"""What an endpoint is made of, and what it costs; nothing is asked of AWS."""

from __future__ import annotations

from datetime import timedelta

import pytest

pytest.importorskip("boto3", reason="needs boto3: pip install '.[aws]'")

from catdog.aws.app import parse_duration
from catdog.aws.calls.endpoint import detect_media_type, parse_answer
from catdog.aws.failures import CloudError
from catdog.aws.hosting import Hosting, container_environment
from catdog.aws.instances import PriceKind, count_processors, estimate_cost, has_gpu, price_per_hour, read_prices
from catdog.aws.inventory import check_endpoint_name, make_version_name
from catdog.aws.jobs.requests import Machines
from catdog.errors import SettingsError

STAMP = "20261121120000-1a2b"


@pytest.mark.parametrize(
    ("instance_type", "count"),
    [("ml.t2.medium", 2), ("ml.m5.large", 2), ("ml.c5.xlarge", 4), ("ml.m5.4xlarge", 16), ("ml.c6i.32xlarge", 128)],
)
def test_a_worker_a_processor(instance_type: str, count: int) -> None:
    assert count_processors(instance_type) == count
    environment = container_environment(Hosting(instance_type=instance_type), "us-east-1")
    assert environment["SAGEMAKER_MODEL_SERVER_WORKERS"] == str(count)


@pytest.mark.parametrize(
    ("instance_type", "gpu"),
    [("ml.g4dn.xlarge", True), ("ml.g5.2xlarge", True), ("ml.p3.2xlarge", True), ("ml.m5.large", False)],
)
def test_a_gpu_has_one_worker(instance_type: str, gpu: bool) -> None:
    hosting = Hosting(instance_type=instance_type)
    assert has_gpu(instance_type) == hosting.on_gpu == gpu
    assert (hosting.workers == 1) == gpu
    assert ("OMP_NUM_THREADS" in container_environment(hosting, "us-east-1")) != gpu


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


@pytest.mark.parametrize("endpoint", ["catdog-a", "catdog-" + "x" * 56, "catdog-" + "a-" * 27 + "b"])
def test_a_version_s_name_is_one_that_sagemaker_takes(endpoint: str) -> None:
    assert check_endpoint_name(make_version_name(endpoint, STAMP)).endswith(STAMP)


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
    ],
)
def test_an_answer_that_is_not_catdog_s_is_no_prediction(body: bytes) -> None:
    with pytest.raises(CloudError, match="something else"):
        parse_answer("a.jpg", body, "catdog-x")
