"""Whose AWS account, which region, role and bucket: what every command needs before it talks to AWS.

    me = account(region, role, bucket, owner, dry_run=False)
    me.client("sagemaker").create_endpoint(..., Tags=me.tags(Command="deploy"))

Nothing is asked of AWS until a client is used. In a dry run it never is: every client of ``me`` checks its requests
against AWS's own description of them, notes them in ``me.recorded`` and answers with an empty reply, so a dry run takes
the same path as the real thing, without credentials and without a network.
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
from catdog.errors import CatdogError, SettingsError

PROJECT: Final = "catdog"
ATTEMPTS: Final = 8  # of one request, inside botocore; AWS_MAX_ATTEMPTS overrides it
CONNECT_TIMEOUT_S: Final = 10
READ_TIMEOUT_S: Final = 70  # an endpoint may think for 60 s
CONNECTIONS: Final = 32
NO_ACCOUNT: Final = "000000000000"
"""Stands for the account's number in a dry run, which can't ask for it."""
STUDIO_METADATA: Final = Path("/opt/ml/metadata/resource-metadata.json")
"""In Studio and in notebook instances; says which role the code runs under."""

_NEEDS_MORE: Final = "catdog.aws needs more packages: pip install '.[aws]'"
_ROLE_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+")
_NOT_IN_TAGS: Final = re.compile(r"[^\w .:/=+@-]")
_REFUSED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken"}
    | {"UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed"}
    | {"RequestExpired", "TokenRefreshRequired", "IncompleteSignature", "MissingAuthenticationToken"}
)
_FORBIDDEN: Final = frozenset({"AccessDenied", "AccessDeniedException", "403", "Forbidden", "UnauthorizedOperation"})
_THROTTLED: Final = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
)


class CloudError(CatdogError):
    """What was asked of AWS did not come about: a job failed, an endpoint did not pass its test. Exit code 1."""


@dataclass(frozen=True)
class Account:
    """An account as one command uses it; made by ``account``."""

    region: str
    bucket: str | None
    owner: str
    role: str | None
    dry_run: bool = False
    recorded: list[dict[str, Any]] = field(default_factory=list, compare=False, repr=False)
    """A dry run's requests: service, operation, parameters."""
    _clients: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def session(self) -> Any:
        """The ``boto3.Session`` that all clients come from; raises SettingsError without boto3."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.session import Session
        except ImportError as error:
            raise SettingsError(_NEEDS_MORE) from error
        retries: dict[str, Any] = {"mode": os.environ.get("AWS_RETRY_MODE", "standard")}  # backs off, up to 20 s
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            retries["total_max_attempts"] = ATTEMPTS
        core = Session()
        core.set_default_client_config(  # for the clients, too, that the SageMaker SDK makes of this session
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
            session.events.register("before-call", _reply)
        return session

    def client(self, service: str) -> Any:
        """A service's boto3 client, with patience; honours AWS_ENDPOINT_URL and its kind. Threads may share it."""
        if service not in self._clients:
            self._clients[service] = self.session.client(service)
        return self._clients[service]

    def tags(self, **more: str) -> list[dict[str, str]]:
        """Project, Owner and ``more``, as SageMaker takes tags: ``[{"Key": ..., "Value": ...}, ...]``."""
        values = {"Project": PROJECT, "Owner": self.owner, **more}
        return [{"Key": key, "Value": tag_value(value)} for key, value in values.items()]

    def role_arn(self) -> str:
        """The role that jobs and endpoints run under: --role, CATDOG_ROLE, or this code's own inside SageMaker.

        Raises SettingsError, which says how to make one. A dry run completes a bare name with NO_ACCOUNT.
        """
        role = self.role or os.environ.get("CATDOG_ROLE") or studio_role()
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
            return f"arn:aws:iam::{NO_ACCOUNT}:role/{role}"
        client = self.client("iam")
        try:
            return str(client.get_role(RoleName=role)["Role"]["Arn"])
        except client.exceptions.NoSuchEntityException as error:
            raise SettingsError(f"--role {role}: the account has no such role; docs/aws/README.md makes one") from error

    def default_bucket(self) -> str:
        """--bucket or CATDOG_BUCKET; raises SettingsError where neither is given. No bucket is made in silence."""
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
        self.recorded.append({"service": service, "operation": model.name, "parameters": _plain(params)})


