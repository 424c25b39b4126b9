"""A virtual machine with a guest in it that answers: the parts joined."""

from __future__ import annotations

import contextlib
import errno
import re
import threading
from collections.abc import Collection, Iterator
from typing import Final

from harness.build.provision import Guest
from harness.build.qemu import QemuBinary
from harness.devices.ims_function.function import ImsFunction
from harness.devices.ims_function.spec import ImsFunctionSpec
from harness.devices.virte_function.function import VirteFunction
from harness.errors import CheckFailed, HarnessError
from harness.events.clock import ClockTie, ClockTied
from harness.events.stream import Writer, now
from harness.events.timeline import timeline
from harness.guest.control import Control, ControlError
from harness.guest.identity import Identity, make_identity
from harness.guest.kernel_log import Complaint, DmarFault, alarm, complaints
from harness.guest.port import line_port
from harness.guest.ssh import SshSession, ssh_session
from harness.host.deadline import Deadline, wait_until
from harness.host.resources import harness_version
from harness.host.workspace import Workspace
from harness.qemu.command import Json, MachineSpec
from harness.qemu.launch import TIMELINE, running_machine
from harness.qemu.machine import HOST_PORT, TEST_PORT, Machine, State
from harness.spec.pci import RequesterId
from harness.spec.vtd import FaultReason, FaultRecord
from harness.testbed.aftermath import Leftover, check_gone, check_settled, queue_errors
from harness.testbed.boot import boot_of, machine_of
from harness.testbed.emulated import plug_emulated
from harness.testbed.evidence import keep
from harness.testbed.observer import Observer
from harness.testbed.platform import check_cpus
from harness.testbed.plugged import PluggedFunction
from harness.testbed.reach import TakingTurns, reachable_vm
from harness.testbed.sender_watch import SenderWatch
from harness.testbed.served import Model, Place, ServedFunction, served_function

ANSWER_SECONDS: Final = 20.0
"""Bound of the SSH server's answer."""

_OF_MODULE: Final = re.compile(r"imstest|[Mm]odule")
"""What a line of the log is about that says why a module was refused."""

CLOCK_ROUNDS: Final = 5
"""How often the guest's clock is read, of which the quickest reading counts."""

NEGOTIATION_SECONDS: Final = 20.0
"""Bound of a guest's first vIRTE call, once the function of the call is plugged in."""

DUMP_SECONDS: Final = 5.0
"""Bound of a guest's answer when something has gone wrong already."""


