"""What a command prints, whatever terminal, file or pipe it is printed to."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO

from ..errors import MQError, printable

#: Characters of a line that says why a command failed.
_LINE = 2000


class OutputError(MQError):
    """What a command says can't be written."""


def say(text: str) -> None:
    """Print one line.

    :raises OutputError: it can't be written; the message is empty where its reader has gone
    """
    _written(lambda: print(text, flush=True))


def complain(text: str) -> None:
    """Print why a command failed, in one line; there is nobody to tell if that can't be written."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(printable(text, _LINE), file=sys.stderr, flush=True)


def guarded(name: str, command: Callable[[], int]) -> int:
    """Run a command; what its terminal can't show is shown as Python writes it.

    :param name: the service's, which stands before what is complained of
    :returns: the exit code
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return command()
        finally:  # what argparse has printed waits, too
            _flush()
    except KeyboardInterrupt:  # also while what a command needs is imported
        return 130
    except OutputError as error:
        _discard(sys.stdout)
        if str(error):  # else its reader has read enough, such as `head`
            complain(f"{name}: {error}")
        return 1


def _flush() -> None:
    """Write what waits; what a handler of the service has closed is no fault of the command's.

    :raises OutputError: the standard output can't be written
    """
    with suppress(ValueError):  # closed
        if sys.stderr is not None:
            try:
                sys.stderr.flush()
            except OSError:  # or Python would end with another code
                _discard(sys.stderr)
    with suppress(ValueError):
        if sys.stdout is not None:
            _written(sys.stdout.flush)


def show(error: Exception, trace: TracebackType | None) -> None:
    """Print where the service's own code has raised, as Python does.

    :param trace: from the service's first line on: those above it are ours, and tell its owner nothing
    """
    import traceback  # only where something is wrong: it takes longer than all that `health` needs

    if sys.stderr is not None:
        with suppress(OSError):
            traceback.print_exception(type(error), error, trace)


def _written(write: Callable[[], object]) -> None:
    try:
        write()
    except BrokenPipeError:
        raise OutputError("") from None
    except OSError as error:
        raise OutputError(f"can't write to the standard output: {error.strerror}") from None


def _discard(stream: TextIO | None) -> None:
    """Let what still waits in a stream go nowhere: Python writes it at its end, and fails again."""
    with suppress(OSError, ValueError):
        if stream is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != stream.fileno():  # which was closed, and is the first that is free
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
