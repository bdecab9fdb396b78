"""Programs that see nothing but one folder: by bubblewrap, else by Landlock, else as a separate user.

===============  ==========  ==============================  ==========================
what it sees     bubblewrap  Landlock (Linux 6.2)            separate user
===============  ==========  ==============================  ==========================
other files      not there   refused                         as their access rights say
network          none        no TCP                          as for that user
other processes  not there   not to be touched (Linux 6.12)  seen, not to be touched
environment      empty       empty                           empty
===============  ==========  ==============================  ==========================
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from microlab.book.grading import landlock
from microlab.data.errors import InputError

# What a program needs of the system, read-only; nothing of /home, /root, /srv or /mnt is there.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
PROCESSOR = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self")  # what libraries ask it for
KEPT = ("LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")  # of the environment


def isolated(command: Sequence[str], box: Path, cwd: Path, private: Path, user: str = "") -> list[str]:
    """A command line that runs a command where it sees the system's programs, this Python and one folder.

    Parameters
    ----------
    command : sequence of str
    box : path
        The folder, which may be written to.
    cwd : path
        The working directory, in `box`.
    private : path
        A folder that must not be seen: that of the course.
    user : str
        The user to run as where there is neither bubblewrap nor Landlock.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If no way works on this machine, or the course lies among the system's programs.
    """
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
    environment |= {"HOME": str(box), "TMPDIR": str(box)}
    readable = [path for path in map(Path, SYSTEM) if path.exists()]
    prefixes = [Path(sys.prefix), Path(sys.base_prefix)]
    readable += [path for path in prefixes if not any(path.is_relative_to(place) for place in readable)]
    if any(private.is_relative_to(path) for path in readable):
        raise InputError(f"{private}: lies where programs are, which a submission sees; move the course")
    clean = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    way = best_way(user)
    if way == "bubblewrap":
        return [*clean, *_bubblewrap(box, cwd, readable), *command]
    # Sockets that the program makes must be open to the grader, who may be another user.
    shell = ["sh", "-c", 'umask 0; cd "$0" && exec "$@"', str(cwd)]
    start = [*clean, *shell]
    if way == "landlock":
        places = [str(box), *map(str, readable), *PROCESSOR]
        return [*start, sys.executable, "-I", landlock.__file__, *places, "--", *command]
    check_private(private)
    return [*_as_user(user), *start, *command]


def best_way(user: str = "") -> str:
    """The strongest isolation that this machine has: bubblewrap, landlock, or user if one is named.

    Raises
    ------
    InputError
        If there is none.
    """
    if works_with_bubblewrap():
        return "bubblewrap"
    if landlock.version() >= landlock.ENOUGH:
        return "landlock"
    if user:
        return "user"
    raise InputError(
        "submissions cannot be run apart from the gradebook: install bubblewrap (apt install bubblewrap) "
        "and let it make user namespaces, or name a separate user in nbgrader_config.py, "
        "c.IsolatedExecute.user = 'grader'; see the instructor's guide"
    )


def works_with_bubblewrap() -> bool:
    """Whether bubblewrap is installed and may make its namespaces."""
    if shutil.which("bwrap") is None:
        return False
    call = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


def check_private(folder: Path) -> None:
    """Raise an InputError if users other than the owner may read a folder."""
    if folder.stat().st_mode & 0o077:
        raise InputError(f"{folder}: other users can read the gradebook and the seed; chmod 700 {folder}")


def open_to_others(box: Path) -> None:
    """Let every user write in a folder: the separate user is not the owner."""
    for path in (box, *box.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


def _bubblewrap(box: Path, cwd: Path, readable: list[Path]) -> list[str]:
    """Its call. It is a process of the sandbox, too, so its own environment is seen there."""
    options = ["--unshare-all", "--die-with-parent", "--new-session"]
    options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in dict.fromkeys(readable):
        options += ["--ro-bind", str(path), str(path)]
    options += ["--bind", str(box), str(box), "--remount-ro", "/tmp", "--remount-ro", "/"]
    options += ["--chdir", str(cwd), "--"]
    return ["bwrap", *options]


def _as_user(user: str) -> list[str]:
    import pwd  # not on Windows, where nbgrader does not grade either

    try:
        group = pwd.getpwnam(user).pw_gid
    except KeyError:
        raise InputError(
            f"c.IsolatedExecute.user: no user {user!r}; make it with sudo useradd --system {user}"
        ) from None
    if os.geteuid() == 0:
        return ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups", "--"]
    return ["sudo", "-n", "-u", user, "--"]
