"""The pytest plugin: fixtures that boot guests, markers, options, and the record of a run.

    def test_a_moved_interrupt_arrives_on_its_new_cpu(ims_device): ...

A test that asks for ``vm``, or for a fixture on top of it, runs once on every kernel and machine
that its markers and the command line leave.
"""

from typing import Final

pytest_plugins: Final = tuple(
    f"harness.pytest_plugin.{part}"
    for part in ("options", "faults", "cells", "verdicts", "timeouts", "fixtures")
)
"""The parts, the lower one first: pytest looks for hooks and fixtures in these."""
