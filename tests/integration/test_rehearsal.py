"""The whole story on loopback: photos, upload, training, endpoint, answers, batch transform, and nothing left; faults.

``make rehearse`` shows its steps. Commands run as a user types them; AWS is moto, and rehearsal.SageMaker, which runs
AWS's own toolkits. Nothing may leave the machine: loopback/ is on the PYTHONPATH of all processes that are started.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from catdog.dataset import Manifest
from tests.conftest import SHARED_DATA
from tests.integration.aws_on_loopback import moto_server, use
from tests.integration.control_plane import ControlPlane
from tests.integration.rehearsal import INVOKE_S, SageMaker, toolkits
from tests.integration.rehearsed import BUCKET, ROOT, Cloud, archive, command, tell, unpacked, without_contract
from tests.integration.runtime_shim import RuntimeShim
from tests.integration.test_train import paint

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install '.[aws]'")
pytest.importorskip("moto.server", reason="no control plane to rehearse with: pip install 'moto[server]'")
if find_spec("sagemaker") is None:  # importing it takes seconds, and only the commands need it
    pytest.skip("needs the SageMaker SDK: pip install '.[sagemaker]'", allow_module_level=True)

GUARD: Final = ROOT / "tests" / "integration" / "loopback"
ROLE: Final = "catdog-sagemaker"
# A network that a CPU trains in seconds.
SMALL: Final = ("--arch", "cnn", "--size", "64", "--train-size", "48", "--batch-size", "8", "--workers", "0")
JUNK: Final = b"\xff\xd8\xff this is no JPEG"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """All of it, and an environment that knows nothing but loopback."""
    tell("environments with AWS's training and serving toolkits (the first time, some minutes)")
    tools, folder = toolkits(), tmp_path_factory.mktemp("aws")
    nowhere, notes = folder / "none.yaml", folder / "left-the-machine"
    nowhere.write_text("SchemaVersion: '1.0'\n")
    with (
        moto_server() as behind,
        ControlPlane(behind) as plane,
        RuntimeShim() as shim,
        pytest.MonkeyPatch.context() as environment,
    ):
        use(
            environment,
            plane.url,
            ("AWS_", "CATDOG_", "SAGEMAKER_", "SM_"),
            AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME=shim.url,
            SAGEMAKER_ADMIN_CONFIG_OVERRIDE=str(nowhere),
            SAGEMAKER_USER_CONFIG_OVERRIDE=str(nowhere),
            CATDOG_BUCKET=BUCKET,
            CATDOG_ROLE=ROLE,
            CATDOG_OWNER="rehearsal",
            CATDOG_TEST_LEFT_THE_MACHINE=str(notes),
            PYTHONPATH=str(GUARD),
        )
        clients: dict[str, Any] = {}

        def client(service: str) -> Any:
            if service not in clients:
                clients[service] = boto3.client(service, endpoint_url=f"http://127.0.0.1:{behind}")
            return clients[service]

        client("s3").create_bucket(Bucket=BUCKET)
        client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
        with SageMaker(plane, shim, folder, tools, client) as sagemaker:
            yield Cloud(plane, shim, sagemaker, client, notes)
        for each in clients.values():
            each.close()
        assert not notes.exists(), notes.read_text()


@pytest.fixture
def cloud(everything: Cloud) -> Iterator[Cloud]:
    """Nothing fails, until a test plans it."""
    yield everything
    everything.plane.faults.clear()
    everything.sagemaker.damage, everything.sagemaker.patience_s = bytes, INVOKE_S


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """cats/ and dogs/ with 30 photos each: real ones where this machine has them, else painted ones."""
    folder = tmp_path_factory.mktemp("photos")
    if not (SHARED_DATA / "dogs-vs-cats-originals.zip").is_file():
        tell("real photos are not on this machine; painted ones take their place")
        return paint(folder, {"cats": 30, "dogs": 30})
    for name, data in request.getfixturevalue("real_photos")(30):
        path = folder / Path(name).parent.name / Path(name).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def dataset(photos: Path, everything: Cloud, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The photos as a dataset of catdog dataset, uploaded: its address."""
    folder = tmp_path_factory.mktemp("dataset") / "pets"
    command("catdog.dataset", photos, "--out", folder)
    sent = everything.aws("upload", folder).answer
    assert sent["uri"] == f"s3://{BUCKET}/catdog/datasets/pets/"
    assert sent["sent"] == sent["files"] == len([path for path in folder.rglob("*") if path.is_file()])
    again = everything.aws("upload", folder).answer
    assert (again["sent"], again["unchanged"]) == (0, sent["files"])
    tell(f"catdog dataset and upload: {sent['files']} files; a second upload sends none")
    return str(sent["uri"])


