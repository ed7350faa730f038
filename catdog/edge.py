"""Where every command meets its user: failures become one line on stderr and an exit code, bugs keep their traceback.

    @app.command()
    @edge("catdog dataset", failed=NothingUsableError)
    def main(...) -> None: ...

    0 done, 1 the work failed, 2 a bad argument, input, model or disk, 130 Ctrl-C, 141 the reader of stdout went away,
    143 SIGTERM

This module imports next to nothing, so that ``run_command`` can watch over the imports of everything else.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TextIO

from catdog.errors import CatdogError, SettingsError, TrainingStopped
from catdog.text import printable

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_SIGNAL: Final = 128  # plus the signal's number, as every shell has it
EXIT_INTERRUPTED: Final = EXIT_SIGNAL + signal.SIGINT
EXIT_TERMINATED: Final = EXIT_SIGNAL + signal.SIGTERM
EXIT_NO_READER: Final = EXIT_SIGNAL + 13  # SIGPIPE, which Windows does not have
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_DISK: Final = "no space is left where it writes to; make some, or write elsewhere, and start it again"


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is treated as Ctrl-C."""


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, so that it undoes what it began; ``edge`` knows the exit code."""

    def stop(number: int, frame: object) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def edge(
    name: str,
    *,
    failed: type[CatdogError] | tuple[type[CatdogError], ...] = (),
    extra: str | None = None,
    advice: str | None = None,
    prefix: str | None = None,
) -> Iterator[None]:
    """Turn what a user can cause or cure into one line on stderr and SystemExit; a ``with`` block or a decorator.

    ``failed`` are the errors that end with 1, all others of catdog's end with 2. ``extra`` is what the command needs
    installed. ``advice`` says how to go on after Ctrl-C (and SIGTERM, see ``stop_on_sigterm``); without it,
    Ctrl-C is answered in silence. ``prefix`` replaces "NAME: error" before an error's message.
    """
    prefix = prefix or f"{name}: error"
    try:
        yield
    except TrainingStopped as error:
        _end(EXIT_SIGNAL + error.signal, f"{name}: {error}", error)
    except CatdogError as error:
        _end(EXIT_FAILED if isinstance(error, failed) else EXIT_USAGE, f"{prefix}: {error}", error)
    except KeyboardInterrupt as error:
        code = EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
        _end(code, advice and f"{name}: interrupted; {advice}", error)
    except ModuleNotFoundError as error:
        from catdog.extras import install_command, name_extra

        if (needed := name_extra(error.name or "", extra)) is None:
            raise
        _end(EXIT_USAGE, f"{prefix}: {error.name} is not installed; {install_command(needed)}", error)
    except BrokenPipeError as error:
        if not any(map(_has_lost_reader, (sys.stdout, sys.stderr))):
            raise
        _end(EXIT_NO_READER, None, error)
    except Exception as error:
        if not _is_full_disk(error):
            raise
        _end(EXIT_USAGE, f"{prefix}: {_FULL_DISK}", error)


def _end(code: int, line: str | None, cause: BaseException) -> NoReturn:
    _say(line)
    raise SystemExit(code) from cause


def _say(line: str | None) -> None:
    if line:
        with suppress(OSError):  # stderr is full or has no reader, either
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, is of a disk without space; libraries wrap it in their own errors."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FULL) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _has_lost_reader(stream: TextIO) -> bool:
    """Whether the stream is a pipe whose other end is closed, as after ``| head -1``."""
    pipe = select.poll()
    pipe.register(stream.fileno(), 0)
    return any(state & select.POLLERR for _, state in pipe.poll(0))


def write_summary(summary: Mapping[str, Any]) -> None:
    """Write a command's result as a line of JSON for the program that reads stdout; a terminal gets the table alone."""
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(summary) + "\n")
        sys.stdout.flush()


def run_command(command: str | None = None) -> NoReturn:
    """Do what ``catdog.start`` promises; Ctrl-C is its own until ``watch_ctrl_c``."""
    name = f"catdog {command}" if command else "catdog"
    code: int | str | None = 0
    ended = None  # keeps alive what was at work: pools of threads would be waited for where they are taken down
    try:
        with edge(name, extra=command):
            _open_missing_streams()
            from catdog.cli import run

            try:
                run(command)
            finally:
                sys.stdout.flush()
    except SystemExit as end:
        code, ended = end.code, end
    # At once, where an orderly exit would wait for downloads that nobody wants any more. And after a failed write
    # pyarrow's threads have been seen to abort an orderly exit of the interpreter.
    if code in (EXIT_INTERRUPTED, EXIT_NO_READER) or "pyarrow" in sys.modules:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)
    raise SystemExit(code) from ended


def watch_ctrl_c() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, once the imports of ``run_command`` are done."""
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_missing_streams() -> None:
    """Give closed standard streams a place, lest a file that is opened later gets their numbers.

    Raises SettingsError where standard output is closed, since what belongs there would be lost in silence.
    """
    closed = [number for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)) if stream is None]
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY)):
        if number in closed:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if 1 in closed:
        raise SettingsError("standard output is closed; send it somewhere, such as > /dev/null")
