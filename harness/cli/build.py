"""Provide what guests need: QEMU, kernels, build roots, the module and images.

`imsh run` and the tests do this by themselves. This verb does it ahead of time: before going
offline, or in a CI job's set-up step. What is there already is not made again.
"""

from __future__ import annotations

import argparse

from harness.errors import Verdict
from harness.schema.names import choose
from harness.testbed.supplies import make_provisioner

HELP = "provide QEMU, kernels, module and images ahead of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "kernels", nargs="*", metavar="KERNEL", help="names of recipes (default: all)"
    )


def run(args: argparse.Namespace) -> Verdict:
    """Build, and print what was provided."""
    provisioner = make_provisioner()
    recipes = provisioner.recipes.kernels
    names = args.kernels or list(recipes)
    chosen = [choose(recipes, name, what="kernel") for name in names]
    qemu = provisioner.qemu()
    print(f"QEMU {qemu.version}: {qemu.origin}")
    for name, recipe in zip(names, chosen, strict=True):
        guest = provisioner.guest(recipe)
        print(f"{name}: Linux {guest.kernel.release}")
    return Verdict.PASS
