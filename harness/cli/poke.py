"""Drive the IMS test function with no VM."""

from __future__ import annotations

import argparse

from harness.errors import HarnessError, Verdict

HELP = "drive the IMS test function with no VM"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""


def run(args: argparse.Namespace) -> Verdict:
    """Not there yet."""
    raise HarnessError("imsh poke is not written yet")
