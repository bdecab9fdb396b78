"""Errors in a user's input: one line names the wrong file or value and the remedy.

The command line prints an `InputError` as one line. Any other exception is a bug of ours and shows itself.
"""

from __future__ import annotations

import re


class InputError(ValueError):
    """A file, folder, option or setting of the user that cannot be used.

    The message is one line: what was given, what is wrong with it, and what to do.
    """


class ImageError(InputError):
    """A file that cannot be read or written as an image."""


class DatasetError(InputError):
    """A data set that is unknown, damaged or out of reach."""


class WeightsError(InputError):
    """Weights that are missing, damaged or of another network."""


class DivergedError(InputError, FloatingPointError):
    """A training whose loss or gradient is no longer a finite number."""


USER_ERRORS = (InputError, OSError, MemoryError)
"""What the command line shows as one line."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory; torch says so by a RuntimeError."""
    words = "out of memory|not enough memory|can't allocate memory"
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search(words, str(error)))
    )


def printable(text: object) -> str:
    """Text with the characters written out (as ``\\x1b``) that a terminal obeys or a file cannot hold.

    Names of files may hold escape sequences, line breaks, and bytes that are no UTF-8.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def one_line(error: BaseException) -> str:
    """The error and its remedy, on one line."""
    if out_of_memory(error):
        return "not enough memory; take a smaller image or smaller settings, or close other programs"
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename  # of a renaming, the name that was to be
        message = f"{name}: {error.strerror}" if name else error.strerror
        hints = {
            "FileNotFoundError": "check the name and the folder",
            "PermissionError": "choose a folder you may write to, or change the access rights",
            "NotADirectoryError": "a file stands where a folder is needed; choose another name",
            "IsADirectoryError": "a folder stands where a file is needed; move it or choose another folder",
            "FileExistsError": "a file stands where a folder is needed; choose another name",
        }
        message += f"; {hints.get(type(error).__name__, 'free some space or choose another folder')}"
    return printable(message)
