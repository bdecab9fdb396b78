"""How the command line ends: one line for a user's error, a traceback for a bug; an exit code for each."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import typer

from microlab.data.errors import USER_ERRORS, one_line, out_of_memory, printable

ISSUES = "https://github.com/microlab-book/microlab/issues"
FAILED = 1  # an input that cannot be used, a file that cannot be written, no memory
BUG = 70  # an internal software error (EX_SOFTWARE of sysexits.h)
INTERRUPTED = 130  # by Ctrl-C, 128 + SIGINT
UNREAD = 141  # whoever read the output went away, 128 + SIGPIPE

show_traceback = False  # set by `microlab --traceback`


def print_error(error: BaseException) -> None:
    """Print an error on one line, above a progress bar if there is one."""
    if show_traceback:
        traceback.print_exception(error)
    print_line(one_line(error))


def handle_errors(command: Callable) -> Callable:
    """Give a command its exit codes: 1 after a user's error, 70 after a bug, 130 after Ctrl-C."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            result = command(*args, **kwargs)
            sys.stdout.flush()  # here a full disk or a closed pipe shows itself
            return result
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(exit_code(error)) from None

    return run


def exit_code(error: BaseException) -> int:
    """Say what has gone wrong, and return the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        print_line("stopped by Ctrl-C; files that were finished are whole and kept")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        print_line("stopped, since the output was closed; files that were finished are whole and kept")
        _output_works()
        return UNREAD
    if isinstance(error, USER_ERRORS) or out_of_memory(error):
        if isinstance(error, OSError) and not error.filename and not _output_works():
            error = OSError(error.errno, error.strerror, "the output")
        print_error(error)
        return FAILED
    traceback.print_exception(error)
    print(f"microlab: this is a bug in microlab; please report it at {ISSUES}", file=sys.stderr)
    return BUG


def print_line(line: str) -> None:
    """Print a message, on one line that a terminal does not obey, above a progress bar if there is one."""
    from tqdm.auto import tqdm

    tqdm.write(printable(f"microlab: {line}"), file=sys.stderr)


def _output_works() -> bool:
    """Whether the output takes what was printed; if not it goes nowhere, or Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # it is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
