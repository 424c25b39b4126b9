"""The ``imsh`` command: parses, runs one verb, and turns errors into exit statuses."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Final, NoReturn, Protocol, cast

from harness.cli.log_handler import LossyHandler
from harness.errors import HarnessError, Verdict
from harness.host.signals import Interrupted, signals_as_interrupt
from harness.report.verdict import verdict_of

VERBS: Final = (
    "run", "kernels", "build", "doctor", "capabilities", "runs", "machines", "poke", "faults",
    "policy", "validate", "bisect",
)  # fmt: skip

EPILOG = """\
exit status: 0 pass; 1 the guest kernel failed a check; 2 the harness, QEMU or the host failed;
3 something this machine lacks; 4 a wait ran out; 64 an error of usage:
a name, an option or a recipe that cannot be.

environment: IMSH_CACHE (where everything is kept), IMSH_MIRROR (package archive instead of the
host's own), IMSH_QEMU (use this QEMU), IMSH_RECIPES (directory with kernels/, machines/, matrices/
of your own), IMSH_TIMEOUT_FACTOR (stretch every time-out).
"""


class Verb(Protocol):
    """What each module in this package that is named after a verb offers."""

    HELP: str
    """One line for ``imsh --help``."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's options."""

    def run(self, args: argparse.Namespace) -> Verdict | int:
        """Do it and print. Return the verdict, or an exit status where a flag asks for another."""


class _Parser(argparse.ArgumentParser):
    """Ends with our status for an error of usage; argparse's own says that the harness failed."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Verdict.USAGE_ERROR.exit_status, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(
        prog="imsh",
        description="Functional tests of message-signalled interrupts in real guest kernels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more; twice: every register access"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        verb = cast(Verb, importlib.import_module(f"harness.cli.{name}"))
        sub = verbs.add_parser(
            name,
            help=verb.HELP,
            description=verb.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run)
    return parser


def _log(verbose: int) -> None:
    logging.basicConfig(
        level=[logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)],
        format="%(relativeCreated)7d ms %(name)s: %(message)s",
        handlers=[LossyHandler(sys.__stderr__.fileno())] if sys.__stderr__ else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        with signals_as_interrupt():  # the verbs are imported by the parser: that takes a while
            args = make_parser().parse_args(argv)
            _log(args.verbose)
            verdict: Verdict | int = args.run(args)
    except HarnessError as error:
        print(f"imsh: {error.verdict}: {error}", file=sys.stderr)
        return error.verdict.exit_status
    except Interrupted as interrupt:
        print(f"imsh: {interrupt}", file=sys.stderr)
        return 128 + interrupt.number
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: that is its right.
        sys.stderr.close()
        return 141
    except Exception as error:
        # Python's own status for this, 1, would say that the guest kernel failed a check.
        traceback.print_exc()
        verdict = verdict_of(error, about_guest=False)
        print(f"imsh: {verdict}: {error!r}", file=sys.stderr)
    return verdict.exit_status if isinstance(verdict, Verdict) else verdict
