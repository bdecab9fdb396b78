"""The command line, called as a user would."""

from __future__ import annotations

from typer.testing import CliRunner

from microlab.cli.main import main


def run(*arguments: object):
    """Call the command line in this process; an exception that is no exit is a bug and fails the test."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
