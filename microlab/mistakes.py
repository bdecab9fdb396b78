"""How the command line takes a user's mistake: one line that says what is wrong and how to mend it."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable

import typer

MISTAKES = (ValueError, OSError, MemoryError)  # anything else is a bug and shows its traceback
show_traceback = False  # set by `microlab --traceback`


def one_line(error: BaseException) -> str:
    """What went wrong and how to mend it, on one line."""
    if isinstance(error, MemoryError):
        return "not enough memory; crop the image or close other programs"
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        hints = {
            "FileNotFoundError": "check the name and the folder",
            "PermissionError": "choose a folder you may write to, or change the access rights",
            "NotADirectoryError": "a file stands where a folder is needed; choose another name",
            "FileExistsError": "a file stands where a folder is needed; choose another name",
        }
        message += f"; {hints.get(type(error).__name__, 'free some space or choose another folder')}"
    return message


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
        except MISTAKES as error:
            report_mistake(error)
            raise typer.Exit(1) from None

    return run
