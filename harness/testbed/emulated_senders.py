# Ref: QEMU hw/virtio/virtio-pci.c (virtio_pci_common_write, virtio_pci_notify, virtio_pci_reset),
#      hw/virtio/virtio.c (virtio_notify, virtio_queue_reset, virtio_set_status, virtio_error,
#      virtqueue_flush, virtqueue_pop),
#      hw/net/virtio-net.c (virtio_net_set_link_status); hw/nvme/ctrl.c (nvme_irq_assert,
#      nvme_init_cq, nvme_free_cq, nvme_ctrl_reset); hw/pci/pci_host.c, include/hw/pci/pci_device.h;
#      Virtual I/O Device (VIRTIO) Version 1.2, 4.1.4.3 (common configuration structure)
"""What virtio devices and an NVMe controller send that QEMU emulates, as its log tells it.

A line says that a queue has an interrupt to send, but neither where it goes nor whether it is held
back: by a mask, by a queue without a vector, by a bus master that is none. All of that the guest
has written, though, and each such write has a line. So it is followed from the reset on.

QEMU drops what a virtio device has to send that it has given up (DEVICE_NEEDS_RESET). It says that
it has, but not of which one: so a complaint of its puts all of them in doubt, until it does
something for one again that it does only for one that works.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Container
from typing import Final

from harness.qemu.command import Json
from harness.qemu.trace import MSIX_TABLE
from harness.spec.msi import Message
from harness.spec.pci import Command, Header, MsixControl, RequesterId
from harness.testbed.emulated_msix import EmulatedMsix

NVME: Final = "nvme"
"""QEMU's driver of an NVMe controller. Its lines do not tell two of them apart."""
VIRTIO: Final = "virtio-"
"""How the names of QEMU's virtio drivers begin."""

PAGE_SIZE: Final = 0x1000
"""The regions of a device begin on such a boundary in its BARs, and are no longer."""

_SPAN: Final = 0x1000
"""A device's regions stand in its object this far at most (seen in QEMU 11.1: 0x690 and 0xbe0)."""
_QUEUES: Final = 1024
"""VIRTIO_QUEUE_MAX."""

_ACCESS: Final = re.compile(
    r"mr (?P<region>0x\w+) addr (?P<address>0x\w+) value (?P<value>0x\w+) .* name '(?P<name>.*)'"
)
_CONFIG: Final = re.compile(
    r"(?P<function>\S+) @(?P<offset>0x[0-9a-f]+) <- (?P<value>0x[0-9a-f]+)$"
)
_OBJECT: Final = re.compile(r"obj=(?P<object>0x\w+)\((?P<type>.*)\)")
_QUEUE: Final = re.compile(r"vdev (?P<device>\S+) (?:n (?P<number>\d+) )?vq (?P<queue>\S+)")
_STATUS: Final = re.compile(r"vdev (?P<device>\S+) val (?P<status>\d+)$")
_RING: Final = re.compile(r"vq (?P<queue>\S+) ")
_CREATED: Final = re.compile(r"cqid=(?P<queue>\d+), vector=(?P<vector>\d+)")
_NUMBER: Final = re.compile(r"(?P<number>\d+)$")

CONFIGURATION: Final = -1
"""In the place of a queue: what has the interrupt is a configuration that was changed."""


class CommonConfiguration(enum.IntEnum):
    """Offsets in a virtio device's common configuration structure (4.1.4.3)."""

    CONFIG_MSIX_VECTOR = 0x10
    QUEUE_SELECT = 0x16
    QUEUE_MSIX_VECTOR = 0x1A
    QUEUE_RESET = 0x3A


DRIVER_OK: Final = 4
"""The bit of a virtio device's status (2.1)."""


class EmulatedSender:
    """A device that QEMU emulates, from when it was plugged in.

    :param requester: its requester id.
    :param pointer: of its object, as QEMU's log prints it.
    :param vectors: entries of its MSI-X table.
    """

    def __init__(self, requester: RequesterId, pointer: str, vectors: int):
        self.requester = requester
        self.msix = EmulatedMsix(vectors)
        self._pointer = pointer
        self._config_write: tuple[int, int] | None = None
        """Offset and value, if the write before was to this device's config space."""

    def take(self, event: str, text: str) -> list[Message]:
        """Take note of a line; return what the device sends because of what it tells."""
        if event == "memory_region_ops_write":
            access = _ACCESS.search(text)
            if access and 0 <= int(access["region"], 16) - int(self._pointer, 16) < _SPAN:
                place, value = int(access["address"], 16) % PAGE_SIZE, int(access["value"], 16)
                if access["name"] == MSIX_TABLE:
                    return self.msix.table_written(place, value)
                self._write(access["name"], place, value)
        elif event == "pci_cfg_write":
            self._note_config(text)
        elif event == "msix_write_config" and self._config_write:
            # The write before it was to Message Control, at an offset of 2 in a dword.
            offset, value = self._config_write
            return self.msix.control_written(MsixControl.unpack(_high_word(offset, value)))
        elif event == "resettable_phase_hold_exec":
            if f"obj={self._pointer}(" in text:
                self._reset()
        else:
            return self._take(event, text)
        return []

    def doubt(self) -> None:
        """QEMU has complained; it may be that of this device."""

    def _note_config(self, text: str) -> None:
        write = _CONFIG.search(text)
        self._config_write = None
        if write and write["function"] == str(self.requester):
            offset, value = int(write["offset"], 16), int(write["value"], 16)
            self._config_write = offset, value
            if offset == Header.COMMAND:
                self.msix.command_written(Command.unpack(value & 0xFFFF))

    def _reset(self) -> None:
        self.msix.reset()

    # What a kind of device has besides.

    def _take(self, event: str, text: str) -> list[Message]:
        """Do what :meth:`take` says with any other line."""
        return []

    def _write(self, region: str, offset: int, value: int) -> None:
        """Take note of a write to another region than the MSI-X table."""


