"""How the command line takes a user's mistake: one line that says what is wrong and how to mend it."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable

import typer

from microlab.data.errors import USER_ERRORS, one_line

show_traceback = False  # set by `microlab --traceback`


def report_mistake(error: BaseException) -> str:
    """Print the one line, over a progress bar if there is one, and return it."""
    from tqdm.auto import tqdm

    if show_traceback:
        traceback.print_exception(error)
    line = one_line(error)
    tqdm.write(f"microlab: {line}", file=sys.stderr)
    return line


def plain_errors(command: Callable) -> Callable:
    """Turn a user's mistake into one line on stderr and exit code 1."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except BrokenPipeError:  # the reader of our output has gone, as in `microlab ... | head`
            sys.stderr.close()
            raise typer.Exit(1) from None
        except USER_ERRORS as error:
            report_mistake(error)
            raise typer.Exit(1) from None

    return run
