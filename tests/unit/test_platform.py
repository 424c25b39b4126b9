"""How many CPUs a guest has to bring up, by its machine and by its kernel's words."""

from __future__ import annotations

import pytest

from harness.errors import CheckFailed
from harness.qemu.command import MachineSpec
from harness.testbed.platform import check_cpus, expected_cpus

FOUR = MachineSpec(name="four", description="", cpus=4, kernel_arguments=("quiet",))


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ((), 4),
        (("maxcpus=2",), 2),
        (("maxcpus=0",), 1),
        (("nosmp",), 1),
        (("nr_cpus=8",), 4),
        (("nr_cpus=3", "maxcpus=1"), 1),
        (("maxcpus=all",), 4),
    ],
)
def test_the_kernels_words_leave_so_many(words: tuple[str, ...], count: int) -> None:
    assert expected_cpus(FOUR, words) == count
    check_cpus(FOUR, words, count)


def test_a_cpu_that_nobody_left_out_is_the_kernels_failure() -> None:
    with pytest.raises(CheckFailed, match=r"3 CPUs online, and 4 .*: the machine four has 4"):
        check_cpus(FOUR, (), 3)
