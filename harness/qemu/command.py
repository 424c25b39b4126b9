# Ref: QEMU docs/system/invocation, docs/system/devices/vfio-user.rst; hw/i386/intel_iommu.c
"""From a typed machine to QEMU's arguments. Pure: nothing is opened or started here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from harness.errors import ConfigError
from harness.qemu.firmware import FirmwareFault, VireTable

Json = Mapping[str, object]

SOCKET_CORES: Final = 16
"""Cores in a socket of a machine whose APIC ids are given: the low 4 bits of an id."""
MAX_APIC_ID: Final = 1023
"""The firmware describes every CPU that could be, up to the last; that takes its time."""

MIN_MEMORY_MIB: Final = 128
"""Less does not hold a stock kernel and its initramfs."""

GUEST_ADDRESS: Final = "10.0.2.15"
"""Address of the guest in QEMU's user network; images/rootfs/init sets the same."""

SSH_PORT: Final = 22

BRIDGE: Final = "bridge0"
"""QEMU's name of the PCI Express to PCI bridge, where there is one."""
BRIDGED_SLOT: Final = 2
"""The first device number behind it that is free."""

BASE_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0",
    # Stay where it happened: memory, interrupt tables and registers can still be read.
    "panic=0",
    # On a loaded host an emulated timer can be late, and the kernel would panic for want of ticks
    # (timer_irq_works). KVM and VMware guests skip the check by themselves: see
    # arch/x86/kernel/kvm.c, paravirt_ops_setup.
    "no_timer_check",
    # The kernel's tests of its ciphers have nothing to do with interrupts, and under software
    # emulation they are a seventh of a boot's processor time (3.2 s of it, or 2.7 without).
    "cryptomgr.notests",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Iommu:
    """The virtual Intel IOMMU of a machine."""

    interrupt_remapping: bool = True
    """Offer interrupt remapping (QEMU's intremap)."""
    caching_mode: bool = False
    """Report CAP.CM, which bare metal never does: guests take it as a sign of a hypervisor."""
    dma_translation: bool = False
    """Offer DMA translation. QEMU then insists on caching mode for an assigned device."""
    x2apic: bool = True
    """Extended interrupt mode (ECAP.EIM): 32-bit APIC ids, so that guests go to x2APIC mode."""
    ims: Literal["allowed", "disallowed"] | None = None
    """What the DMAR table says about IMS, in its new format; None: it is QEMU's, of the old one."""

    def __post_init__(self) -> None:
        if self.dma_translation and not self.caching_mode:
            raise ConfigError(
                "iommu: dma_translation needs caching_mode",
                hint="QEMU ends at once when a device is assigned without it (vtd_iommu_replay)",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A virtual platform, as a file in guests/machines/ describes it."""

    name: str
    """Short name: what --machine takes, and a part of file names."""
    description: str
    """One line on what this platform stands for."""
    memory: int = 256
    """Guest memory in MiB."""
    cpus: int = 2
    """Number of virtual CPUs, each a core of its own."""
    apic_ids: tuple[int, ...] = ()
    """APIC id of each CPU, the first 0, ascending; none: 0, 1, 2, ..."""
    iommu: Iommu | None = None
    """The IOMMU, or none at all."""
    accelerator: Literal["tcg", "kvm"] = "tcg"
    """What runs the guest's instructions. Software emulation runs on every host."""
    root_ports: int = 1
    """PCI Express root ports that devices under test are plugged into: port0, port1, ..."""
    bridged_function: bool = False
    """A conventional PCI function of QEMU's (virtio-rng) behind a PCI Express to PCI bridge."""
    kernel_arguments: tuple[str, ...] = ()
    """Words added to the guest kernel's command line."""
    hypervisor_bit: bool = True
    """Whether the CPUs say that they run under a hypervisor (CPUID 1, ECX[31])."""
    vire: VireTable | None = None
    """The table VIRE, or none."""
    firmware_fault: FirmwareFault | None = None
    """A mistake of the firmware's."""
    own_pairs_work: bool | None = None
    """Whether a message that the kernel composed itself works in an IMS store, on the platform that
    this machine stands for: what the rules of ``imsh policy`` are held against."""

    def __post_init__(self) -> None:
        if self.memory < MIN_MEMORY_MIB:
            raise ConfigError(f"memory: {self.memory} MiB is less than {MIN_MEMORY_MIB} MiB")
        if not 1 <= self.cpus <= 255:
            raise ConfigError(f"cpus: {self.cpus} is not in 1..255")
        if self.apic_ids:
            _check_apic_ids(self.apic_ids, self.cpus)
        if not 0 <= self.root_ports <= 16:
            raise ConfigError(f"root_ports: {self.root_ports} is not in 0..16")
        if self.firmware_fault == "vire-twice" and not self.vire:
            raise ConfigError("firmware_fault: vire-twice needs vire")
        if self.firmware_fault == "dmar-twice" and not self.iommu:
            raise ConfigError("firmware_fault: dmar-twice needs iommu")
        if self.firmware_fault == "dmar-checksum" and not (self.iommu and self.iommu.ims):
            raise ConfigError("firmware_fault: dmar-checksum needs iommu with ims")

    @property
    def remaps_interrupts(self) -> bool:
        """Whether the guest finds an interrupt-remapping unit."""
        return self.iommu is not None and self.iommu.interrupt_remapping


def _check_apic_ids(apic_ids: tuple[int, ...], cpus: int) -> None:
    if len(apic_ids) != cpus:
        raise ConfigError(f"apic_ids: {len(apic_ids)} for {cpus} cpus")
    if apic_ids[0] != 0 or list(apic_ids) != sorted(set(apic_ids)):
        raise ConfigError(f"apic_ids: {list(apic_ids)} is not 0 and then ascending")
    if apic_ids[-1] > MAX_APIC_ID:
        raise ConfigError(f"apic_ids: {apic_ids[-1]} is more than {MAX_APIC_ID}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What connects one QEMU process to its harness: files and inherited descriptors.

    With nothing but a kernel, the arguments are those of a machine that a human starts by hand,
    with console and monitor on the terminal. A machine that continues from a saved state needs no
    kernel.
    """

    kernel: str | None = None
    initrd: str | None = None
    kernel_arguments: tuple[str, ...] = ()
    memory: str | None = None
    """File behind guest memory."""
    private_memory: bool = False
    """Open that file for reading only, and map it copy-on-write."""
    ports: tuple[tuple[str, int], ...] = ()
    """Virtio-serial ports of the guest: name, and the descriptor that is its other end."""
    qmp_fd: int | None = None
    console_fd: int | None = None
    console_log: Path | None = None
    trace_log: Path | None = None
    trace_events: tuple[str, ...] = ()
    """Logged from the start."""
    devices: tuple[Json, ...] = ()
    acpi_tables: tuple[Path, ...] = ()
    """Files of ACPI tables that the firmware hands on besides QEMU's own."""
    incoming: bool = False
    """Start with the CPUs stopped, waiting for a saved state (migrate-incoming)."""


Option = tuple[str, ...]


def options(spec: MachineSpec, wiring: Wiring) -> list[Option]:
    """Return QEMU's options, each with its value."""
    return [
        ("-no-user-config",),
        ("-nodefaults",),
        # A guest that resets or powers off stays to be looked at; the harness quits QEMU.
        ("-action", "reboot=shutdown,shutdown=pause,panic=pause"),
        *_platform(spec, wiring),
        *_terminals(wiring),
        *_network(),
        *_root_ports(spec),
        *(_bridged_function() if spec.bridged_function else []),
        *_serial_ports(wiring),
        *(("-device", _compact(device)) for device in wiring.devices),
        *_kernel(spec, wiring),
        *([("-incoming", "defer")] if wiring.incoming else []),
    ]


def kernel_command_line(spec: MachineSpec, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the words of the guest kernel's command line; later ones win."""
    return (*BASE_KERNEL_ARGUMENTS, *spec.kernel_arguments, *extra)


def argv(qemu: Sequence[str], opts: Sequence[Option]) -> list[str]:
    """Return the arguments that start QEMU; ``qemu`` is its path, or a loader in front of it."""
    return [*qemu, *(word for option in opts for word in option)]


def printable(qemu: Sequence[str], opts: Sequence[Option]) -> str:
    """Return the same to paste into a shell: an option and its value on each line."""
    return " \\\n    ".join(shlex.join(words) for words in (qemu, *opts))


def vfio_user_device(
    identifier: str, socket_path: str, *, bus: str = "port0", slot: int = 0
) -> Json:
    """Return the client of a vfio-user server, for ``-device`` or ``device_add``.

    QEMU takes UNIX sockets by path only (hw/vfio-user/pci.c, vfio_user_pci_set_socket).
    """
    return {
        "driver": "vfio-user-pci",
        "id": identifier,
        "bus": bus,
        "addr": f"{slot:x}",
        "socket": {"type": "unix", "path": socket_path},
    }


def _compact(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"))


def _platform(spec: MachineSpec, wiring: Wiring) -> list[Option]:
    # The firmware leaves the SATA controller doing DMA, which every guest would log as a fault.
    machine = ["q35", "sata=off", "smbus=off"]
    if spec.accelerator == "kvm":
        # Remapping needs the IO/APIC in user space: the kernel's own does not know the IOMMU.
        machine.append("kernel-irqchip=split")
        accelerator, cpu = "kvm", "host"
    else:
        # Five levels of page tables would cost the emulation an eighth of the boot's time.
        accelerator, cpu = "tcg,thread=multi", "max,la57=off"
    if not spec.hypervisor_bit:
        cpu += ",hypervisor=off"
    result: list[Option] = []
    if wiring.memory:
        machine.append("memory-backend=ram")
        backend: Json = {
            "qom-type": "memory-backend-file",
            "id": "ram",
            "size": spec.memory << 20,
            "mem-path": wiring.memory,
            "share": not wiring.private_memory,
        }
        if wiring.private_memory:
            # "rom" is on by default with "readonly", and would take the guest's memory for a ROM.
            backend = {**backend, "readonly": True, "rom": "off"}
        result.append(("-object", _compact(backend)))
    result += [
        ("-machine", ",".join(machine)),
        ("-accel", accelerator),
        ("-cpu", cpu),
        ("-smp", _topology(spec)),
        ("-m", f"{spec.memory}M"),
        *(("-acpitable", f"file={_table_file(path)}") for path in wiring.acpi_tables),
    ]
    if iommu := spec.iommu:
        device: Json = {
            "driver": "intel-iommu",
            "intremap": _on_off(iommu.interrupt_remapping),
            "eim": _on_off(iommu.interrupt_remapping and iommu.x2apic),
            "caching-mode": iommu.caching_mode,
            "dma-translation": iommu.dma_translation,
        }
        # Ahead of every other device: they look it up when they are made.
        result.append(("-device", _compact(device)))
    result += [("-device", _compact(_cpu(spec, apic_id))) for apic_id in spec.apic_ids[1:]]
    return result


def _topology(spec: MachineSpec) -> str:
    """Return the argument of ``-smp``: CPU 0 alone when the others are plugged in by APIC id."""
    if not spec.apic_ids:
        return f"{spec.cpus},sockets=1,cores={spec.cpus},threads=1"
    sockets = spec.apic_ids[-1] // SOCKET_CORES + 1
    places = sockets * SOCKET_CORES
    return f"1,maxcpus={places},sockets={sockets},cores={SOCKET_CORES},threads=1"


def _cpu(spec: MachineSpec, apic_id: int) -> Json:
    """Return a CPU with an APIC id; what ``-cpu`` says of features holds for it, too."""
    socket, core = divmod(apic_id, SOCKET_CORES)
    return {
        "driver": f"{'host' if spec.accelerator == 'kvm' else 'max'}-x86_64-cpu",
        "id": f"cpu{apic_id}",
        "socket-id": socket,
        "core-id": core,
        "thread-id": 0,
    }


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _terminals(wiring: Wiring) -> list[Option]:
    result: list[Option] = [("-display", "none")]
    if wiring.qmp_fd is not None:
        result += [
            ("-chardev", f"socket,id=qmp,fd={wiring.qmp_fd}"),
            ("-qmp", "chardev:qmp"),
        ]
    if wiring.console_fd is not None:
        capture = wiring.console_log
        log = f",logfile={_escaped(capture)},logappend=on" if capture else ""
        result += [
            ("-chardev", f"socket,id=console,fd={wiring.console_fd}{log}"),
            ("-serial", "chardev:console"),
        ]
    else:
        result.append(("-serial", "mon:stdio"))
    if wiring.trace_log:
        # With the time in front of each line.
        result += [("-D", str(wiring.trace_log)), ("-msg", "timestamp=on")]
        result += [("-trace", event) for event in wiring.trace_events]
    return result


def _table_file(path: Path) -> str:
    # There QEMU joins several files, with a colon between them (acpi_table_add).
    if ":" in str(path):
        raise ConfigError(f"{path}: QEMU takes no ACPI table from a path with a colon in it")
    return _escaped(path)


def _escaped(path: Path) -> str:
    # In QEMU's comma strings a comma is written twice.
    return str(path).replace(",", ",,")


def _network() -> list[Option]:
    # Port 0: the host's kernel chooses a free one, and the monitor tells which (info usernet).
    netdev: Json = {
        "type": "user",
        "id": "net0",
        "restrict": True,
        "hostfwd": [{"str": f"tcp:127.0.0.1:0-{GUEST_ADDRESS}:{SSH_PORT}"}],
    }
    nic: Json = {
        "driver": "virtio-net-pci",
        "id": "nic0",
        "netdev": "net0",
        # No boot ROM: the firmware would load and run it.
        "romfile": "",
        # A guest that continues from a snapshot is told to announce nothing (see load_state()),
        # for which QEMU frees a timer that the next reset of the device takes for granted: it dies
        # of SIGSEGV (virtio_net_post_load_device() and virtio_net_reset(), hw/net/virtio-net.c).
        "guest_announce": False,
    }
    return [("-netdev", _compact(netdev)), ("-device", _compact(nic))]


def _serial_ports(wiring: Wiring) -> list[Option]:
    if not wiring.ports:
        return []
    result: list[Option] = [("-device", _compact({"driver": "virtio-serial-pci", "id": "ports"}))]
    for name, fd in wiring.ports:
        port: Json = {"driver": "virtserialport", "chardev": name, "name": name}
        result += [
            ("-chardev", f"socket,id={name},fd={fd}"),
            ("-device", _compact(port)),
        ]
    return result


def _root_ports(spec: MachineSpec) -> list[Option]:
    return [
        ("-device", _compact({"driver": "pcie-root-port", "id": f"port{n}", "chassis": n + 1}))
        for n in range(spec.root_ports)
    ]


def _bridged_function() -> list[Option]:
    bridge: Json = {"driver": "pcie-pci-bridge", "id": BRIDGE}
    function: Json = {"driver": "virtio-rng-pci", "id": "rng0", "bus": BRIDGE, "addr": "1"}
    return [("-device", _compact(device)) for device in (bridge, function)]


def _kernel(spec: MachineSpec, wiring: Wiring) -> list[Option]:
    if wiring.kernel is None:
        return []
    return [
        ("-kernel", wiring.kernel),
        *([("-initrd", wiring.initrd)] if wiring.initrd else []),
        ("-append", " ".join(kernel_command_line(spec, wiring.kernel_arguments))),
    ]