class Vm:
    """A running guest with its sessions. Made by :func:`answering_vm`, which owns all of them."""

    def __init__(
        self,
        guest: Guest,
        qemu: QemuBinary,
        machine: Machine,
        control: Control,
        host: Control,
        held: contextlib.ExitStack,
        *,
        direct_dma: bool,
    ):
        self.guest = guest
        self.qemu = qemu
        self.machine = machine
        self.control = control
        """The control tool in the guest, for tests."""
        self.host = host
        """Another one, for the harness: it answers when a test's request hangs in the kernel."""
        self.observer = Observer(machine)
        """What stands on the other side: remapping, traps, guest memory."""
        control.answered = self._judge
        self._held = held
        self._direct_dma = direct_dma
        self._plugged = 0
        self._bridged = 0
        self.doors: list[VirteFunction] = []
        """The functions of the vIRTE call that are plugged in."""
        self._senders = SenderWatch()
        self.leaves: Collection[Leftover] = ()
        """What the present test may leave behind; see :mod:`harness.testbed.aftermath`."""
        self._expected: set[tuple[int, int | None]] = set()
        self._identity: Identity | None = None
        self._starting_ssh = threading.Lock()
        self._ssh: SshSession | None = None

    @property
    def ssh(self) -> SshSession:
        """Commands in the guest. Its server is started, with new keys, when this is first asked.

        :raises HarnessError: there is no way into the guest.
        """
        if self._ssh is None:
            session = ssh_session(
                self.machine.ssh_address(),
                self.identity(),
                self.machine.vitals,
                deadline=Deadline(ANSWER_SECONDS, "the guest's SSH server"),
            )
            self._ssh = self._held.enter_context(session)
        return self._ssh

    def identity(self) -> Identity:
        """Return the keys of the guest's SSH server, which runs from here on. On any thread.

        :raises HarnessError: it cannot be started.
        """
        with self._starting_ssh:
            if self._identity is None:
                identity = make_identity()
                self.host.start_ssh(**identity.server_words())
                self._identity = identity
            return self._identity

    def restarted(self, guest: Guest) -> None:
        """Go on with a kernel that was started in the place of the one before (kexec).

        The ports lead to its control tools; its SSH server is started anew.
        """
        self.guest = guest
        with self._starting_ssh:
            self._identity = self._ssh = None

    @property
    def spec(self) -> MachineSpec:
        """The machine's specification."""
        return self.machine.spec

    @property
    def workspace(self) -> Workspace:
        """Where its console, transcripts and dumps go."""
        return self.machine.workspace

    def provenance(self) -> dict[str, str]:
        """Return what this machine is made of, for reports."""
        return {
            "kernel": self.guest.kernel.name,
            "kernel release": self.guest.kernel.release,
            "kernel package": self.guest.kernel.version,
            "machine": self.spec.name,
            "qemu": self.qemu.version,
            "qemu origin": self.qemu.origin,
            "module": self.guest.module.module.parent.name,
            "imsh": harness_version(),
        }

    def check_module(self) -> None:
        """Look whether the guest's kernel has taken our module.

        :raises CheckFailed: it has not; what the start said of it is the evidence.
        """
        if not self.control.ping().module:
            said = [line for line in self.kernel_log().splitlines() if _OF_MODULE.search(line)]
            raise CheckFailed(
                "the guest's kernel has not loaded the module",
                evidence="\n".join(said) or "(its log says nothing)",
            )

    def guest_clock(self) -> ClockTie:
        """Tie the guest's CLOCK_MONOTONIC to ours, as well as a few round trips can.

        :raises HarnessError: the guest does not say what its clock shows.
        """
        return ClockTie.measure(self.guest_time, CLOCK_ROUNDS)

    def guest_time(self) -> int:
        """Return what the guest's CLOCK_MONOTONIC shows, in nanoseconds.

        :raises HarnessError: the guest does not say.
        """
        # Read at the beginning of the file, whose rest is not needed.
        text = self.host.read_file("/proc/timer_list", seconds=DUMP_SECONDS)
        if match := re.search(r"^now at (\d+) nsecs$", text, re.MULTILINE):
            return int(match[1])
        raise HarnessError("the guest's timer list has no time", evidence=text[:200])

    def kernel_log(self) -> str:
        """Return what the kernel has logged so far (dmesg)."""
        return self.host.kernel_log()

    def kernel_findings(self) -> list[Complaint]:
        """Return the lines of the kernel's log that a sound kernel does not write."""
        return complaints(self.kernel_log())

    def check_kernel_log(self) -> None:
        """Look for what a sound kernel does not log, and for what the IOMMU has recorded.

        :raises CheckFailed: there is some; each is named.
        """
        found = [str(item) for item in self.kernel_findings() if not self._is_expected(item.fault)]
        status = self.observer.fault_status()
        recorded: list[object] = list(queue_errors(status))
        if status.overflow and not self._expected:
            recorded.append("more faults than it has records for (PFO)")
        if status.pending and (unit := self.observer.unit()):
            # Some kernels take no fault interrupt without DMA translation, and then log nothing.
            recorded += [fault for fault in unit.faults if not self._is_expected(fault)]
        found += [f"recorded by the IOMMU: {item}" for item in recorded]
        if found:
            raise CheckFailed("the guest's kernel log is not clean", evidence="\n".join(found))

    def expect_fault(
        self, reason: FaultReason, index: int | None, deadline: Deadline
    ) -> DmarFault | FaultRecord:
        """Wait for a fault of an interrupt message, and take it for no flaw from here on.

        Return it as the guest's kernel logged it, or as it stands in the unit while no kernel has
        taken it from there.

        :param index: of the IRTE; None: the reason leaves it undefined.
        :raises DeadlineExpired: neither has it.
        """
        self._expected.add((reason, index))
        return wait_until(lambda: self._faults_like(reason, index), deadline)[0]

    def _faults_like(self, reason: int, index: int | None) -> list[DmarFault | FaultRecord]:
        unit = self.observer.unit()
        faults: list[DmarFault | FaultRecord] = list(unit.faults) if unit else []
        faults += [item.fault for item in self.kernel_findings() if item.fault]
        return [fault for fault in faults if _place(fault) == (reason, index)]

    def _is_expected(self, fault: DmarFault | FaultRecord | None) -> bool:
        return fault is not None and _place(fault) in self._expected

    @property
    def has_faults(self) -> bool:
        """Whether a test provoked a fault: its record may stay for good."""
        return bool(self._expected)

    @property
    def free_ports(self) -> int:
        """How many functions can still be plugged into this machine."""
        return self.spec.root_ports - self._plugged

    @contextlib.contextmanager
    def plugged(self, model: Model, *, bridged: bool = False) -> Iterator[ServedFunction[Model]]:
        """Hold a function, plugged into the running guest; there may be others beside it.

        It keeps its port until the machine ends: QEMU 11.1 aborts when a vfio-user device with
        MSI-X is unplugged (vfio_user_msix_teardown() runs when the BARs are gone already).

        :param model: owned by the machine from here on.
        :param bridged: behind the machine's PCI Express to PCI bridge, instead of a root port.
        :raises HarnessError: every port of the machine is taken, or it has no bridge.
        """
        place = self._next_place(bridged=bridged)
        if isinstance(model, VirteFunction):
            self.doors.append(model)
            model.senders = self._followed_senders()
        served = self._held.enter_context(
            served_function(
                place,
                model,
                direct_dma=self._direct_dma,
                doors=self.doors,
                senders=self._senders,
            )
        )
        yield served
        served.server.check()

    def plug_emulated(self, device: Json) -> RequesterId:
        """Plug in a device that QEMU emulates itself, behind a root port; return its requester id.

        The vIRTE call serves virtio devices and one NVMe controller that come in this way. It is
        denied to every other device of QEMU's (those of the machine from its start, those that are
        plugged in directly): QEMU does not tell whose their messages are.

        :param device: options of ``device_add``, with ``driver``, ``id`` and ``bus``.
        :raises HarnessError: it is a second NVMe controller, its MSI-X table is longer than a page,
            or the guest has not numbered the bus.
        :raises MonitorCommandError: QEMU refused it.
        """
        return plug_emulated(self.machine, self._followed_senders(), device)

    def _followed_senders(self) -> SenderWatch:
        if not self._senders.followed:  # nothing is logged for a machine without the call
            self._senders.follow(self.machine.followed_messages(), self.machine.followed_errors())
        return self._senders

    def _next_place(self, *, bridged: bool) -> Place:
        if bridged:
            place = Place.bridged(self._bridged, self.machine, self.observer)
            self._bridged += 1
            return place
        if not self.free_ports:
            raise HarnessError(f"all {self.spec.root_ports} ports of the machine are taken")
        place = Place.behind(self._plugged, self.machine, self.observer)
        self._plugged += 1
        return place

    @contextlib.contextmanager
    def granted_call(self, model: VirteFunction) -> Iterator[ServedFunction[VirteFunction]]:
        """Hold the function of the vIRTE call, in a guest that has negotiated.

        What is bound from then on is in the new scheme.

        :raises HarnessError: as :meth:`plugged`.
        :raises DeadlineExpired: the guest makes no call, or is refused.
        """
        with self.plugged(model) as served:
            deadline = Deadline(NEGOTIATION_SECONDS, "the guest's negotiation of the vIRTE call")
            wait_until(lambda: model.partition.negotiated, deadline)
            yield served

    @contextlib.contextmanager
    def ims_function(
        self, spec: ImsFunctionSpec | None = None, *, bridged: bool = False
    ) -> Iterator[PluggedFunction]:
        """Hold an IMS function, plugged into the running guest and bound to its driver.

        At exit the driver is unbound, and nothing may be left: see
        :mod:`harness.testbed.aftermath`.

        :param bridged: as :meth:`plugged`.
        :raises HarnessError: as :meth:`plugged`.
        :raises CheckFailed: something is left.
        """
        with self.plugged(ImsFunction(spec), bridged=bridged) as served:
            plugged = PluggedFunction(served, self.control)
            if oracle := self.observer.invalidations:
                oracle.follow(plugged.model.ledger)
            plugged.wait_bound()
            try:
                yield plugged
                if self._is_up:
                    # What the vIRTE call routes is in no table that the audit knows.
                    by_call = {Leftover.AUDIT} if self.doors else set[Leftover]()
                    check_settled(plugged, by_call.union(self.leaves))
            except BaseException:
                plugged.dump()
                raise
            finally:
                if self._is_up:
                    _unbind(plugged)
            if self._is_up:
                check_gone(plugged, self.leaves)
                if Leftover.STALE not in self.leaves:
                    self.observer.check_invalidations()

    @property
    def _is_up(self) -> bool:
        return self.machine.vitals.error is None and self.machine.state is State.READY

    def _judge(self) -> None:
        # An operation of the guest has returned.
        if oracle := self.observer.invalidations:
            oracle.look()

    def dump(self) -> None:
        """Write what may explain a failure into the workspace; never raises."""
        keep(self.workspace, "irtes.txt", self._irtes)
        for number, door in enumerate(self.doors):
            keep(self.workspace, f"virte-{number}.txt", door.table)
        if self.machine.state is State.READY:
            self._dump_guest()
        keep(self.workspace, TIMELINE, lambda: "".join(timeline(self.machine.events)))

    def _dump_guest(self) -> None:
        # A guest that does not answer is not asked again.
        if keep(
            self.workspace, "guest-dmesg.txt", lambda: self.host.kernel_log(seconds=DUMP_SECONDS)
        ):
            keep(
                self.workspace,
                "proc-interrupts.txt",
                lambda: self.host.read_file("/proc/interrupts", seconds=DUMP_SECONDS),
            )
            with contextlib.suppress(Exception):  # whatever the guest is like by now
                tie = self.guest_clock()
                self.machine.events.write(ClockTied(now(), "guest", tie))

    def _irtes(self) -> str:
        entries = self.observer.table().present_entries()
        return "".join(f"{index:5} {entry}\n" for index, entry in sorted(entries.items()))


