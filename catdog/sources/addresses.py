"""Addresses of objects, and what is wrong when a store refuses: obstore's exceptions as sentences for a person.

split_uri("s3://bucket/some/key") -> ("s3://bucket", "some/key")
with explain_errors("s3://bucket/some/key"): ...    DataError: s3://bucket: there is no such bucket; check its name
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from catdog.errors import CatdogError, DataError, ImageError, SettingsError
from catdog.sources.names import OBJECT_SCHEMES

S3_SCHEME: Final = "s3://"
# AWS's rule for new buckets, widened to what older ones and other makes have.
_BUCKET: Final = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]{1,254}")
_ERROR_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_HOST: Final = re.compile(r"https?://([^/\s?]+)")
_NO_CREDENTIALS: Final = re.compile(r"External AWS credential provider: \w+: (.*)")
_NOT_THERE: Final = frozenset({"NoSuchKey", "404", "NotFound", "BlobNotFound"})
_BROKE_OFF: Final = ("body error", "error sending request", "error decoding response")
_S3_ACTIONS: Final = "s3:ListBucket and s3:GetObject (where results go s3:PutObject and s3:DeleteObject, too)"
_GO_ON: Final = "start the same command again: it goes on"

# Words of the stores (error codes, HTTP statuses where they send no body) and of obstore's debug text, as patterns;
# what is wrong and what to do; whether the next object would fail just the same.
_EXPLANATIONS: Final = (
    ("NoSuchBucket|ContainerNotFound", "there is no such bucket; check its name", True),
    (
        "AccessDenied|403|Forbidden|AllAccessDisabled|AuthorizationFailure",
        f"access is forbidden; the credentials in use need {_S3_ACTIONS}",
        False,
    ),
    (
        "ExpiredToken|ExpiredTokenException|InvalidAccessKeyId|InvalidToken|400|401|TokenRefreshRequired|"
        "SignatureDoesNotMatch|RequestTimeTooSkewed|AuthenticationFailed",
        f"the AWS credentials are refused ({{code}}); renew them, then {_GO_ON}",
        True,
    ),
    (
        "PermanentRedirect|301|AuthorizationHeaderMalformed|IllegalLocationConstraintException",
        "the bucket is in another region; set AWS_DEFAULT_REGION to it",
        True,
    ),
    ("InvalidObjectState|BlobArchived", "it is archived (Glacier); restore it to S3 first", False),
    (
        "PreconditionFailed|412|ConditionalRequestConflict|ConditionNotMet",
        "it was replaced by another one in the meantime; start again",
        False,
    ),
    ("invalid peer certificate|certificate verify failed", "the server's certificate is not trusted", True),
    (
        r"tcp connect error|dns error|\bConnect,",
        f"can't be reached{{host}}; check the network and AWS_ENDPOINT_URL, then {_GO_ON}",
        True,
    ),
)


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` -> ``("s3://bucket", "some/key")``; the key may be empty. Raises SettingsError."""
    scheme, rest = uri[:5].lower(), uri[5:]
    bucket, _, key = rest.partition("/")
    if scheme not in OBJECT_SCHEMES or not _BUCKET.fullmatch(bucket):
        name = "an S3" if scheme not in OBJECT_SCHEMES[1:] else "an object's"
        raise SettingsError(
            f"{uri}: not {name} address; give {scheme if scheme in OBJECT_SCHEMES else 's3://'}bucket/key"
        )
    return f"{scheme}{bucket}", key


def split_s3_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` -> ``("bucket", "some/key")``, for requests to AWS; raises SettingsError."""
    root, key = split_uri(uri)
    if not root.startswith(S3_SCHEME):
        raise SettingsError(f"{uri}: not an S3 address; give s3://bucket/key")
    return root[len(S3_SCHEME) :], key


@contextmanager
def explain_errors(place: str) -> Iterator[None]:
    """Turn what obstore raises in the block into a DataError: ``place``, what is wrong, and what to do."""
    try:
        yield
    except CatdogError:
        raise
    except Exception as error:
        text = str(error)
        if not type(error).__module__.startswith("obstore") and not isinstance(error, (FileNotFoundError, ValueError)):
            raise
        root = split_uri(place)[0]
        code = _find_code(text)
        if "arse path" in text or "invalid path" in text:
            raise UnnamableKeyError(f"{place}: a key that obstore has no name for ({shorten_message(text)})") from error
        if (isinstance(error, FileNotFoundError) and code != "NoSuchBucket") or code in _NOT_THERE:
            raise MissingObjectError(f"{place}: there is no such object") from error
        explanation, concerns_all = _explain(code, text)
        if not root.startswith(S3_SCHEME):
            explanation = explanation.replace(
                _S3_ACTIONS, "to be allowed to list and read (where results go to write, too)"
            )
        if concerns_all:
            raise DataError(f"{root}: {explanation}") from error
        if not code and any(words in text for words in _BROKE_OFF):
            raise BrokenOffError(f"{place}: {explanation}") from error
        raise ObjectError(f"{place}: {explanation}") from error


class ObjectError(DataError):
    """What is wrong with one object, and says nothing about the others."""


class MissingObjectError(ObjectError):
    """There is no such object."""


class BrokenOffError(ObjectError):
    """A transfer that broke off, though it was tried again and again."""


class UnnamableKeyError(ObjectError):
    """A key that obstore has no name for: ``a//b``, or one with control characters."""


@contextmanager
def about_a_photo(uri: str) -> Iterator[None]:
    """Turn a problem of one object into an ImageError."""
    try:
        yield
    except MissingObjectError as error:
        raise ImageError(f"{uri}: no such object", "missing") from error
    except ObjectError as error:
        raise ImageError(str(error), "unreadable") from error


def _explain(code: str, text: str) -> tuple[str, bool]:
    """What is wrong and what to do, as the end of a sentence; and whether the next object would fail just the same."""
    if found := _NO_CREDENTIALS.search(text):
        known = found[1].startswith("no AWS credentials")
        return (found[1] if known else f"the AWS credentials can't be had ({found[1]}); log in again"), True
    for words, explanation, concerns_all in _EXPLANATIONS:
        if re.fullmatch(words, code) if code else " " in words and re.search(words, text):  # codes have no blanks
            host = _HOST.search(text)
            return explanation.format(code=code, host=f" at {host[1]}" if host else ""), concerns_all
    return f"the transfer failed ({shorten_message(text)})", False


def _find_code(text: str) -> str:
    """The store's word for what is wrong, its HTTP status where it sends no body, "" where it did not answer."""
    found = _ERROR_CODE.search(text) or _STATUS.search(text)
    return found[1] if found else ""


def shorten_message(text: str) -> str:
    """The store's word, or the first line of an obstore message without the request and its duration."""
    code = _ERROR_CODE.search(text)
    return code[1] if code else text.strip().partition("\n")[0].rpartition(" - ")[2]
