"""List the guest kernels that there are recipes for, and what of each is built.

A recipe is a file in guests/kernels/; adding one is all it takes to add a kernel.

A kernel that is built stays as it is, whatever newer packages the archive gets. --update asks the
archive, and makes those kernels anew of whose packages it has newer ones. The older kernel stays
until the new one is complete, or if that fails. Module and image follow when they are next needed
(`imsh build` makes them now). A kernel must not be updated while tests run on it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from harness.build.kernel import KernelArtifact
from harness.build.provision import Provisioner
from harness.errors import Verdict
from harness.schema.names import choose
from harness.testbed.supplies import make_provisioner

HELP = "list the guest kernels and what is built, or update them from the archive"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="print a JSON list, for scripts")
    what.add_argument(
        "--update",
        nargs="*",
        metavar="NAME",
        help="make these kernels (default: all that are built) of the archive's newest packages",
    )


def run(args: argparse.Namespace) -> Verdict:
    """Print the list, for which nothing is built; or update kernels."""
    provisioner = make_provisioner()
    if args.update is not None:
        return _update(provisioner, args.update)
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


def describe_update(before: KernelArtifact, after: KernelArtifact) -> str:
    """Return what has become of a kernel, by the versions of its packages."""
    if before.version != after.version:
        return f"{before.version} -> {after.version}"
    newer = sorted(
        line.split()[0] for line in set(after.toolchain.packages) - set(before.toolchain.packages)
    )
    if newer:
        return f"still {after.version}, with another {', '.join(newer)}"
    return f"already the newest, {after.version}"


def _update(provisioner: Provisioner, names: Sequence[str]) -> Verdict:
    recipes = provisioner.recipes.kernels
    for recipe in [choose(recipes, name, what="kernel") for name in names or recipes]:
        if before := provisioner.find_kernel(recipe):
            change = describe_update(before, provisioner.refresh_kernel(recipe))
        else:
            change = f"not built; `imsh build {recipe.name}` makes it of the newest packages"
        print(f"{recipe.name}: {change}", flush=True)
    return Verdict.PASS
