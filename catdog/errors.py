"""Every error that a user of catdog can cause or cure, in one tree.

    CatdogError             the base: catch this at an edge and show ``str(error)``, one sentence for a person
     +-- ImageError         one photo can't be used; ``reason`` says why in a word
     +-- ContractError      a model carries no contract, a damaged one, or one of another version
     +-- ModelError         a model or weight file can't be opened or doesn't fit what was asked
     +-- DataError          a source of photos can't be turned into a dataset
     |    +-- NothingUsableError    the source was understood, but none of its photos can be used
     +-- SettingsError      a setting is unknown, out of range, or contradicts another
     +-- TrainingError      training could not go on, or gave nothing that can be used
     |    +-- TrainingStopped       a signal asked it to stop; what was learnt is in a checkpoint
     +-- ExportError        an exported model failed a check, so no file was written

Anything else that escapes is a bug in catdog and keeps its traceback.
"""

from __future__ import annotations

from typing import Literal

ImageReason = Literal["missing", "unreadable", "empty", "unsupported", "corrupt", "too_large", "out_of_memory"]


class CatdogError(Exception):
    """Base of all errors meant for the user; the message names the input and says what to do."""


class ImageError(CatdogError):
    """One photo can't be used.

    ``reason`` is one of: ``missing`` (no such file), ``unreadable`` (permission, not a regular file, a failed
    download), ``empty`` (zero bytes), ``unsupported`` (not an image, or a format that isn't read), ``corrupt``
    (truncated or damaged), ``too_large`` (over the byte or pixel limit) and ``out_of_memory`` (this process had no room
    to decode it, which says nothing about the photo).
    """

    def __init__(self, message: str, reason: ImageReason) -> None:
        super().__init__(message)
        self.reason: ImageReason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, ImageReason]]:
        return type(self), (str(self), self.reason)  # pickle, between processes, would call it with the message alone


class ContractError(CatdogError):
    """A model's contract is missing, damaged or of another version."""


class ModelError(CatdogError):
    """A model or weight file can't be opened or doesn't fit."""


class DataError(CatdogError):
    """A source of photos can't be turned into a dataset."""


class NothingUsableError(DataError):
    """The sources were understood, but no photo of theirs can be used."""


class SettingsError(CatdogError):
    """A setting is unknown, out of range or contradicts another."""


class TrainingError(CatdogError):
    """Training could not go on (the loss became NaN, say)."""


class TrainingStopped(TrainingError):  # noqa: N818  nothing is wrong
    """A signal asked training to stop; what was learnt is in a checkpoint. ``signal``: its number."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class ExportError(CatdogError):
    """An exported model failed one of its checks."""
