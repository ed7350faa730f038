"""SageMaker on this machine: what moto only records is done, in AWS's own toolkits.

    with SageMaker(plane, shim, folder, toolkits(), client):
        ...                                       # CreateTrainingJob trains, CreateEndpoint serves, and so on

A training job runs in a training_container.Container; its output, log, metrics and failure go where AWS puts them. An
endpoint and a transform job get TorchServe, started by the real ``serve``, with the model.tar.gz of CreateModel, or
with catdog's own image its ``catdog serve``. The
server of before an update answers until the new one does.
"""

from __future__ import annotations

import contextlib
import itertools
import tarfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from os import environ
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import httpx

from catdog.aws.containers import has_serving_toolkit
from tests.integration.control_plane import ControlPlane
from tests.integration.runtime_shim import RuntimeShim, Target
from tests.integration.server_process import ServerProcess
from tests.integration.toolkits import Answer, Serve, environment, serving_python
from tests.integration.training_container import HOST, JOB_S, Container, split, upload

# setuptools: torch 2.15 and others want it, and the toolkit pip-installs requirements.txt beside what is there.
TRAINING: Final = ("sagemaker-training==5.1.4", "sagemaker-pytorch-training==3.0.0", "setuptools>=77.0.3,<81", "wheel")
"""What the container has (PyTorch training 2.6.0, py312)."""
GUARD: Final = ("PYTHONPATH", "CATDOG_TEST_LEFT_THE_MACHINE")
"""What loopback/sitecustomize.py needs."""
LOG_GROUP: Final = "/aws/sagemaker/TrainingJobs"
START_S: Final = 60.0
INVOKE_S: Final = 60.0  # as SageMaker gives
REASON_LENGTH: Final = 1024


class Toolkits(NamedTuple):
    """A Python for each of the two containers."""

    training: Path
    serving: Path


def toolkits() -> Toolkits:
    """Both, made on first use; skips the test where one can't be had."""
    return Toolkits(environment("training", TRAINING), serving_python())