def test_the_whole_story(cloud: Cloud, dataset: str, photos: Path, tmp_path: Path) -> None:
    cloud.plane.faults["CreateTrainingJob"] = iter(["throttle"])
    cloud.plane.faults["CreateEndpoint"] = iter(["throttle", "error"])
    cloud.plane.faults["CreateTransformJob"] = iter(["throttle"])

    job = "catdog-train-rehearsal"
    settings = (*SMALL, "--epochs", "1", "--frozen-epochs", "0", "--lr", "0.01")
    trained = cloud.aws("train", dataset, "--name", job, "--wait", "--", *settings)
    assert "val_accuracy=" in trained.err  # the log came by
    assert f"next: catdog aws deploy --from-job {job}" in trained.err
    uri = trained.answer["model"]
    run = unpacked(cloud, uri, tmp_path / "run")
    tell(f"train --wait: {trained.answer['state']} after {trained.answer['seconds']} s in SageMaker's training toolkit")

    measured = json.loads((run / "metrics.json").read_text())
    container = cloud.sagemaker.trainings[job]
    assert str(GUARD) in container.log  # of the environment that the toolkit gave train.py
    found = container.metrics()
    assert found["val_accuracy"] == pytest.approx(measured["val"]["accuracy"], rel=1e-5)
    assert {"train_loss", "val_loss", "test_f1"} <= found.keys()
    status = cloud.aws("status", job).answer
    assert (status["state"], status["model"]) == ("Completed", uri)
    assert status["metrics"] == pytest.approx(found, rel=1e-5)
    tell(f"status: the job's metric definitions find val_accuracy={found['val_accuracy']:.3f} in the real log")

    name = "catdog-rehearsal"
    deployed = cloud.aws("deploy", "--from-job", job, "--name", name, "--ttl", "2h")
    assert deployed.answer["tested"]["photos"] > 0
    assert deployed.answer["tested"]["largest_difference"] <= deployed.answer["tested"]["tolerance"]
    tell(f"deploy: {name} is in TorchServe and gave its {deployed.answer['tested']['photos']} test photos' answers")

    junk = tmp_path / "junk.jpg"
    junk.write_bytes(JUNK)
    asked = [*sorted(photos.glob("*/*.jpg"))[::3], junk]
    answers = cloud.aws("invoke", name, *asked, code=1)  # the last one is no photo
    expected = command("catdog.predict", "--model", run / "model.onnx", *asked, code=1)
    got, want = ([json.loads(line) for line in said.out.splitlines()] for said in (answers, expected))
    assert got[:-1] == want[:-1]
    assert got[-1]["error"]
    assert (got[-1]["label"], want[-1]["label"]) == (None, None)
    tell(f"invoke: {len(got) - 1} answers, equal to catdog predict's to the digit, and one error")

    cloud.aws("upload", photos / photos_of(photos)[0], "--prefix", "catdog/new")
    cloud.put("catdog/new/junk.jpg", JUNK)
    table = tmp_path / "answers.jsonl"
    result = cloud.aws("transform", uri, f"s3://{BUCKET}/catdog/new/", "--out", table, code=1)
    assert result.answer["status"] == "Completed"
    assert (result.answer["ok"], result.answer["failed"]) == (30, {"corrupt": 1})
    rows = {Path(row["source"]).name: row for row in map(json.loads, table.read_text().splitlines())}
    for row in want[:-1]:
        if (scored := rows.get(Path(row["source"]).name)) is not None and photos_of(photos)[0] in row["source"]:
            assert scored["label"] == row["label"]
            assert scored["confidence"] == pytest.approx(row["confidence"], abs=1e-4)
    tell(f"transform: {result.answer['photos']} objects joined with their answers")

    (listed,) = cloud.aws("ps").answer["endpoints"]
    assert (listed["endpoint"], listed["status"], listed["owner"]) == (name, "InService", "rehearsal")
    assert listed["usd_per_hour"] > 0
    assert listed["expires_at"] == deployed.answer["expires_at"]
    cloud.aws("delete", name, "--yes")
    assert cloud.left() == []
    assert cloud.aws("ps").answer["endpoints"] == []
    cloud.aws("delete", name, "--yes")  # gone is gone
    assert "there is no endpoint" in cloud.aws("invoke", name, asked[0], code=2).err
    tell("ps, delete: no endpoint, config or model is left")


