"""List the guest kernels that there are recipes for, and what of each is built.

A recipe is a file in guests/kernels/; adding one is all it takes to add a kernel.
"""

from __future__ import annotations

import argparse
import json

from harness.errors import Verdict
from harness.testbed.supplies import make_provisioner

HELP = "list the guest kernels and what is built"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="print a JSON list, for scripts")


def run(args: argparse.Namespace) -> Verdict:
    """Print the list. Nothing is built."""
    provisioner = make_provisioner()
    rows = []
    for name, recipe in provisioner.recipes.kernels.items():
        kernel = provisioner.find_kernel(recipe)
        rows.append(
            {
                "name": name,
                "description": recipe.description,
                "release": kernel.release if kernel else None,
                "kernel": kernel is not None,
                "module and image": provisioner.find_guest(recipe) is not None,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return Verdict.PASS
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        state = row["release"] or "not built"
        if row["kernel"] and not row["module and image"]:
            state = f"{state}, module or image to be built"
        print(f"{row['name']:<{width}}  {state}")
        print(f"{'':<{width}}  {row['description']}")
    return Verdict.PASS
