"""Show what this machine has of what imsh needs."""

from __future__ import annotations

import argparse

from harness.errors import HarnessError, Verdict

HELP = "show what this machine has, and what it lacks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""


def run(args: argparse.Namespace) -> Verdict:
    """Not there yet."""
    raise HarnessError("imsh doctor is not written yet")