def test_a_detector_s_walk(cloud: Cloud, tmp_path: Path) -> None:
    """From Oxford's archives to drawn photos from an endpoint, which an update spoils and a rollback mends."""
    archives = SHARED_DATA / "oxford-iiit-pet"
    if not archives.is_dir():
        pytest.skip(f"Oxford-IIIT Pet is not on this machine ({archives})")
    heads = tmp_path / "heads"
    command("catdog.dataset", archives, "--out", heads, "--show", 12)
    manifest = Manifest.read(heads)
    marked = {split: sum(len(photo.boxes or ()) for photo in manifest.of(split)) for split in ("train", "val", "test")}
    assert min(marked.values()) > 0
    assert (heads / "sheet.png").is_file()
    uri = cloud.aws("upload", heads).answer["uri"]
    tell(f"catdog dataset and upload of Oxford-IIIT Pet: boxes {marked}")

    # The weights of the detector inside catdog, without which one epoch of small photos finds no head.
    weights = cloud.put("catdog/weights/heads.safetensors", (ROOT / "models/heads/model.safetensors").read_bytes())
    job = "catdog-train-heads"
    settings = ("--task", "detect", "--weights", weights, "--size", "128", "--batch-size", "16", "--workers", "0")
    brief = ("--epochs", "1", "--frozen-epochs", "0", "--trainable-from", "layer4", "--lr", "0.001")
    trained = cloud.aws("train", uri, "--name", job, "--wait", "--", *settings, *brief)
    assert "val_ap=" in trained.err  # the log came by
    container = cloud.sagemaker.trainings[job]
    channels = {channel["ChannelName"] for channel in container.request["InputDataConfig"]}
    assert channels == {"train", "weights0"}
    assert "weights: 0 tensors start from scratch" in container.log
    found = container.metrics()
    run = unpacked(cloud, trained.answer["model"], tmp_path / "run")
    measured = json.loads((run / "metrics.json").read_text())
    assert found["val_ap"] == pytest.approx(measured["val"]["ap"], rel=1e-5, abs=1e-9)
    assert {"train_overlap", "val_overlap", "val_ap50", "val_ap75", "test_ap"} <= found.keys()
    assert found["exported"] == 1
    assert cloud.aws("status", job).answer["metrics"] == pytest.approx(found, rel=1e-5)
    tell(f"train --wait: a detector after {trained.answer['seconds']} s in SageMaker's training toolkit")

    name, asked = "catdog-heads", [heads / photo.path for photo in manifest.of("test")[:12]]
    deployed = cloud.aws("deploy", "--from-job", job, "--name", name, "--test-photo", asked[0], "--ttl", "2h").answer
    assert deployed["tested"]["largest_difference"] <= deployed["tested"]["tolerance"]
    answers = cloud.aws("invoke", name, *asked, "--draw", tmp_path / "drawn")
    here = command("catdog.detection", *asked, "--model", run / "model.onnx", "--draw", tmp_path / "here")
    assert answers.out == here.out
    boxes = sum(len(json.loads(line)["objects"]) for line in answers.out.splitlines())
    assert boxes > 0
    drawn, expected = ({path.name: path.read_bytes() for path in (tmp_path / at).iterdir()} for at in ("drawn", "here"))
    assert len(drawn) == len(asked)
    assert drawn == expected
    tell(f"deploy, invoke --draw: {boxes} heads in {len(asked)} photos, drawn as catdog detect draws them")

    updated = cloud.aws("deploy", "embedded", "--name", name).answer  # a classifier, by mistake
    assert updated["replaced"] == deployed["version"]
    whole = json.loads(cloud.aws("invoke", name, asked[0]).out)
    assert (whole["error"], whole.keys() & {"label", "objects"}) == (None, {"label"})
    assert cloud.aws("rollback", name).answer["version"] == deployed["version"]
    assert cloud.aws("invoke", name, *asked).out == answers.out
    tell(f"an update answers {whole['label']!r}; after its rollback the heads are there again")

    cloud.aws("delete", name, "--yes")
    assert cloud.left() == []
    tell("delete: nothing of either version is left")


