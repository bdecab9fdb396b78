"""Error reporting of the command line: one line for a user's error, a traceback for a bug."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable

import typer

from microlab.data.errors import USER_ERRORS, one_line

ISSUES = "https://github.com/microlab-book/microlab/issues"
BUG = 70  # exit code of an internal software error (EX_SOFTWARE of sysexits.h)

show_traceback = False  # set by `microlab --traceback`


def print_error(error: BaseException) -> None:
    """Print an error on one line, above a progress bar if there is one."""
    from tqdm.auto import tqdm

    if show_traceback:
        traceback.print_exception(error)
    tqdm.write(f"microlab: {one_line(error)}", file=sys.stderr)


def handle_errors(command: Callable) -> Callable:
    """Give a command its exit codes: 1 after a user's error, 70 after a bug."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:  # the pipe is closed, as in `microlab ... | head`
            sys.stderr.close()
            raise typer.Exit(1) from None
        except USER_ERRORS as error:
            print_error(error)
            raise typer.Exit(1) from None
        except Exception as error:
            traceback.print_exception(error)
            print(f"microlab: this is a bug in microlab; please report it at {ISSUES}", file=sys.stderr)
            raise typer.Exit(BUG) from None

    return run
