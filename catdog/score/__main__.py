"""python -m catdog.score"""

if __name__ == "__main__":  # worker processes import this file, and need no command line
    import contextlib
    import os
    import sys

    from catdog.score.cli import app

    try:
        app(prog_name="python -m catdog.score")
    except SystemExit as end:
        # At once: after a failed write, pyarrow's threads have been seen to abort an orderly exit of the interpreter.
        with contextlib.suppress(OSError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
