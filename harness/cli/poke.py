"""Drive the IMS function with no VM, or any vfio-user server, through a client of our own.

    imsh poke info
    imsh poke read bar0 0x0 4, registers
    imsh poke write config 4 6 2, write bar4 0x30 0xfee00018 8, write bar4 0x38 0x55 8, raise ims 3
    imsh poke < script
    imsh poke --serve /tmp/ims.sock        # in another terminal: imsh poke --socket /tmp/ims.sock

Commands are separated by commas or lines, numbers are as in C, # begins a comment. Without commands
they are read from standard input, with a prompt if that is a terminal. `imsh poke help` lists them.
Each call has a new device, as after power-on: bus mastering is off (the third example turns it on),
and every IMS entry is masked. --serve has one device for one client after another: while one is
there every other is cut off at once, and one that does not negotiate within 10 s (times
IMSH_TIMEOUT_FACTOR) loses its place. The socket of a server that was killed is taken over.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.cli.poke_commands import Bench
from harness.cli.poke_serve import serve
from harness.config.schema import load
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import ConfigError, HarnessError, LaunchError, Verdict
from harness.vfio_user.client import Client
from harness.vfio_user.server import device_server

HELP = "drive the IMS function, or any vfio-user server, with no VM"

PROMPT: Final = "poke> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="commands, see above")
    parser.add_argument(
        "--device", type=Path, metavar="FILE", help="YAML file with the choices of docs/device.md"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--socket", metavar="PATH", help="drive the vfio-user server on this socket")
    other.add_argument(
        "--serve",
        metavar="PATH",
        help="serve a device on this socket until interrupted, to one client at a time",
    )


def run(args: argparse.Namespace) -> Verdict:
    """Carry the commands out, or serve."""
    if args.serve and args.words:
        raise ConfigError("--serve takes no commands", hint="give them to `imsh poke --socket`")
    if args.socket and args.device:
        raise ConfigError("--device describes a device of ours, --socket leads to another one")
    spec = load(args.device, ImsFunctionSpec) if args.device else ImsFunctionSpec()
    if args.serve:
        serve(spec, args.serve)
        return Verdict.PASS
    with _foreign_bench(args.socket) if args.socket else _own_bench(spec) as bench:
        if args.words:
            _carry_out(bench, " ".join(args.words))
        elif sys.stdin.isatty():
            _converse(bench)
        else:
            for number, line in enumerate(sys.stdin, 1):
                try:
                    _carry_out(bench, line)
                except HarnessError as error:
                    error.message = f"line {number}: {error.message}"
                    raise
    return Verdict.PASS


def _converse(bench: Bench) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  it gives input() a history and editing keys
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            print()
            return
        if line.strip() in ("quit", "exit"):
            return
        try:
            _carry_out(bench, line)
        except HarnessError as error:
            print(error)


def _carry_out(bench: Bench, text: str) -> None:
    for line in text.partition("#")[0].split(","):
        if words := line.split():
            for said in (bench.carry_out(words), *bench.arrivals()):
                if said:
                    print(said, flush=True)


@contextlib.contextmanager
def _bench(connection: socket.socket, function: ImsFunction | None) -> Iterator[Bench]:
    bench = Bench(function)
    with contextlib.closing(bench):
        try:
            client = Client(connection, dma_write=bench.take_write)
        except OSError as error:
            raise HarnessError(f"the server does not agree to a version: {error}") from error
        with client:
            bench.client = client
            yield bench


@contextlib.contextmanager
def _own_bench(spec: ImsFunctionSpec) -> Iterator[Bench]:
    """Hold a device of ours with a client, both in this process."""
    ours, theirs = socket.socketpair()
    with (
        ImsFunction(spec) as function,
        device_server(function, theirs),
        _bench(ours, function) as bench,
    ):
        yield bench


@contextlib.contextmanager
def _foreign_bench(path: str) -> Iterator[Bench]:
    """Hold a client of the server on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise LaunchError(f"cannot connect to {path}: {error.strerror or error}") from error
        with _bench(connection, None) as bench:
            yield bench
