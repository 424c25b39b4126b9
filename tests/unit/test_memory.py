"""Guest memory through a process's own mapping: the process is this one."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

import pytest

from harness.errors import HarnessError
from harness.qemu.memory import GuestRam, _mapping, guest_memory, low_memory, memory_file

SIZE = 1 << 20


@pytest.fixture
def ram_fd() -> Iterator[int]:
    with memory_file(SIZE) as fd:
        yield fd


def mapped(fd: int, flags: int) -> mmap.mmap:
    return mmap.mmap(fd, SIZE, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_what_the_process_wrote_is_read(ram_fd: int, flags: int) -> None:
    with mapped(ram_fd, flags) as ram, guest_memory(os.getpid(), ram_fd) as memory:
        ram[4096:4101] = b"hello"
        assert memory.read(4095, 7) == b"\0hello\0"


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_what_is_written_reaches_the_process(ram_fd: int, flags: int) -> None:
    with mapped(ram_fd, flags) as ram, guest_memory(os.getpid(), ram_fd) as memory:
        memory.write(SIZE - 4, b"tail")
        assert ram[-4:] == b"tail"


def test_a_private_page_is_not_the_files(ram_fd: int) -> None:
    with mapped(ram_fd, mmap.MAP_PRIVATE) as ram, guest_memory(os.getpid(), ram_fd) as memory:
        ram[0:1] = b"x"
        assert (memory.read(0, 1), os.pread(ram_fd, 1, 0)) == (b"x", b"\0")


def test_a_mapping_in_several_pieces_is_one(ram_fd: int) -> None:
    with mapped(ram_fd, mmap.MAP_SHARED) as ram:
        ram.madvise(mmap.MADV_DONTFORK, 4096, 8192)  # splits the kernel's area
        ram[SIZE - 1 :] = b"!"
        with guest_memory(os.getpid(), ram_fd) as memory:
            assert memory.read(SIZE - 1, 1) == b"!"


def test_a_process_that_does_not_map_it_is_refused(ram_fd: int) -> None:
    with pytest.raises(HarnessError, match="does not map"), guest_memory(os.getpid(), ram_fd):
        pass


@pytest.mark.parametrize(
    ("address", "count"), [(SIZE, 1), (SIZE - 1, 2), (-1, 1), (1 << 32, 1), (0, SIZE + 1)]
)
def test_where_there_is_no_memory_there_is_an_error(ram_fd: int, address: int, count: int) -> None:
    with mapped(ram_fd, mmap.MAP_SHARED), guest_memory(os.getpid(), ram_fd) as memory:
        with pytest.raises(OSError, match="no guest memory") as caught:
            memory.read(address, count)
        assert caught.value.errno == errno.EFAULT


def test_memory_above_the_pci_hole_goes_on_at_four_gigabytes() -> None:
    memory = GuestRam(-1, 0x1000, 4 << 30)
    assert memory._locate((2 << 30) - 1, 1) == 0x1000 + (2 << 30) - 1
    assert memory._locate(4 << 30, 1) == 0x1000 + (2 << 30)
    assert memory._locate((6 << 30) - 1, 1) == 0x1000 + (4 << 30) - 1
    for address in (2 << 30, (4 << 30) - 1, 6 << 30):
        with pytest.raises(OSError, match="no guest memory"):
            memory._locate(address, 1)


@pytest.mark.parametrize(
    ("size", "low"),
    [(256 << 20, 256 << 20), (0xB0000000 - 1, 0xB0000000 - 1), (0xB0000000, 2 << 30)],
)
def test_a_q35_machine_splits_its_memory_from_a_certain_size_on(size: int, low: int) -> None:
    assert low_memory(size) == low


def test_a_file_of_the_same_inode_on_another_device_is_another() -> None:
    maps = """\
7f0000000000-7f0000100000 rw-s 00000000 08:01 77     /other/memory
7f1000000000-7f1000100000 rw-s 00000000 00:2a 77     /memory (deleted)
"""
    assert _mapping(maps, (0, 0x2A, 77), SIZE) == 0x7F1000000000
    with pytest.raises(HarnessError, match="does not map"):
        _mapping(maps, (0, 0x2B, 77), SIZE)