def account(
    region: str | None = None,
    role: str | None = None,
    bucket: str | None = None,
    owner: str | None = None,
    dry_run: bool = False,
) -> Account:
    """The account from the options of a command, AWS's own variables and configuration, and CATDOG_*.

    Raises SettingsError when no region is known.
    """
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError as error:
        raise SettingsError(_NEEDS_MORE) from error
    try:
        found = region or os.environ.get("AWS_REGION") or Session().get_config_variable("region")
    except BotoCoreError as error:
        raise SettingsError(explain(error)) from error
    if not found:
        raise SettingsError("no region; give --region us-east-1, say, or set AWS_DEFAULT_REGION")
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", found):
        raise SettingsError(f"--region {found}: not a region's name, such as us-east-1")
    return Account(
        region=found,
        bucket=bucket,
        owner=tag_value(owner or os.environ.get("CATDOG_OWNER") or _user()) or "unknown",
        role=role,
        dry_run=dry_run,
    )


def tag_value(text: str) -> str:
    """``text`` without what AWS allows in no tag, 256 characters at most."""
    return _NOT_IN_TAGS.sub("-", text)[:256]


def is_aws_error(error: BaseException) -> bool:
    """Whether boto3 raised it: AWS's refusal, or no way to reach AWS."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return False
    return isinstance(error, (BotoCoreError, ClientError, Boto3Error))


def code_of(error: BaseException) -> str:
    """AWS's word for what is wrong (``ValidationException``), or "" for what isn't AWS's answer."""
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def explain(error: BaseException) -> str:
    """What boto3 raised, in one sentence: what is wrong and what to do."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as e

    if isinstance(error, Boto3Error) and isinstance(error.__context__, (e.ClientError, e.BotoCoreError)):
        error = error.__context__  # upload_file and the like wrap what went wrong
    if isinstance(error, e.ClientError):
        return _explain_answer(error)
    if isinstance(error, e.ProfileNotFound):
        return f"{_first_line(error)}; AWS_PROFILE must name one of aws configure list-profiles"
    if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError)):
        return "no AWS credentials were found; run aws configure, or set AWS_PROFILE"
    if isinstance(error, (e.CredentialRetrievalError, e.TokenRetrievalError, e.SSOError)):
        return f"the AWS credentials can't be had ({_first_line(error)}); log in again"
    if isinstance(error, e.SSLError):
        return f"the server's certificate is not trusted ({_first_line(error)})"
    if isinstance(error, (e.HTTPClientError, e.ConnectionError)):
        return f"AWS can't be reached ({_first_line(error)}); check the network, --region and AWS_ENDPOINT_URL"
    if isinstance(error, e.ParamValidationError):
        return " ".join(str(error).split())
    return f"AWS can't be used ({_first_line(error)})"


def _explain_answer(error: Any) -> str:
    code, what = code_of(error), error.operation_name
    message = str(error.response.get("Error", {}).get("Message", "")).strip() or code
    message = " ".join(message.split())
    if code in _FORBIDDEN:
        named = re.search(r"not authorized to perform:? ([\w:-]+)", message)
        action = named[1] if named else what
        return f"AWS forbids {action}; the policies in docs/aws/ allow what each command needs ({message})"
    if code in _REFUSED:
        return f"the AWS credentials are refused ({code}); renew them and start again"
    if code in _THROTTLED:
        return f"AWS asks for fewer requests, still after {ATTEMPTS} attempts at {what}; try again in a minute"
    if code in ("ResourceLimitExceeded", "ServiceQuotaExceededException", "LimitExceededException"):
        return f"a quota of the account is too small: {message} (Service Quotas in the console raises it)"
    if code == "NoSuchBucket":
        return f"there is no bucket {error.response['Error'].get('BucketName', '')}".rstrip() + "; check --bucket"
    if code in ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return "the bucket is in another region; give --region, or use a bucket in this one"
    if code in ("404", "NoSuchKey", "NotFound"):
        return f"there is no such object in S3 ({what})"
    return f"AWS refuses {what}: {message}"


def studio_role(metadata: Path = STUDIO_METADATA) -> str | None:
    """The role of the Studio app or notebook that this runs in; None elsewhere."""
    try:
        found = json.loads(metadata.read_text(encoding="utf-8")).get("ExecutionRoleArn")
    except (OSError, ValueError, AttributeError):
        return None
    return str(found) if found else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _reply(model: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
    """A dry run's answer to every request: success, and nothing in it but what boto3 itself must have."""
    from botocore.awsrequest import AWSResponse

    needed = {"CreateMultipartUpload": {"UploadId": "dry-run"}, "UploadPart": {"ETag": "dry-run"}}
    about = {"ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {}}}
    return AWSResponse("", 200, {}, None), {**needed.get(model.name, {}), **about}


def _plain(value: Any) -> Any:
    """A request's parameters as JSON can hold them; bytes and files by their size."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    try:
        return f"<{len(value)} bytes>"
    except TypeError:
        return str(value) if not hasattr(value, "read") else "<a stream>"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
