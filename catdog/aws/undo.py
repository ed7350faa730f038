"""Steps that are taken back when a later one fails, and requests that may find their work done already."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from catdog.aws.account import code_of, explain, is_aws_error
from catdog.aws.app import say
from catdog.aws.runtime import is_unknown


class Undo:
    """Steps to take back, last first, if the block raises. What can't be taken back is named on stderr."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, step: Callable[[], object]) -> None:
        """Before the request that ``step`` takes back, whose answer may get lost. ``what``: is left if it fails."""
        self._steps.append((what, step))

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or not self._steps:
            return
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        say(f"{why}; taking back what was done (a further Ctrl-C leaves it as it is)")
        left = []
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except KeyboardInterrupt:
                left += [what, *(earlier for earlier, _ in reversed(self._steps))]
                break
            except Exception as problem:
                left.append(f"{what} ({explain(problem) if is_aws_error(problem) else problem})")
        say(f"left behind: {'; '.join(left)}" if left else "nothing of it is left")


def made(call: Callable[[], object]) -> None:
    """Make something whose name nobody else takes: where it is there already, the answer to an attempt was lost."""
    try:
        call()
    except Exception as error:
        if not exists_already(error):
            raise


def gone(call: Callable[[], object]) -> bool:
    """Delete something; whether it was there."""
    try:
        call()
    except Exception as error:
        if is_unknown(error) or code_of(error) == "ObjectNotFoundException":
            return False
        raise
    return True


def exists_already(error: BaseException) -> bool:
    """Whether AWS refuses to make something since its name is taken."""
    return is_aws_error(error) and "already exist" in str(error).lower()


def describe_endpoint(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """DescribeEndpoint; None where there is no such endpoint."""
    try:
        found: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
    except Exception as error:
        if is_unknown(error):
            return None
        raise
    return found
