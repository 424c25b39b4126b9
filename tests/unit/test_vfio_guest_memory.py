"""The bookkeeping of DMA ranges. What is asked from a client is answered by this file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from harness.spec.vfio import DmaMapFlags
from harness.vfio_user import guest_memory
from harness.vfio_user.guest_memory import GuestMemory

PAGE = 4096
RW = DmaMapFlags.READ | DmaMapFlags.WRITE


class Asked:
    """A client that answers every read with the low byte of its address, and remembers."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, bytes]] = []

    def read(self, address: int, count: int) -> bytes:
        self.reads.append((address, count))
        return bytes((address + n) & 0xFF for n in range(count))

    def write(self, address: int, data: bytes) -> None:
        self.writes.append((address, data))


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def memory(asked: Asked) -> Iterator[GuestMemory]:
    memory = GuestMemory(asked.read, asked.write)
    yield memory
    memory.clear()


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 4 * PAGE)
    os.pwrite(fd, b"file", 0)
    yield fd
    os.close(fd)


def ranges(memory: GuestMemory) -> list[tuple[int, int]]:
    return [(mapping.address // PAGE, mapping.size // PAGE) for mapping in memory.mappings]


def test_ranges_are_kept_by_address(memory: GuestMemory) -> None:
    for page in (5, 1, 9, 0):
        memory.map(page * PAGE, PAGE, RW, None, 0)
    assert ranges(memory) == [(0, 1), (1, 1), (5, 1), (9, 1)]


def test_a_range_may_end_at_the_end_of_the_address_space(memory: GuestMemory) -> None:
    memory.map((1 << 64) - PAGE, PAGE, RW, None, 0)
    memory.unmap((1 << 64) - PAGE, PAGE)


def test_an_unmap_that_covers_several_ranges_takes_them_all(memory: GuestMemory) -> None:
    for page in (1, 2, 5, 9):
        memory.map(page * PAGE, PAGE, RW, None, 0)
    memory.unmap(0, 8 * PAGE)
    assert ranges(memory) == [(9, 1)]


@pytest.mark.parametrize(
    ("first", "pages", "number"),
    [(3, 4, errno.EINVAL), (0, 5, errno.EINVAL), (5, 1, errno.EINVAL), (0, 4, errno.ENOENT)],
)
def test_an_unmap_that_cuts_a_range_changes_nothing(
    memory: GuestMemory, first: int, pages: int, number: int
) -> None:
    memory.map(4 * PAGE, 4 * PAGE, RW, None, 0)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is the check
        memory.unmap(first * PAGE, pages * PAGE)
    assert caught.value.errno == number
    assert ranges(memory) == [(4, 4)]


def test_no_more_ranges_are_kept_than_announced(
    memory: GuestMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_memory, "MAX_MAPS", 2)
    memory.map(0, PAGE, RW, None, 0)
    memory.map(PAGE, PAGE, RW, None, 0)
    with pytest.raises(OSError, match="more than 2") as caught:
        memory.map(2 * PAGE, PAGE, RW, None, 0)
    assert caught.value.errno == errno.ENOSPC


def test_an_access_is_split_where_the_way_to_the_memory_changes(
    memory: GuestMemory, asked: Asked, file: int
) -> None:
    memory.map(PAGE, PAGE, RW, file, 0)
    memory.map(3 * PAGE, PAGE, RW, None, 0)
    memory.write(PAGE - 2, b"<<" + bytes(PAGE) + b">>")
    assert asked.writes == [(PAGE - 2, b"<<"), (2 * PAGE, b">>")]
    assert os.pread(file, 5, 0) == bytes(5)
    data = memory.read(2 * PAGE - 1, 2 * PAGE)
    assert asked.reads == [(2 * PAGE, PAGE), (3 * PAGE, PAGE - 1)]
    assert data == b"\0" + (bytes(range(256)) * 32)[:-1]


def test_pages_are_used_only_for_what_they_were_given_for(
    memory: GuestMemory, asked: Asked, file: int
) -> None:
    memory.map(0, PAGE, DmaMapFlags.READ, file, 0)
    memory.map(PAGE, PAGE, DmaMapFlags.WRITE, file, PAGE)
    assert memory.read(0, 4) == b"file"
    memory.write(0, b"x")
    memory.write(PAGE, b"y")
    memory.read(PAGE, 1)
    assert asked.writes == [(0, b"x")]
    assert asked.reads == [(PAGE, 1)]
    assert os.pread(file, 1, PAGE) == b"y"


def test_nothing_is_accessed_in_place_when_that_is_forbidden(asked: Asked, file: int) -> None:
    memory = GuestMemory(asked.read, asked.write, direct=False)
    memory.map(0, PAGE, RW, file, 0)
    memory.write(0, b"x")
    assert asked.writes == [(0, b"x")]
    assert os.pread(file, 4, 0) == b"file"
