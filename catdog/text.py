"""Text from strangers (file names, error messages), made safe to show."""

from __future__ import annotations

import re
from typing import Final

_NOT_UNICODE: Final = re.compile(r"[\ud800-\udfff]|\\(?=x5c|ud[89a-f][0-9a-f]{2})")
_ESCAPED: Final = re.compile(r"\\(?:x(5c)|u(d[89a-f][0-9a-f]{2}))")


def printable(text: str) -> str:
    """One line with control characters escaped, so that no name can move the cursor or fake a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def escape_name(name: str) -> str:
    r"""Return a name as valid Unicode, from which ``restore_name`` makes the same name again.

    A file name need not be UTF-8, and Python holds its odd bytes as surrogates: each becomes ``\udcXX``. Where a name
    already has what looks like such an escape, the backslash becomes ``\x5c``.
    """
    return _NOT_UNICODE.sub(lambda found: "\\x5c" if found[0] == "\\" else f"\\u{ord(found[0]):x}", name)


def restore_name(text: str) -> str:
    """Return the name that ``escape_name`` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's kind where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def count_json_items(data: bytes) -> int:
    """Return how many characters open an object or a list or part items: the memory of parsed JSON grows with them."""
    return sum(map(data.count, (b"{", b"[", b",")))
