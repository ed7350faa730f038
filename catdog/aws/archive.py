"""A .tar.gz as SageMaker takes it, always the same bytes for the same contents."""

from __future__ import annotations

import gzip
import io
import tarfile


def make_archive(contents: dict[str, bytes]) -> bytes:
    """Return a .tar.gz of these names and bytes that depends on nothing else: sorted, without times and owners."""
    raw = io.BytesIO()
    # Without mtime and name, gzip's own header would differ from run to run.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(contents):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(contents[name]), 0o644
            tar.addfile(entry, io.BytesIO(contents[name]))
    return raw.getvalue()