class OwnServer:
    """What catdog's own image runs, as SageMaker starts it; it is used as Serve is."""

    def __init__(self, archive: Path, folder: Path, variables: Mapping[str, str]) -> None:
        with tarfile.open(archive) as file:
            file.extractall(folder / "model", filter="data")
        self._server = ServerProcess(
            folder / "serve.log", env={**variables, "CATDOG_MODEL": str(folder / "model")}, cwd=folder
        )

    def __enter__(self) -> OwnServer:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def wait_ready(self) -> None:
        self._server.wait_ready()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Answer:
        """One request; raises OSError where there is no answer."""
        try:
            found = self._server.http.request(method, path, content=body, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise ConnectionError(repr(error)) from error
        return Answer(found.status_code, found.headers.get("content-type", ""), found.content)

    def post(self, body: bytes, content_type: str, accept: str) -> Answer:
        return self.request("POST", "/invocations", body, {"Content-Type": content_type, "Accept": accept})


class SageMaker:
    """The machines behind a control plane; ``with`` has all of them ended."""

    def __init__(
        self,
        plane: ControlPlane,
        shim: RuntimeShim,
        folder: Path,
        toolkits: Toolkits,
        moto: Callable[[str], Any],
    ) -> None:
        """``moto``: a client for a service that reaches moto past the proxy."""
        self._plane, self._shim, self._folder, self._toolkits = plane, shim, folder, toolkits
        self._sagemaker, self._s3, self._logs = (moto(service) for service in ("sagemaker", "s3", "logs"))
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="sagemaker")
        self._work: list[Future[None]] = []
        self._ended: dict[str, Future[None]] = {}
        self._servers: dict[str, Serve | OwnServer] = {}
        self._numbers = itertools.count()
        self.trainings: dict[str, Container] = {}
        """By the job's name; those that have ended, too."""
        self.interruptions: dict[str, list[tuple[str, float]]] = {}
        """By a spot job's name: when its machines are taken away, one after the other, for Container.interrupt."""
        self.patience_s = INVOKE_S
        """How long a request may take."""
        self.damage: Callable[[bytes], bytes] = bytes
        """What happens to a model.tar.gz on its way from S3 to an endpoint."""

    def __enter__(self) -> SageMaker:
        self._plane.on_done = self._granted
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in self.trainings.values():
            container.end()
        for name in list(self._servers):
            self._stop_serving(name)
        self._pool.shutdown()
        if kind is None:
            for work in self._work:
                work.result()  # an error in what stands for SageMaker is the test's

    def wait_for(self, job: str) -> None:
        """Until a training job has ended, or an endpoint is there."""
        self._ended[job].result(JOB_S)

    def _granted(self, operation: str, asked: dict[str, Any]) -> None:
        """Begin what was asked for; AWS's answer says that it is under way, not that it is done."""
        if operation == "CreateTrainingJob":
            name = asked["TrainingJobName"]
            # The request as it came: moto puts metric definitions of its own into its description.
            self.trainings[name] = Container(self._toolkits.training, self._folder / "training" / name, asked)
            self._say(name, TrainingJobStatus="InProgress", SecondaryStatus="Starting")
            self._ended[name] = self._begin(self._train, self.trainings[name])
        elif operation == "CreateTransformJob":
            self._say(asked["TransformJobName"], TransformJobStatus="InProgress")
            self._begin(self._transform, asked)
        elif operation in ("CreateEndpoint", "UpdateEndpoint"):
            name = asked["EndpointName"]
            self._say(name, EndpointStatus="Creating" if operation == "CreateEndpoint" else "Updating")
            self._ended[name] = self._begin(self._serve, name)
        elif operation == "DeleteEndpoint":
            self._begin(self._stop_serving, asked["EndpointName"])

    def _begin(self, work: Callable[..., None], *arguments: object) -> Future[None]:
        begun = self._pool.submit(work, *arguments)
        self._work.append(begun)
        return begun

    def _say(self, name: str, **state: Any) -> None:
        """What Describe... says from now on, besides what moto says."""
        self._plane.states[name] = itertools.repeat(state)

    def _train(self, container: Container) -> None:
        name, began = container.name, time.time()
        for number, planned in enumerate([*self.interruptions.get(name, ()), None], start=1):
            container.lay_out(self._s3)
            self._say(name, TrainingJobStatus="InProgress", SecondaryStatus="Training")
            if planned:
                self._begin(container.interrupt, *planned)
            code = container.run()
            if container.checkpoints_uri:
                upload(self._s3, container.base / "checkpoints", container.checkpoints_uri)
            self._write_log(name, container.log)
            if planned:  # a spot job goes on by itself, on another machine
                self._say(name, TrainingJobStatus="InProgress", SecondaryStatus="Interrupted")
                folder = self._folder / "training" / f"{name}.{number}"
                container = self.trainings[name] = Container(self._toolkits.training, folder, container.request)
        ended = time.time()
        state: dict[str, Any] = {
            "TrainingStartTime": began,
            "TrainingEndTime": ended,
            "TrainingTimeInSeconds": round(ended - began),
            "BillableTimeInSeconds": round(ended - began),
            "SecondaryStatusTransitions": [],
            "FinalMetricDataList": [
                {"MetricName": metric, "Value": value, "Timestamp": ended}
                for metric, value in container.metrics().items()
            ],
        }
        if container.interrupted:
            state |= {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"}
        elif code:
            reason = f"AlgorithmError: {container.failure or f'exit code {code}'}"[:REASON_LENGTH]
            state |= {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason}
        else:
            uri = f"{container.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}/output/model.tar.gz"
            bucket, key = split(uri)
            self._s3.put_object(Bucket=bucket, Key=key, Body=container.model())
            state |= {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
            state["ModelArtifacts"] = {"S3ModelArtifacts": uri}
        self._say(name, **state)

    def _write_log(self, name: str, log: str) -> None:
        """To CloudWatch, where ``status --logs`` and ``train --wait`` read it."""
        place = {"logGroupName": LOG_GROUP, "logStreamName": f"{name}/{HOST}-{time.time_ns()}"}
        with contextlib.suppress(self._logs.exceptions.ResourceAlreadyExistsException):
            self._logs.create_log_group(logGroupName=LOG_GROUP)
        self._logs.create_log_stream(**place)
        now = round(time.time() * 1000)
        events = [{"timestamp": now, "message": line} for line in log.splitlines() if line.strip()]
        for start in range(0, len(events), 1000):
            self._logs.put_log_events(**place, logEvents=events[start : start + 1000])

    def _new_server_folder(self) -> Path:
        """A short name: TorchServe's sockets lie in it, and a socket's path may have 107 bytes."""
        return self._folder / str(next(self._numbers))

    def _server(self, model: str, folder: Path, damage: Callable[[bytes], bytes] = bytes) -> Serve | OwnServer:
        """A server, not yet started, with a model as CreateModel has it. Raises tarfile.TarError, EOFError."""
        container = self._sagemaker.describe_model(ModelName=model)["PrimaryContainer"]
        bucket, key = split(container["ModelDataUrl"])
        folder.mkdir(parents=True)
        archive = folder / "model.tar.gz"
        archive.write_bytes(damage(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
        if not has_serving_toolkit(container["Image"]):
            return OwnServer(archive, folder, container["Environment"])
        variables = container["Environment"] | {
            "SAGEMAKER_SUBMIT_DIRECTORY": str(folder / "base/model/code"),
            **{name: environ[name] for name in GUARD if name in environ},  # Serve would leave them out
        }
        workers = int(variables["SAGEMAKER_MODEL_SERVER_WORKERS"])
        return Serve(self._toolkits.serving, archive, folder, variables, workers)

    def _serve(self, name: str) -> None:
        try:
            config = self._sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
            variant = self._sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
            server = self._server(variant["ModelName"], self._new_server_folder(), self.damage)
        except (tarfile.TarError, EOFError) as error:
            self._say(name, EndpointStatus="Failed", FailureReason=f"Failed to extract model data archive: {error}")
            return
        except self._sagemaker.exceptions.ClientError:  # deleted before it was begun
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(server)
            if not _pings(server):
                self._say(name, EndpointStatus="Failed", FailureReason="The container did not pass the ping check.")
                return
            stack.pop_all()
        former, self._servers[name] = self._servers.get(name), server
        self._shim.targets[name] = _target(server, self.patience_s)
        self._say(name, EndpointStatus="InService")  # SageMaker, too, asks no more than /ping
        if former:
            former.__exit__(None, None, None)

    def _stop_serving(self, name: str) -> None:
        self._ended[name].result(START_S)
        self._plane.states.pop(name, None)
        self._shim.targets.pop(name, None)
        if server := self._servers.pop(name, None):
            server.__exit__(None, None, None)

    def _transform(self, request: dict[str, Any]) -> None:
        name, sent = request["TransformJobName"], request["TransformInput"]
        bucket, prefix = split(sent["DataSource"]["S3DataSource"]["S3Uri"])
        to_bucket, to_prefix = split(request["TransformOutput"]["S3OutputPath"])
        began, refused = time.time(), []
        with self._server(request["ModelName"], self._new_server_folder()) as server:
            server.wait_ready()
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    body = self._s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                    answer = server.post(body, sent["ContentType"], request["TransformOutput"]["Accept"])
                    if answer.status == 200:
                        key = f"{to_prefix}/{entry['Key'].removeprefix(prefix)}.out"
                        self._s3.put_object(Bucket=to_bucket, Key=key, Body=answer.body)
                    else:
                        refused.append(f"{entry['Key']}: {answer.status}")
        state: dict[str, Any] = {"TransformJobStatus": "Completed"}
        if refused:
            reason = f"ClientError: See job logs for more information ({refused[0]})"
            state = {"TransformJobStatus": "Failed", "FailureReason": reason}
        self._say(name, TransformStartTime=began, TransformEndTime=time.time(), **state)


def _target(server: Serve | OwnServer, patience_s: float) -> Target:
    def invoke(body: bytes, content_type: str, accept: str) -> tuple[int, bytes, str]:
        headers = {name: value for name, value in (("Content-Type", content_type), ("Accept", accept)) if value}
        answer = server.request("POST", "/invocations", body, headers, timeout=patience_s)
        return answer.status, answer.body, answer.content_type

    return invoke


def _pings(server: Serve | OwnServer) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if server.request("GET", "/ping", timeout=5).status == 200:
                return True
        time.sleep(0.1)
    return False
