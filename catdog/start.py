"""The first thing that every command runs. It imports next to nothing, so that from here on Ctrl-C ends in silence."""

import os
import signal


def start(command: str | None = None) -> None:
    """Run ``catdog``, or the one command of it that an older name stands for, and end the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the command's own edge takes over: an interrupted import may swallow a KeyboardInterrupt, or print it.
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from catdog.edge import run_command

    run_command(command)