def test_an_endpoint_goes_from_aws_s_container_to_catdog_s_own_and_back(cloud: Cloud, photos: Path) -> None:
    name, asked = "catdog-own", sorted(photos.glob("*/*.jpg"))[:4]
    own = "123456789012.dkr.ecr.us-east-1.amazonaws.com/catdog:1"
    here = command("catdog.predict", *asked).out
    said = []
    for image in ("", own):
        deployed = cloud.aws("deploy", "embedded", "--name", name, "--image", image).answer
        assert deployed["tested"]["largest_difference"] <= deployed["tested"]["tolerance"]
        said.append(cloud.aws("invoke", name, *asked).out)
    cloud.aws("rollback", name)
    assert [*said, cloud.aws("invoke", name, *asked).out] == [here] * 3
    cloud.aws("delete", name, "--yes")
    assert cloud.left() == []
    tell("AWS's container, catdog's own and, rolled back, AWS's again: the same answers to the digit")


def test_a_training_that_dies_says_why(cloud: Cloud, photos: Path) -> None:
    only = cloud.aws("upload", photos / photos_of(photos)[0], "--prefix", "catdog/one/kind").answer["uri"]
    job = "catdog-train-dies"
    failed = cloud.aws("train", only, "--name", job, "--wait", "--", *SMALL, code=1)
    status = cloud.aws("status", job)
    assert status.answer["state"] == "Failed"
    reason = status.answer["failure"]
    assert "no photo of 'dog' in the train split; add photos" in reason
    assert f"{job}: failed: AlgorithmError" in failed.err
    with pytest.raises(cloud.moto("s3").exceptions.NoSuchKey):
        cloud.moto("s3").get_object(Bucket=BUCKET, Key=f"catdog/jobs/{job}/output/model.tar.gz")
    refused = cloud.aws("deploy", "--from-job", job, code=2)
    assert "has no model, its status is Failed" in refused.err
    assert "\\n" not in failed.err
    tell(f"a training that dies: {reason[:150]}")


def test_a_spot_job_that_is_interrupted_goes_on(cloud: Cloud, dataset: str, tmp_path: Path) -> None:
    first, second, chance = "catdog-train-spot", "catdog-train-spot-2", random.Random()
    # Before there is any checkpoint, and at some moment between or in the middle of two.
    moments = [("data: train", 0.0), (f"epoch={chance.randint(1, 3)} ", chance.uniform(0, 0.5))]
    cloud.sagemaker.interruptions[first] = moments
    settings = ("--", *SMALL, "--epochs", "24")  # an epoch takes a tenth of a second
    cloud.aws("train", dataset, "--spot", "--name", first, *settings)
    interrupted = [cloud.sagemaker.trainings[first]]
    while len(interrupted) <= len(moments):
        if cloud.sagemaker.trainings[first] is not interrupted[-1]:
            interrupted.append(cloud.sagemaker.trainings[first])
        time.sleep(0.05)
    interrupted[-1].interrupt("epoch=16 ", chance.uniform(0, 0.5))  # and nobody waits for a machine any longer
    cloud.sagemaker.wait_for(first)
    assert not any("SIGTERM" in container.log for container in interrupted)  # which the toolkit doesn't pass on
    assert cloud.aws("status", first).answer["state"] == "Stopped"
    done = cloud.aws("train", dataset, "--spot", "--name", second, "--resume", first, "--wait", *settings)
    assert done.answer["state"] == "Completed"
    log = cloud.sagemaker.trainings[second].log.splitlines()
    (line,) = [line for line in log if "going on from epoch" in line]
    history = (unpacked(cloud, done.answer["model"], tmp_path / "run") / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in history[1:]] == [str(epoch) for epoch in range(1, 25)]
    # From a checkpoint: of which epoch, how long an epoch and a writing took decides (see catdog.training.checkpoint).
    epoch = int(line.split("going on from epoch ")[1].split(",")[0])
    assert epoch > 1
    assert sum(line.startswith("epoch=") for line in log) == 25 - epoch
    tell(f"a spot job is interrupted at {moments}, then for good, and the next says: {line.strip()}")