class VirtioSender(EmulatedSender):
    """A virtio device.

    :param device: the other pointer that it has in QEMU's log, that of its VirtIODevice.
    :param names: those by which the monitor calls its network, if it is a card.
    """

    def __init__(
        self,
        requester: RequesterId,
        pointer: str,
        vectors: int,
        *,
        device: str,
        names: Container[object] = (),
    ):
        super().__init__(requester, pointer, vectors)
        self._device = device
        self._names = names
        self._vectors: dict[int, int] = {}
        """Of each queue that has one, and of the configuration."""
        self._selected = 0
        self._queues: dict[str, int] = {}
        """The number of a queue that was notified at least once, by its pointer."""
        self._driver_ok = False
        self._link_up = True
        self._doubted = False

    def doubt(self) -> None:
        """QEMU has complained: it may have given this device up."""
        self._doubted = True

    def _take(self, event: str, text: str) -> list[Message]:
        if event == "qmp_enter_set_link":
            return self._set_link(json.loads(text))
        if event == "virtio_set_status":
            status = _STATUS.match(text)
            if status and status["device"] == self._device:
                self._set_status(int(status["status"]))
        elif event in ("virtqueue_flush", "virtqueue_pop"):
            ring = _RING.match(text)
            self._doubted &= ring is None or ring["queue"] not in self._queues
        elif (queue := _QUEUE.match(text)) and queue["device"] == self._device:
            if event == "virtio_notify":
                return self._fire(self._queues.get(queue["queue"]))
            if event == "virtio_queue_notify":
                self._queues[queue["queue"]] = int(queue["number"])
        return []

    def _set_link(self, asked: Json) -> list[Message]:
        was_up = self._link_up
        if asked["name"] in self._names:
            self._link_up = bool(asked["up"])
        changed = self._link_up != was_up
        return self._fire(CONFIGURATION) if changed and self._driver_ok else []

    def _set_status(self, status: int) -> None:
        self._driver_ok = bool(status & DRIVER_OK)
        if not status:
            self._vectors.clear()
            self._selected = 0
            self._doubted = False
            self.msix.unuse_all()

    def _fire(self, queue: int | None) -> list[Message]:
        vector = self._vectors.get(queue) if queue is not None else None
        return self.msix.fire(vector) if vector is not None and not self._doubted else []

    def _write(self, region: str, offset: int, value: int) -> None:
        if not region.startswith("virtio-pci-common"):
            return
        if offset == CommonConfiguration.CONFIG_MSIX_VECTOR:
            self._give_vector(CONFIGURATION, value)
        elif offset == CommonConfiguration.QUEUE_SELECT and value < _QUEUES:
            self._selected = value
        elif offset == CommonConfiguration.QUEUE_MSIX_VECTOR:
            self._give_vector(self._selected, value)
        elif offset == CommonConfiguration.QUEUE_RESET and value == 1:
            self._vectors.pop(self._selected, None)  # QEMU goes on counting it as a user

    def _give_vector(self, queue: int, vector: int) -> None:
        if (old := self._vectors.pop(queue, None)) is not None:
            self.msix.unuse(old)
        if vector < self.msix.count:
            self.msix.use(vector)
            self._vectors[queue] = vector


class NvmeSender(EmulatedSender):
    """An NVMe controller."""

    def __init__(self, requester: RequesterId, pointer: str, vectors: int):
        super().__init__(requester, pointer, vectors)
        self._vectors: dict[int, int] = {}
        """Of each completion queue."""

    def _take(self, event: str, text: str) -> list[Message]:
        if event == "pci_nvme_irq_msix":
            return self.msix.fire(_number(text))
        if event == "pci_nvme_mmio_start_success":
            self._create(0, 0)
        elif event == "pci_nvme_create_cq" and (created := _CREATED.search(text)):
            self._create(int(created["queue"]), int(created["vector"]))
        elif event == "pci_nvme_del_cq":
            self._delete(_number(text))
        elif event == "pci_nvme_mmio_stopped":
            self._delete(*self._vectors)
        return []

    def _reset(self) -> None:
        self._delete(*self._vectors)
        super()._reset()

    # A queue that was created or deleted while MSI-X was off is not counted.

    def _create(self, queue: int, vector: int) -> None:
        if queue not in self._vectors:  # else QEMU refuses it
            self._vectors[queue] = vector
            if self.msix.enabled:
                self.msix.use(vector)

    def _delete(self, *queues: int) -> None:
        for queue in queues:
            vector = self._vectors.pop(queue, None)
            if vector is not None and self.msix.enabled:
                self.msix.unuse(vector)


def _number(text: str) -> int:
    number = _NUMBER.search(text)
    assert number is not None
    return int(number["number"])


def _high_word(offset: int, value: int) -> int:
    # Of the dword that is written from this offset on: its upper half, the highest byte at least.
    return (value << 8 * (offset % 4) >> 16) & 0xFFFF
