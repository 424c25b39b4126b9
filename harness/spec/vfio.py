# Ref: Linux include/uapi/linux/vfio.h (v6.12): region and irq indices, info, SET_IRQS and DMA
#      flags, region info capabilities;
#      QEMU docs/interop/vfio-user.rst, "vfio-user Protocol Specification" (QEMU 11.1): commands,
#      header.
"""Numbers shared by VFIO and vfio-user."""

from __future__ import annotations

import enum


class Command(enum.IntEnum):
    """VFIO_USER_*: what a vfio-user message asks for. Client to server unless said otherwise."""

    VERSION = 1
    """Propose a protocol version and capabilities; the first message of a connection."""
    DMA_MAP = 2
    """Let the server reach a range of client memory."""
    DMA_UNMAP = 3
    """Take a range away again."""
    DEVICE_GET_INFO = 4
    """How many regions and interrupt indices the device has."""
    DEVICE_GET_REGION_INFO = 5
    """Size, rights and mappable areas of one region."""
    DEVICE_GET_REGION_IO_FDS = 6
    """File descriptors for accesses that go round the client."""
    DEVICE_GET_IRQ_INFO = 7
    """Number and kind of the interrupts of one index."""
    DEVICE_SET_IRQS = 8
    """Wire, mask, unmask or trigger interrupts."""
    REGION_READ = 9
    """Read from a region."""
    REGION_WRITE = 10
    """Write to a region."""
    DMA_READ = 11
    """Read client memory. Server to client."""
    DMA_WRITE = 12
    """Write client memory. Server to client."""
    DEVICE_RESET = 13
    """Return the device to its state after power-on."""
    DIRTY_PAGES = 14
    """Dirty page log of an older protocol draft; the number is still reserved in QEMU."""
    REGION_WRITE_MULTI = 15
    """Several writes of up to 8 bytes in one message."""
    DEVICE_FEATURE = 16
    """Get, set or probe a device feature; all defined ones belong to migration."""
    MIG_DATA_READ = 17
    """Read migration data."""
    MIG_DATA_WRITE = 18
    """Write migration data."""


class MessageFlags(enum.IntFlag):
    """Flags field of the vfio-user header."""

    REPLY = 1 << 0
    """The message answers the command with the same id (type field, bits 3:0)."""
    NO_REPLY = 1 << 4
    """The sender wants no answer, not even to an error."""
    ERROR = 1 << 5
    """The command failed; the error field is its errno."""


MESSAGE_TYPE_MASK = 0xF
"""Type field in the flags: 0 is a command, 1 a reply."""


class DeviceFlags(enum.IntFlag):
    """VFIO_DEVICE_FLAGS_*."""

    RESET = 1 << 0
    PCI = 1 << 1


class RegionIndex(enum.IntEnum):
    """VFIO_PCI_*_REGION_INDEX."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class RegionFlags(enum.IntFlag):
    """VFIO_REGION_INFO_FLAG_*."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    CAPS = 1 << 3


class RegionCapability(enum.IntEnum):
    """VFIO_REGION_INFO_CAP_*: capabilities in a region info reply."""

    SPARSE_MMAP = 1
    """Only the listed areas of the region can be mapped."""
    TYPE = 2
    """A device-specific region."""


class IrqIndexNumber(enum.IntEnum):
    """VFIO_PCI_*_IRQ_INDEX."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


class IrqInfoFlags(enum.IntFlag):
    """VFIO_IRQ_INFO_*."""

    EVENTFD = 1 << 0
    MASKABLE = 1 << 1
    AUTOMASKED = 1 << 2
    NORESIZE = 1 << 3


class IrqSetFlags(enum.IntFlag):
    """VFIO_IRQ_SET_*: exactly one DATA and one ACTION flag."""

    DATA_NONE = 1 << 0
    """The action is for every interrupt of the range."""
    DATA_BOOL = 1 << 1
    """One byte for each interrupt: the action is for those that are not 0."""
    DATA_EVENTFD = 1 << 2
    """One eventfd for each interrupt, or none at all to de-assign."""
    ACTION_MASK = 1 << 3
    ACTION_UNMASK = 1 << 4
    ACTION_TRIGGER = 1 << 5


class DmaMapFlags(enum.IntFlag):
    """VFIO_DMA_MAP_FLAG_*."""

    READ = 1 << 0
    WRITE = 1 << 1


class DmaUnmapFlags(enum.IntFlag):
    """VFIO_DMA_UNMAP_FLAG_*."""

    GET_DIRTY_BITMAP = 1 << 0
    ALL = 1 << 1
