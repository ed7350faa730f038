"""A training job's container on this machine: a folder like /opt/ml, and the real ``train`` of sagemaker-training.

container = Container(python, folder, request)      # CreateTrainingJob's parameters
container.lay_out(s3)                               # channels, hyperparameters, checkpoints of an earlier job
container.run() -> exit code
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any, Final

HOST: Final = "algo-1"
JOB_S: Final = 300.0
GRACE_S: Final = 2.0  # for the toolkit to end after SIGTERM; SageMaker gives 120
_FOREIGN: Final = ("SM_", "SAGEMAKER_", "CATDOG_OWNER", "CATDOG_ROLE", "CATDOG_BUCKET")


class Container:
    """One job's; it runs once."""

    def __init__(self, python: Path, base: Path, request: dict[str, Any]) -> None:
        """``python``: of the environment with the toolkit. ``base``: stands for /opt/ml, and must not exist."""
        self.base, self.request = base, request
        self.interrupted = False
        self._bin = python.parent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The job's."""
        return str(self.request["TrainingJobName"])

    @property
    def log(self) -> str:
        """All that the toolkit and train.py have said."""
        return (self.base / "train.log").read_text(errors="replace")

    @property
    def failure(self) -> str:
        """What the toolkit wrote down as the reason, "" without one."""
        path = self.base / "output" / "failure"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def checkpoints_uri(self) -> str | None:
        """Where they are kept."""
        uri: str | None = self.request.get("CheckpointConfig", {}).get("S3Uri")
        return uri

    def lay_out(self, s3: Any) -> None:
        """Make the folder as the toolkit expects it."""
        for folder in ("input/config", "input/data", "model", "output/data", "checkpoints", "code", "tmp"):
            (self.base / folder).mkdir(parents=True)
        channels = {}
        for channel in self.request["InputDataConfig"]:
            name, source = channel["ChannelName"], channel["DataSource"]["S3DataSource"]
            (self.base / "input/data" / name).mkdir()
            download(s3, source["S3Uri"], self.base / "input/data" / name)
            channels[name] = {
                "TrainingInputMode": "File",
                "S3DistributionType": source["S3DataDistributionType"],
                "RecordWrapperType": "None",
            }
        if self.checkpoints_uri:
            download(s3, self.checkpoints_uri, self.base / "checkpoints")
        machine = self.request["ResourceConfig"]["InstanceType"]
        # A container has /opt/ml/checkpoints; here, without root, it takes a setting.
        place = {"checkpoint_dir": json.dumps(str(self.base / "checkpoints"))}
        given = {k: v.replace("/opt/ml/", f"{self.base}/") for k, v in self.request["HyperParameters"].items()}
        config = {
            "hyperparameters": given | place,
            "inputdataconfig": channels,
            "resourceconfig": {
                "current_host": HOST,
                "hosts": [HOST],
                "current_instance_type": machine,
                "current_group_name": "homogeneousCluster",
                "instance_groups": [
                    {"instance_group_name": "homogeneousCluster", "instance_type": machine, "hosts": [HOST]}
                ],
                "network_interface_name": "lo",
            },
        }
        for name, content in config.items():
            (self.base / "input/config" / f"{name}.json").write_text(json.dumps(content))

    def run(self) -> int:
        """The exit code of ``train``; whatever it started has ended, too."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)} | {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "SAGEMAKER_BASE_DIR": str(self.base),
            "SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main",
            "TRAINING_JOB_NAME": self.name,
            "SM_STUDIO_LOCAL_MODE": "true",  # else it waits 15 minutes for DNS to know algo-1
            "USE_SMDEBUG": "0",
            "S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],  # for sourcedir.tar.gz
            "PIP_NO_INDEX": "1",  # all of requirements.txt is there
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "TMPDIR": str(self.base / "tmp"),
        }
        with (self.base / "train.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "train")],
                cwd=self.base,
                env=environ | self.request.get("Environment", {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return self._process.wait(JOB_S)
            except subprocess.TimeoutExpired:
                return 124
            finally:
                self.end()

    def interrupt(self, said: str, later_s: float = 0.0) -> None:
        """Take the machine away ``later_s`` after the log says this: SIGTERM to the toolkit, and the container's end.

        The toolkit ends at once, and with it the container: train.py gets no signal.
        """
        deadline = time.monotonic() + JOB_S
        while not (self._process and said in self.log):
            if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                raise TimeoutError(f"{self.name}: has not said {said!r}:\n{self.log}")
            time.sleep(0.02)
        time.sleep(later_s)
        self.interrupted = True
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self.end()

    def end(self) -> None:
        """A container's end: nothing in it lives on."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def model(self) -> bytes:
        """The model folder as model.tar.gz."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path in sorted((self.base / "model").iterdir()):
                archive.add(path, path.name)
        return packed.getvalue()

    def metrics(self) -> dict[str, float]:
        """The last value of each metric that the request's own regular expressions find in the log."""
        return {
            definition["Name"]: float(match[1])
            for definition in self.request["AlgorithmSpecification"]["MetricDefinitions"]
            for line in self.log.splitlines()
            if (match := re.search(definition["Regex"], line))
        }


def split(uri: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def download(s3: Any, uri: str, folder: Path) -> None:
    """All objects whose keys begin with the address's, as S3DataType S3Prefix means it."""
    bucket, prefix = split(uri)
    above = prefix if prefix.endswith("/") else prefix.rpartition("/")[0] + "/"
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            path = folder / entry["Key"].removeprefix(above)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())


def upload(s3: Any, folder: Path, uri: str) -> None:
    """All files; what is there and not here is removed, as the sync of checkpoints does."""
    bucket, prefix = split(uri.rstrip("/") + "/")
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ()):
        if entry["Key"].removeprefix(prefix) not in here:
            s3.delete_object(Bucket=bucket, Key=entry["Key"])
    for name, path in here.items():
        s3.put_object(Bucket=bucket, Key=prefix + name, Body=path.read_bytes())
