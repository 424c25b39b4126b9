"""BAR 2: the call frames, trapped or mapped into the guest."""

from __future__ import annotations

import mmap
import os

from harness.spec.hypercall import BAR_FRAMES_SIZE, FRAME_SIZE


class Frames:
    """The memory that guest and hypervisor share for their calls.

    :param mapped: put it into a memory file that the client can map; :meth:`close` ends it.
    """

    def __init__(self, *, mapped: bool):
        self.fd: int | None = None
        """The file behind the BAR when it is mapped; owned here."""
        if mapped:
            self.fd = os.memfd_create("virte-frames")
            os.ftruncate(self.fd, BAR_FRAMES_SIZE)
        self._memory = mmap.mmap(-1 if self.fd is None else self.fd, BAR_FRAMES_SIZE)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the BAR."""
        return self._memory[offset : offset + count]

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes of the BAR."""
        self._memory[offset : offset + len(data)] = data

    def frame(self, number: int) -> bytes:
        """Return a copy of a frame: the guest may go on writing to the frame itself."""
        return self.read(number * FRAME_SIZE, FRAME_SIZE)

    def answer(self, number: int, offset: int, data: bytes) -> None:
        """Write a piece of an answer into a frame."""
        self.write(number * FRAME_SIZE + offset, data)

    def reset(self) -> None:
        """Forget every request and answer."""
        self._memory[:] = bytes(BAR_FRAMES_SIZE)
