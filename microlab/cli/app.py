"""The look and the common options of every command: help in plain words, `--quiet` and `--verbose`.

A command is a function with typed parameters; `App.command` registers it and gives it its exit codes.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from microlab.cli import errors

quiet = False  # set by --quiet of the command that runs

Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print results, warnings and errors only: no progress, no notes."),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", help="Also print versions, device and time, and where in the program an error arose."
    ),
]


class App(typer.Typer):
    """A command line whose commands all have our page of help, `--quiet` and `--verbose`, and exit codes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed by the caller, as with >&-
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        try:
            try:
                return super().__call__(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:  # outside of the commands, as in --version
            sys.exit(errors.exit_code(error))

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Callable], Callable]:
        """Register a function as a command; parameters are those of `typer.Typer.command`."""
        register = super().command(name, cls=_Command, **settings)
        return lambda function: register(errors.handle_errors(_with_verbosity(function)))


def say(note: str) -> None:
    """Print a note, unless --quiet was given."""
    if not quiet:
        errors.print_line(note)


class _Command(TyperCommand):
    """A command whose help shows neither types nor brackets of the program behind it."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:
        return ["[OPTIONS]", *(_name(p) for p in self.params if p.param_type_name == "argument")]

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:
        params = [p for p in self.get_params(ctx) if not p.hidden]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [(_name(p), _about(p)) for p in params if p.param_type_name == kind]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _name(param: Any) -> str:
    """``IMAGE...`` of an argument, ``-o, --out FOLDER`` of an option."""
    value = param.metavar or param.name.upper()
    if param.param_type_name == "argument":
        return value if param.nargs == 1 or value.endswith("...") else f"{value}..."
    names = ", ".join(sorted(param.opts, key=len))
    if not param.is_flag:
        return f"{names} {value}"
    return " / ".join([names, *param.secondary_opts])


def _about(param: Any) -> str:
    """The sentence of an option, with its default and limits: ``Seed.  [default: 0; at least 0]``."""
    text = param.help or ""
    limits = _limits(param)
    if param.required:
        facts = ["required"]
    elif "[default:" in text or param.name == "help":
        facts = []
    else:
        facts = [f"default: {default}"] if (default := _default(param)) else []
    facts += [limits] if limits else []
    if not facts:
        return text
    if text.endswith("]"):  # it states its default itself
        return f"{text[:-1]}; {'; '.join(facts)}]"
    return f"{text} [{'; '.join(facts)}]"


def _default(param: Any) -> str:
    if getattr(param, "is_flag", False):
        if param.secondary_opts:
            return (param.opts if param.default else param.secondary_opts)[0]
        return "on" if param.default else "off"
    if isinstance(param.default, tuple | list):
        return " ".join(map(str, param.default))
    return "" if param.default is None else str(param.default)


def _limits(param: Any) -> str:
    holder = param if hasattr(param, "min") else getattr(param, "type", None)  # by version of typer
    low, high = getattr(holder, "min", None), getattr(holder, "max", None)
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"at least {low}"
    return "" if high is None else f"at most {high}"


def _with_verbosity(function: Callable) -> Callable:
    """The command with the two options added to its signature."""

    @functools.wraps(function)
    def run(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        if quiet and verbose:
            raise typer.BadParameter("--quiet and --verbose exclude each other; leave one out")
        with _hushed() if quiet else _told() if verbose else _as_usual():
            return function(*args, **kwargs)

    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY, default=False)
    added = [keyword("quiet", annotation=Quiet), keyword("verbose", annotation=Verbose)]
    signature = inspect.signature(function, eval_str=True)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    return run


@contextmanager
def _as_usual() -> Iterator[None]:
    yield


@contextmanager
def _hushed() -> Iterator[None]:
    """No progress bar and no note inside the block."""
    global quiet
    from tqdm.std import tqdm

    start = tqdm.__init__

    def silent(bar: tqdm, *args: Any, **kwargs: Any) -> None:
        start(bar, *args, **{**kwargs, "disable": True})

    quiet, tqdm.__init__ = True, silent
    try:
        yield
    finally:
        quiet, tqdm.__init__ = False, start


@contextmanager
def _told() -> Iterator[None]:
    """Versions and device before, and the time after the block; errors with their traceback."""
    from microlab import __version__
    from microlab.data.parallel import cores
    from microlab.training.devices import hardware

    python = ".".join(map(str, sys.version_info[:3]))
    torch = sys.modules["torch"].__version__  # loaded by the devices
    print(
        f"microlab {__version__}, Python {python}, torch {torch}, {hardware()}, {cores()} cores, "
        f"process {os.getpid()}",
        file=sys.stderr,
    )
    before, start = errors.show_traceback, time.perf_counter()
    errors.show_traceback = True
    try:
        yield
    finally:
        errors.show_traceback = before
        print(f"microlab: {time.perf_counter() - start:.1f} s", file=sys.stderr)
