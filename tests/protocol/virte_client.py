"""A client of the vIRTE call written from docs/virte.md alone, over vfio-user.

It shares no layout with the harness: what docs/virte.md and `harness.spec.hypercall` say must agree
for the statements to hold.
"""

from __future__ import annotations

import queue
import struct
from dataclasses import dataclass, field

from harness.vfio_user.client import Client

CONFIG = 7
OK, BUSY, NO_HANDLES, DENIED, UNSUPPORTED, INVALID = range(6)
NO_SUCH_HANDLE, NOT_NEGOTIATED, FAILED, NOT_ATTEMPTED = range(6, 10)
NEGOTIATE, RELEASE, MAP, RETARGET, UNMAP, QUERY, REVIVE = range(1, 8)
MSI, MSIX, IMS = 1, 2, 3
PASID, PARKED = 1 << 0, 1 << 3
FRAME = 0x2000


@dataclass(frozen=True)
class Answer:
    """The answer half of an entry."""

    status: int
    handle: int
    address: int
    data: int
    granted: int
    state: int
    delivered: int
    blocked: int


@dataclass(frozen=True)
class Called:
    """The answer half of the header, the value that CALL gave, and the entries."""

    value: int
    status: int
    done: int
    retry_us: int
    notices: int
    version: int
    features: int
    entries: list[Answer]


def entry(
    *,
    store: int = 0,
    flags: int = 0,
    requester: int = 0,
    count: int = 0,
    least: int = 0,
    index: int = 0,
    pasid: int = 0,
    destination: int = 0,
    vector: int = 0,
    mode: int = 0,
    handle: int = 0,
) -> bytes:
    """Return the request half of an entry."""
    return struct.pack(
        "<BBHHHIIIBBHII",
        *(store, flags, requester, count, least, index, pasid, destination),
        *(vector, mode, 0, handle, 0),
    )


def ims(index: int = 0, *, requester: int = 0x100, destination: int = 1, vector: int = 64) -> bytes:
    """Return the MAP of an IMS entry."""
    return entry(
        store=IMS,
        requester=requester,
        count=1,
        index=index,
        destination=destination,
        vector=vector,
    )


@dataclass
class VirteClient:
    """A guest, and what is injected into it. Frames are written by accesses, or through a map."""

    client: Client
    messages: queue.SimpleQueue[tuple[int, int]] = field(default_factory=queue.SimpleQueue)
    doorbells: int = 0xD000_0000

    def set_up(self) -> None:
        """Place the doorbell BAR, and switch memory decoding and bus mastering on."""
        self.write_config(0x20, 4, self.doorbells)
        self.write_config(0x04, 2, 0x6)
        self.mapped = self.client.map_region(2)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.client.region_write(CONFIG, offset, value.to_bytes(size, "little"))

    def config(self, offset: int, size: int) -> int:
        return int.from_bytes(self.client.region_read(CONFIG, offset, size), "little")

    def register(self, offset: int) -> int:
        return int.from_bytes(self.client.region_read(0, offset, 4), "little")

    def put(self, offset: int, data: bytes) -> None:
        if self.mapped:
            self.mapped[0][offset : offset + len(data)] = data
        else:
            self.client.region_write(2, offset, data)

    def get(self, offset: int, count: int) -> bytes:
        if self.mapped:
            return bytes(self.mapped[0][offset : offset + count])
        return self.client.region_read(2, offset, count)

    def call(
        self, operation: int, *entries: bytes, version: int = 0, features: int = 0, frame: int = 0
    ) -> Called:
        """Write a frame, read its CALL register, and return the answers."""
        base = frame * FRAME
        header = struct.pack("<HHIII16x", operation, len(entries), 0, version, features)
        self.put(base, header)
        for number, request in enumerate(entries):
            self.put(base + 0x40 + 0x40 * number, request)
        value = self.register(0x1000 + 4 * frame)
        answers = [
            Answer(*struct.unpack("<IIQIHHII", self.get(base + 0x60 + 0x40 * number, 32)))
            for number in range(len(entries))
        ]
        status, done, retry_us, notices, granted_version, granted = struct.unpack(
            "<IIIIII8x", self.get(base + 0x20, 32)
        )
        return Called(value, status, done, retry_us, notices, granted_version, granted, answers)

    def negotiate(self, version: int = 0x10000, features: int = 0x1F) -> Called:
        return self.call(NEGOTIATE, version=version, features=features)

    def map(self, request: bytes) -> Answer:
        called = self.call(MAP, request)
        assert called.status == OK, called
        return called.entries[0]

    def send(self, address: int, data: int) -> None:
        """Write a pair, as one of the guest's devices does."""
        self.client.region_write(4, address - self.doorbells, data.to_bytes(4, "little"))

    def arrival(self, address: int, data: int) -> tuple[int, int] | None:
        """Send a message; return the CPU and vector that are injected for it, None for none."""
        self.send(address, data)
        self.register(0)  # what was injected comes before the reply to a later access
        if self.messages.empty():
            return None
        address, data = self.messages.get()
        assert address >> 20 == 0xFEE
        return address >> 12 & 0xFF, data & 0xFF