def _unbind(plugged: PluggedFunction) -> None:
    try:
        plugged.unbind()
    except ControlError as error:
        if error.errno != errno.ENODEV:  # somebody has done it already
            raise


def _place(fault: DmarFault | FaultRecord) -> tuple[int, int | None]:
    """Return the reason of a fault, and the IRTE that it is about, if any."""
    return fault.reason, fault.interrupt_index


@contextlib.contextmanager
def answering_vm(
    guest: Guest, qemu: QemuBinary, machine: Machine, *, direct_dma: bool
) -> Iterator[Vm]:
    """Hold what talks to the guest of a machine that is ready; the machine stays its owner's.

    When the body fails, the guest's log, the IRTEs and the interrupt list are put beside the
    console and the transcripts in the workspace.

    :param direct_dma: devices may use guest memory in place: QEMU maps its file shared.
    """
    with contextlib.ExitStack() as stack:
        test_port, host_port = (
            stack.enter_context(line_port(machine.ports[name], machine.vitals))
            for name in (TEST_PORT, HOST_PORT)
        )
        control = Control(test_port, Writer("control", machine.events))
        host = Control(TakingTurns(host_port), Writer("host", machine.events))
        # Devices are ended before the machine would disconnect them one by one.
        held = stack.enter_context(contextlib.ExitStack())
        vm = Vm(guest, qemu, machine, control, host, held, direct_dma=direct_dma)
        stack.enter_context(reachable_vm(vm))
        try:
            yield vm
        except BaseException:
            vm.dump()
            raise


@contextlib.contextmanager
def running_vm(
    guest: Guest,
    qemu: QemuBinary,
    spec: MachineSpec,
    workspace: Workspace,
    *,
    kernel_arguments: tuple[str, ...] = (),
) -> Iterator[Vm]:
    """Hold a guest that was booted just now and answers; it is ended at exit.

    :raises GuestPanic: the guest's kernel panicked or oopsed.
    :raises QemuExited, LaunchError: QEMU ended.
    :raises DeadlineExpired: the guest did not come up.
    :raises CheckFailed: it has not loaded our module, or lacks CPUs that it was not told to leave.
    """
    boot = boot_of(guest, spec, kernel_arguments)
    machine_spec = machine_of(guest, spec)
    with running_machine(
        machine_spec, qemu=qemu.argv, boot=boot, workspace=workspace, alarm=alarm
    ) as machine:
        machine.wait_ready()
        with answering_vm(guest, qemu, machine, direct_dma=True) as vm:
            vm.check_module()
            check_cpus(spec, kernel_arguments, len(vm.control.cpus().cpus))
            yield vm
