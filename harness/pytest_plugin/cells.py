"""What each test asks for by its markers: kernels, machines, rows, a device, a shared guest."""

from __future__ import annotations

import dataclasses

import pytest

from harness.config.matrix import Cell
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.errors import ConfigError, HarnessError, MissingRequirement
from harness.pytest_plugin.options import selection
from harness.qemu.command import MachineSpec
from harness.report.capabilities import capability_rows
from harness.testbed.aftermath import Leftover


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that has a guest on every kernel and machine that are left."""
    if "vm_cell" not in metafunc.fixturenames:
        return
    try:
        covered = selection(metafunc.config)
        cells = covered.cells(*_marked(metafunc.definition))
        device_spec(metafunc.definition)
        leftovers(metafunc.definition)
        group = group_of(metafunc.definition)
    except HarnessError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from error
    # Tests that share a guest have to be on one worker.
    module = metafunc.module.__name__
    metafunc.parametrize(
        "vm_cell",
        [
            pytest.param(
                cell,
                id=str(cell),
                marks=[pytest.mark.xdist_group(f"{module}-{cell}")] if group else [],
            )
            for cell in cells
        ],
        indirect=True,
    )


def _marked(node: pytest.Item) -> list[tuple[str, ...] | None]:
    """Return the kernels and the machines that a test is for, None: the matrix's."""
    markers = map(node.get_closest_marker, ("kernel", "machine"))
    return [marker.args if marker else None for marker in markers]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse rows that the table does not have; leave out tests with no kernel or machine left."""
    for item in items:
        for row in rows_of(item):
            if row not in capability_rows():
                raise pytest.UsageError(f"{item.nodeid}: there is no capability {row!r}")
    left_out = [item for item in items if _wants_guest(item) and cell_of(item) is None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    first = [row for row in config.getoption("first").split(",") if row]
    if first:
        items.sort(key=lambda item: min(map(first.index, {*rows_of(item)} & {*first}), default=999))


def _wants_guest(item: pytest.Item) -> bool:
    return "vm_cell" in getattr(item, "fixturenames", ())


def rows_of(item: pytest.Item) -> list[str]:
    """Return the rows of the capability table that a test claims."""
    return [row for marker in item.iter_markers("capability") for row in marker.args]


def cell_of(item: pytest.Item) -> Cell | None:
    """Return the kernel and the machine that a test is run on, None when it has no guest."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("vm_cell") if callspec else None
    return cell if isinstance(cell, Cell) else None


def cells_of(item: pytest.Item) -> list[str]:
    """Return all that the matrix has for a test, whatever the run was narrowed to."""
    if cell_of(item) is None:
        return []
    return [str(cell) for cell in selection(item.config).matrix_cells(*_marked(item))]


def group_of(node: pytest.Item) -> str | None:
    """Return the name of the group of tests that a test shares its guest with, if any."""
    if (marker := node.get_closest_marker("shared_vm")) is None:
        return None
    scope = marker.args[0] if marker.args else "module"
    kinds: dict[str, type[pytest.Collector]] = {"class": pytest.Class, "module": pytest.Module}
    if scope not in kinds or (parent := node.getparent(kinds[scope])) is None:
        raise ConfigError(f"shared_vm({scope!r}): it is shared by a class or by a module")
    return parent.nodeid


def check_cpus_wanted(node: pytest.Item, machine: MachineSpec) -> None:
    """Look whether a machine has as many CPUs as a test needs.

    :raises MissingRequirement: it has fewer.
    """
    marker = node.get_closest_marker("cpus")
    if marker and machine.cpus < marker.args[0]:
        raise MissingRequirement(
            f"{marker.args[0]} CPUs; the machine {machine.name} has {machine.cpus}",
            hint="choose a machine with more (cpus: in its recipe)",
        )


def leftovers(node: pytest.Item) -> frozenset[Leftover]:
    """Return what a test says that it leaves behind on purpose."""
    words = [word for marker in node.iter_markers("leaves") for word in marker.args]
    try:
        return frozenset(map(Leftover, words))
    except ValueError as error:
        known = ", ".join(Leftover)
        raise ConfigError(f"leaves marker: {error}", hint=f"there are: {known}") from error


def device_spec(node: pytest.Item) -> ImsFunctionSpec:
    """Return what a test wants ``ims_device`` to be made of."""
    marker = node.get_closest_marker("device")
    try:
        return ImsFunctionSpec(**(marker.kwargs if marker else {}))
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(ImsFunctionSpec))
        raise ConfigError(f"device marker: {error}", hint=f"fields: {fields}") from error
