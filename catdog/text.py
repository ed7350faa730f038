"""Text from strangers (file names, error messages), made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line with control characters escaped, so that no name can move the cursor or fake a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
