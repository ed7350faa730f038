"""Text from strangers (file names, error messages), made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """One line with control characters escaped, so that no name can move the cursor or fake a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
