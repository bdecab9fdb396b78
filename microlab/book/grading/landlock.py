"""Run a command that reads some folders, writes in one, and opens no TCP connection: Landlock of Linux.

    python landlock.py WRITABLE READABLE... -- COMMAND...

Landlock needs neither root nor an installation. A process gives up its access to files, for itself and all
that it starts, root or not. Source: Linux, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every processor
NO_NEW_PRIVILEGES = 38  # of prctl
ENOUGH = 3  # version of Landlock that also keeps files from being truncated: Linux 6.2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
TRUNCATE = 1 << 14
EVERYTHING = {3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version: rights to files
TCP, SIGNALS_AND_SOCKETS = 3, 3  # from version 4: bind and connect; from 6: to processes outside
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scope", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def version() -> int:
    """Version of Landlock of this kernel; 0 if there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, 1))


def restrict(writable: str, readable: Sequence[str]) -> None:
    """Give up every access to files but these, and to TCP.

    Parameters
    ----------
    writable : path
        A folder that may be written to.
    readable : sequence of path
        Folders and files to read and execute; those that do not exist are left out.

    Raises
    ------
    OSError
        If the kernel refuses.
    """
    found = version()
    everything = EVERYTHING[5 if found >= 5 else 3]
    libc = ctypes.CDLL(None, use_errno=True)
    rules = _Ruleset(everything, TCP if found >= 4 else 0, SIGNALS_AND_SOCKETS if found >= 6 else 0)
    ruleset = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0))
    reading = EXECUTE | READ_FILE | READ_DIR
    allowed = [(writable, everything), *((path, reading) for path in readable)]
    allowed += [(path, READ_FILE | WRITE_FILE) for path in DEVICES]
    for path, rights in allowed:
        if not os.path.exists(path):
            continue
        folder = os.open(path, os.O_PATH)
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
        rule = _PathRule(rights, folder)
        _checked(libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0))
        os.close(folder)
    _checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result


if __name__ == "__main__":
    end = sys.argv.index("--")
    restrict(sys.argv[1], sys.argv[2:end])
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
