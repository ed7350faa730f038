"""What to do when a request to AWS fails: say why in one sentence, carry on where that is right, or undo.

explain_error(error) -> "AWS forbids sagemaker:CreateModel; the policies in docs/aws/ allow ..."

with Undo(say) as undo:
    undo.add_deletion(f"model {name}", sagemaker.delete_model, ModelName=name)
    create_once(sagemaker.create_model, ModelName=name, ...)
    ...  # if this fails, the model is deleted again
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeVar

from catdog.errors import CatdogError
from catdog.text import first_line

ATTEMPTS: Final = 8  # of one request, inside botocore; AWS_MAX_ATTEMPTS overrides it

# AWS's error codes, by what they mean. Services differ in how they spell the same thing.
FORBIDDEN: Final = frozenset({"AccessDenied", "AccessDeniedException", "403", "Forbidden", "UnauthorizedOperation"})
NO_OBJECT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_BAD_CREDENTIALS: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken"}
    | {"UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed"}
    | {"RequestExpired", "TokenRefreshRequired", "IncompleteSignature", "MissingAuthenticationToken"}
)
_THROTTLED: Final = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}
)
BUSY: Final = _THROTTLED | frozenset(
    {"ModelNotReadyException", "ServiceUnavailable", "ServiceUnavailableException"}
    | {"InternalFailure", "InternalDependencyException", "InternalServerException"}
)
"""The same request may succeed a moment later."""
_QUOTA: Final = frozenset({"ResourceLimitExceeded", "ServiceQuotaExceededException", "LimitExceededException"})
_OTHER_REGION: Final = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_MISSING: Final = frozenset({"ResourceNotFound", "ResourceNotFoundException", "ObjectNotFoundException"})
_INVALID: Final = frozenset({"ValidationError", "ValidationException"})

T = TypeVar("T")


class CloudError(CatdogError):
    """AWS took the request, but the job failed or the endpoint did not pass its test. Exit code 1."""


def is_aws_error(error: BaseException) -> bool:
    """Return whether boto3 raised this error: AWS refused, or AWS could not be reached."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return False
    return isinstance(error, (BotoCoreError, ClientError, Boto3Error))


def error_code(error: BaseException) -> str:
    """Return AWS's word for what is wrong (``ValidationException``), or "" for an error that AWS did not send."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def is_missing(error: BaseException) -> bool:
    """Return whether AWS says that there is no such endpoint, config, model, job or scaling target."""
    code, text = error_code(error), str(error).lower()
    return code in _MISSING or (
        code in _INVALID and any(words in text for words in ("could not find", "not found", "not exist"))
    )


def already_exists(error: BaseException) -> bool:
    """Return whether AWS refuses to create something because its name is taken."""
    return is_aws_error(error) and "already exist" in str(error).lower()


def find(call: Callable[..., T], **arguments: Any) -> T | None:
    """Return what ``call`` returns, or None if AWS has nothing of that name."""
    try:
        return call(**arguments)
    except Exception as error:
        if is_missing(error):
            return None
        raise


def delete_if_present(call: Callable[..., object], **arguments: Any) -> None:
    """Run ``call``, which deletes something that may be gone already."""
    find(call, **arguments)


def create_once(call: Callable[..., object], **arguments: Any) -> None:
    """Run ``call``, which creates something under a name that nobody else uses.

    If AWS says that the name is taken, an earlier attempt succeeded and only its response was lost.
    """
    try:
        call(**arguments)
    except Exception as error:
        if not already_exists(error):
            raise


class Undo:
    """Undo the steps that were taken, last one first, if the ``with`` block raises an error."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """``say`` tells the user what is being undone and what could not be."""
        self._say = say
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, undo_step: Callable[[], object]) -> None:
        """Call this before sending the request: if its response is lost, the step must still be undone.

        ``what`` names the thing that the request makes; the user sees it if ``undo_step`` fails.
        """
        self._steps.append((what, undo_step))

    def add_deletion(self, what: str, delete: Callable[..., object], **arguments: Any) -> None:
        """Like ``add``, for a step that is undone by deleting ``what``, if it was made at all."""
        self.add(what, lambda: delete_if_present(delete, **arguments))

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or not self._steps:
            return
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self._say(f"{why}; undoing what was done so far (another Ctrl-C leaves the rest as it is)")
        remaining = []
        while self._steps:
            what, undo_step = self._steps.pop()
            try:
                undo_step()
            except KeyboardInterrupt:
                remaining += [what, *(earlier for earlier, _ in reversed(self._steps))]
                break
            except Exception as problem:
                remaining.append(f"{what} ({explain_error(problem) if is_aws_error(problem) else problem})")
        self._say(f"left behind: {'; '.join(remaining)}" if remaining else "nothing of it is left")


def explain_error(error: BaseException) -> str:
    """Say in one sentence what went wrong in boto3 and what the user can do."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as e

    if isinstance(error, Boto3Error) and isinstance(error.__context__, (e.ClientError, e.BotoCoreError)):
        error = error.__context__  # upload_file and its kind wrap the error that says why
    if isinstance(error, e.ClientError):
        return _explain_refusal(error)
    if isinstance(error, e.ProfileNotFound):
        return f"{first_line(error)}; AWS_PROFILE must name one of aws configure list-profiles"
    if isinstance(error, (e.NoCredentialsError, e.PartialCredentialsError)):
        return "no AWS credentials were found; run aws configure, or set AWS_PROFILE"
    if isinstance(error, (e.CredentialRetrievalError, e.TokenRetrievalError, e.SSOError)):
        return f"the AWS credentials could not be fetched ({first_line(error)}); log in again"
    if isinstance(error, e.SSLError):
        return f"the server's certificate is not trusted ({first_line(error)})"
    if isinstance(error, (e.HTTPClientError, e.ConnectionError)):
        return f"AWS can't be reached ({first_line(error)}); check the network, --region and AWS_ENDPOINT_URL"
    if isinstance(error, e.ParamValidationError):
        return " ".join(str(error).split())
    return f"AWS can't be used ({first_line(error)})"


def _explain_refusal(error: Any) -> str:
    code, operation = error_code(error), error.operation_name
    details = error.response.get("Error", {})
    message = " ".join(str(details.get("Message", "")).split()) or code
    if code in FORBIDDEN:
        denied = re.search(r"not authorized to perform:? ([\w:-]+)", message)
        action = denied[1] if denied else operation
        return f"AWS forbids {action}; the policies in docs/aws/ allow what each command needs ({message})"
    if code in _BAD_CREDENTIALS:
        return f"AWS refuses the credentials ({code}); renew them and start again"
    if code in _THROTTLED:
        return f"AWS asks for fewer requests, still after {ATTEMPTS} attempts at {operation}; try again in a minute"
    if code in _QUOTA:
        return f"a quota of the account is too small: {message} (Service Quotas in the console raises it)"
    if code == "NoSuchBucket":
        return f"there is no bucket {details.get('BucketName', '')}".rstrip() + "; check --bucket"
    if code in _OTHER_REGION:
        return "the bucket is in another region; give --region, or use a bucket in this one"
    if code in NO_OBJECT:
        return f"there is no such object in S3 ({operation})"
    return f"AWS refuses {operation}: {message}"
