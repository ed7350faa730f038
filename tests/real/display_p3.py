"""A colour profile of Display P3, as phones put it into their photos, made from its published numbers."""

from __future__ import annotations

import struct
from typing import Final

# Primaries and white adapted to D50 (ICC, "Display P3"; SMPTE RP 431-2), X, Y and Z.
_COLOURS: Final = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
    b"wtpt": (0.96420, 1.0, 0.82491),
}
_GAMMA: Final = 2.2


def _numbers(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _make_profile() -> bytes:
    """Return an ICC profile, version 2: three colours and a gamma (ICC.1:2001-04)."""
    tags = {name: b"XYZ " + bytes(4) + _numbers(*values) for name, values in _COLOURS.items()}
    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(_GAMMA * 256), 0)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 11) + b"Display P3\0" + bytes(78)
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0"
    table, data, begin = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", begin + len(data), len(padded))
        data += padded
    body = struct.pack(">I", len(tags)) + table + data
    header = (
        struct.pack(">I4sI", 128 + len(body), b"none", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    )
    return (header + _numbers(0.9642, 1.0, 0.82491)).ljust(128, b"\0") + body


PROFILE: Final = _make_profile()