def test_a_model_that_cannot_be_served_is_refused_before_anything_is_made(cloud: Cloud) -> None:
    good = archive({"contract.json": b"{}", "model.onnx": b"no model"})
    for key, data, reason in (
        ("cut", good[: len(good) // 2], "not a model.tar.gz that can be read"),
        ("text", b"<html>", "not a model.tar.gz that can be read"),
        ("bare", archive({"model.onnx": b"no model"}), "has no contract.json"),
        ("strange", good, "contract"),
    ):
        cloud.plane.seen.clear()
        uri = cloud.put(f"catdog/jobs/{key}/output/model.tar.gz", data)
        refused = cloud.aws("deploy", uri, "--name", "catdog-refused", code=2)
        assert reason in refused.err
        assert not [operation for operation in cloud.plane.seen if operation.startswith("Create")]
    assert cloud.left() == []
    tell("a cut, a strange and a contract-less model.tar.gz: refused, nothing was made")


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("catdog-cut", lambda data: data[: len(data) // 2], "Failed to extract model data archive"),
        ("catdog-bare", without_contract, "does not answer its test photo"),  # in service, as far as /ping knows
    ],
    ids=["cut", "without a contract"],
)
def test_an_endpoint_whose_model_is_damaged_in_s3_is_taken_back(
    cloud: Cloud, name: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    cloud.sagemaker.damage = damage
    cloud.sagemaker.patience_s = 10.0  # its worker never gets ready, so that every request waits to the end
    failed = cloud.aws("deploy", "embedded", "--name", name, "--test-timeout", "1", code=1)
    assert reason in failed.err
    assert "nothing of it is left" in failed.err
    assert cloud.left() == []
    tell(f"damaged in S3: {failed.err.splitlines()[-1][:150]}")


def test_a_deploy_that_is_ended_half_way_leaves_nothing(cloud: Cloud) -> None:
    cloud.plane.seen.clear()
    line = [sys.executable, "-m", "catdog.aws", "deploy", "embedded", "--name", "catdog-half"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while "DescribeEndpoint" not in itertools.dropwhile(lambda seen: seen != "CreateEndpoint", cloud.plane.seen):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "nothing of it is left" in error
    assert cloud.left() == []
    tell("a deploy that is ended half-way: nothing is left")


def test_a_deploy_that_aws_throttles_for_good_leaves_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # 8 take half a minute
    cloud.plane.faults["CreateEndpoint"] = itertools.repeat("throttle")
    failed = cloud.aws("deploy", "embedded", "--name", "catdog-throttled", code=2)
    assert "AWS asks for fewer requests" in failed.err
    assert "nothing of it is left" in failed.err
    assert cloud.left() == []
    tell(f"throttled for good: {failed.err.splitlines()[-1][:150]}")


def test_the_guard_refuses_what_would_leave_the_machine(everything: Cloud, tmp_path: Path) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
    notes = tmp_path / "notes"
    environ = os.environ | {"CATDOG_TEST_LEFT_THE_MACHINE": str(notes)}
    for python in (sys.executable, *map(str, toolkits())):
        done = subprocess.run([python, "-c", code], env=environ, capture_output=True, text=True)
        assert "refuses to leave this machine: 192.0.2.1" in done.stderr
    assert len(notes.read_text().splitlines()) == 3


def photos_of(folder: Path) -> list[str]:
    """The names of its class folders."""
    return sorted(path.name for path in folder.iterdir())
