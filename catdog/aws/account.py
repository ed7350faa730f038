"""Which AWS account, region, role and bucket a command works with, and the boto3 clients that it uses.

    account = find_account(region, role, bucket, owner, dry_run=False)
    account.client("sagemaker").create_endpoint(..., Tags=account.make_tags(Command="deploy"))

Nothing is sent to AWS until a client is used. In a dry run nothing is ever sent: every client checks its requests
against AWS's own description of them, adds them to ``account.recorded`` and returns an empty response. So a dry run
executes the same code as a real one, without credentials and without a network.
"""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from catdog import __version__
from catdog.aws.failures import ATTEMPTS, explain_error
from catdog.errors import SettingsError

PROJECT: Final = "catdog"
CONNECT_TIMEOUT_S: Final = 10
READ_TIMEOUT_S: Final = 70  # an endpoint may take 60 s to answer
CONNECTIONS: Final = 32
PLACEHOLDER_ACCOUNT: Final = "000000000000"
"""Stands for the account's number in a dry run, which can't ask for it."""
STUDIO_METADATA: Final = Path("/opt/ml/metadata/resource-metadata.json")
"""Exists in Studio and in notebook instances, and says which role the code runs under."""

_ROLE_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+")
_NOT_IN_TAGS: Final = re.compile(r"[^\w .:/=+@-]")


@dataclass(frozen=True)
class Account:
    """The AWS account that one command works with. ``find_account`` makes it."""

    region: str
    bucket: str | None
    owner: str
    role: str | None
    dry_run: bool = False
    recorded: list[dict[str, Any]] = field(default_factory=list, compare=False, repr=False)
    """The requests of a dry run, each with its service, operation and parameters."""
    asked_region: str | None = None
    """What the user gave by --region; the next command needs it too."""
    _clients: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def session(self) -> Any:
        """The ``boto3.Session`` that makes all clients."""
        import boto3
        from botocore.config import Config
        from botocore.session import Session

        retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}  # backs off, up to 20 s
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            retries["total_max_attempts"] = ATTEMPTS
        core = Session()
        core.set_default_client_config(  # so that it also holds for the clients that the SageMaker SDK makes
            Config(
                retries=retries,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=CONNECTIONS,
                user_agent_extra=f"{PROJECT}/{__version__}",
            )
        )
        session = boto3.Session(botocore_session=core, region_name=self.region)
        if self.dry_run:
            session.events.register("before-parameter-build", self._record)
            session.events.register("before-call", _make_empty_response)
        return session

    def client(self, service: str) -> Any:
        """Return the boto3 client of a service, which retries with growing pauses. Threads may share it.

        It honours AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE>.
        """
        if service not in self._clients:
            self._clients[service] = self.session.client(service)
        return self._clients[service]

    def make_tags(self, **more: str) -> list[dict[str, str]]:
        """Return the tags Project, Owner and ``more`` in SageMaker's form: ``[{"Key": ..., "Value": ...}, ...]``."""
        values = {"Project": PROJECT, "Owner": self.owner, **more}
        return [{"Key": key, "Value": clean_tag(value)} for key, value in values.items()]

    @property
    def named_role(self) -> str | None:
        """The role that the user, the environment or the notebook gives, as it is given."""
        return self.role or os.environ.get("CATDOG_ROLE") or find_studio_role()

    def find_role_arn(self) -> str:
        """Return the role that jobs and endpoints run under: --role, CATDOG_ROLE, or inside SageMaker this code's own.

        Raises SettingsError if there is none. In a dry run a bare name is completed with PLACEHOLDER_ACCOUNT.
        """
        role = self.named_role
        if not role:
            raise SettingsError(
                "no role for SageMaker to work under; give --role NAME or set CATDOG_ROLE "
                "(docs/aws/README.md makes one in two commands)"
            )
        if _ROLE_ARN.fullmatch(role):
            return role
        if not re.fullmatch(r"[\w+=,.@-]{1,64}", role):
            raise SettingsError(f"--role {role}: is neither a role's name nor its ARN")
        if self.dry_run:
            return f"arn:aws:iam::{PLACEHOLDER_ACCOUNT}:role/{role}"
        client = self.client("iam")
        try:
            return str(client.get_role(RoleName=role)["Role"]["Arn"])
        except client.exceptions.NoSuchEntityException as error:
            raise SettingsError(f"--role {role}: the account has no such role; docs/aws/README.md makes one") from error

    def require_bucket(self) -> str:
        """Return --bucket or CATDOG_BUCKET; raises SettingsError if neither is given. catdog never makes a bucket."""
        bucket = self.bucket or os.environ.get("CATDOG_BUCKET", "")
        bucket = bucket.removeprefix("s3://").rstrip("/")
        if not bucket:
            raise SettingsError(
                "no bucket; give --bucket NAME or set CATDOG_BUCKET (docs/aws/README.md makes a private, encrypted one)"
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise SettingsError(f"--bucket {bucket}: not a name that S3 allows")
        return bucket

    def _record(self, params: Mapping[str, Any], model: Any, **_: Any) -> None:
        service = model.service_model.service_name
        self.recorded.append({"service": service, "operation": model.name, "parameters": _to_json(params)})


def find_account(
    region: str | None = None,
    role: str | None = None,
    bucket: str | None = None,
    owner: str | None = None,
    dry_run: bool = False,
) -> Account:
    """Return the account that a command's options, AWS's own variables and configuration, and CATDOG_* describe.

    Raises SettingsError if no region is known.
    """
    import boto3  # noqa: F401  so that it is missed here, and not in the middle of the work
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        chosen = region or os.environ.get("AWS_REGION") or Session().get_config_variable("region")
    except BotoCoreError as error:
        raise SettingsError(explain_error(error)) from error
    if not chosen:
        raise SettingsError("no region; give --region us-east-1, say, or set AWS_DEFAULT_REGION")
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", chosen):
        raise SettingsError(f"--region {chosen}: not a region's name, such as us-east-1")
    return Account(
        region=chosen,
        bucket=bucket,
        owner=clean_tag(owner or os.environ.get("CATDOG_OWNER") or _find_user()) or "unknown",
        role=role,
        dry_run=dry_run,
        asked_region=region,
    )


def clean_tag(text: str) -> str:
    """Replace what AWS allows in no tag, and cut the text to 256 characters."""
    return _NOT_IN_TAGS.sub("-", text)[:256]


def find_studio_role(metadata: Path = STUDIO_METADATA) -> str | None:
    """Return the role of the Studio app or notebook that this runs in, or None elsewhere."""
    try:
        role = json.loads(metadata.read_text(encoding="utf-8")).get("ExecutionRoleArn")
    except (OSError, ValueError, AttributeError):
        return None
    return str(role) if role else None


def _find_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _make_empty_response(model: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
    """Return the response to every request of a dry run: success, with only the fields that boto3 itself needs."""
    from botocore.awsrequest import AWSResponse

    needed = {"CreateMultipartUpload": {"UploadId": "dry-run"}, "UploadPart": {"ETag": "dry-run"}}
    metadata = {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {}}}
    return AWSResponse("", 200, {}, None), {**needed.get(model.name, {}), **metadata}


def _to_json(value: Any) -> Any:
    """Return a request's parameters as JSON can hold them, with bytes and files as their size."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    try:
        return f"<{len(value)} bytes>"
    except TypeError:
        return str(value) if not hasattr(value, "read") else "<a stream>"
