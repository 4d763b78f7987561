"""`xtr doctor`: what is wrong with this machine, and the fix. Where xtr does not start: `python -m xtr.doctor`."""

import argparse

from xtr import doctor as checks
from xtr.errors import UserError

add_arguments = checks.add_arguments


def doctor(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code: 1 where something is wrong."""
    if arguments.hosts < 1:
        raise UserError(f"--hosts is {arguments.hosts}; it must be at least 1.")
    if arguments.timeout <= 0:
        raise UserError(f"--timeout is {arguments.timeout:g}; it must be more than 0.")
    return checks.report(arguments)
