"""Guests that continue from one snapshot: each sound, each its own, all there at once."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.build.provision import Guest, Provisioner
from harness.config.recipes import load_machines
from harness.errors import CheckFailed, GuestPanic, HarnessError
from harness.guest.control import Control
from harness.guest.interrupts import Interrupts, parse_interrupts
from harness.guest.ssh import ssh_session
from harness.guest.watchdogs import boot_words
from harness.host.cache import Cache
from harness.host.deadline import SLOWDOWN_VARIABLE, Deadline, wait_until
from harness.host.progress import Progress
from harness.host.seal import SEAL
from harness.host.workspace import Workspace, make_workspace
from harness.qemu.command import MachineSpec
from harness.qemu.snapshot import SavedState
from harness.scenario import drive_stores
from harness.spec.ims_function import CompletionStatus
from harness.spec.interrupt import Store
from harness.testbed import snapshots as snapshots_module
from harness.testbed.snapshots import KIND, Snapshots
from harness.testbed.supplies import DEFAULT_KERNEL, DEFAULT_MACHINE
from harness.testbed.vm import Vm, answering_vm

KERNELS = ("debian-6.1", "debian-6.12", "debian-backports")
PRIVATE_MIB = 90
"""How much memory another idle VM may cost."""

# One worker has the snapshots of this module checked, once.
pytestmark = pytest.mark.xdist_group("snapshots")


@dataclass(frozen=True)
class Lab:
    """What continues guests for these tests."""

    provisioner: Provisioner
    snapshots: Snapshots
    directory: Path
    kernel: str = DEFAULT_KERNEL

    @property
    def spec(self) -> MachineSpec:
        return load_machines()[DEFAULT_MACHINE]

    @property
    def guest(self) -> Guest:
        return self.provisioner.guest(self.provisioner.recipes.kernels[self.kernel])

    def workspace(self) -> Workspace:
        return make_workspace(self.directory, "machine")

    def saved(self) -> SavedState:
        return self.snapshots.provide(self.guest, self.spec, self.workspace()).saved

    def vm(self) -> contextlib.AbstractContextManager[Vm]:
        return self.snapshots.restored_vm(self.guest, self.spec, self.workspace())


@pytest.fixture(params=KERNELS)
def any_lab(
    provisioner: Provisioner,
    snapshots: Snapshots,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Lab:
    """Guests of each kernel."""
    return Lab(provisioner, snapshots, tmp_path, request.param)


@pytest.fixture
def lab(provisioner: Provisioner, snapshots: Snapshots, tmp_path: Path) -> Lab:
    """Guests of the kernel that is the default."""
    return Lab(provisioner, snapshots, tmp_path)


@pytest.fixture
def own_lab(provisioner: Provisioner, tmp_path: Path) -> Lab:
    """Guests in a cache of the test's own, which is empty."""
    cache = Cache(tmp_path / "cache", Progress(None))
    return Lab(provisioner, Snapshots(cache, provisioner.qemu()), tmp_path)


def interrupts(vm: Vm) -> Interrupts:
    return parse_interrupts(vm.ssh.run("cat /proc/interrupts").stdout)


# Soundness.


def test_every_store_works_in_a_guest_that_continues(any_lab: Lab) -> None:
    with any_lab.vm() as vm, vm.ims_function() as plugged:
        reports = list(drive_stores(plugged))
        assert len(reports) == 3
        # The device reads a descriptor that the guest has just written, and answers in its memory.
        plugged.set_up(Store.IMS, 1)
        assert plugged.control.fire(Store.IMS).status == CompletionStatus.SUCCESS
        vm.check_kernel_log()


def test_time_goes_on_and_interrupts_arrive_on_every_cpu(any_lab: Lab) -> None:
    with any_lab.vm() as vm:
        before = interrupts(vm)
        vm.ssh.run("taskset 1 sleep 0.2; taskset 2 sleep 0.2")
        after = interrupts(vm)
        timer = after.since(before)["LOC"]
        assert set(timer) == {0, 1}
        assert all(0 < count < 10_000 for count in timer.values())
        for wrong in ("ERR", "MIS", "SPU", "MCE", "NMI"):
            assert wrong not in after.since(before)
        vm.check_kernel_log()


def test_the_clock_is_set_to_now(any_lab: Lab) -> None:
    saved = any_lab.saved()
    # In the guest no time has gone by since it was saved: it would be found behind.
    age = Deadline(10, "the snapshot's age")
    wait_until(lambda: time.time() - saved.state.stat().st_mtime > 4, age)
    with any_lab.vm() as vm:
        earliest = int(time.time())
        clock = int(vm.ssh.run("date +%s").stdout)
        assert earliest <= clock <= time.time()


# Fresh: no two share a secret.


def _first_packet(address: tuple[str, int]) -> bytes:
    """Return the cookie of the server's key exchange, its first random bytes (RFC 4253, 7.1)."""
    with socket.create_connection(address, timeout=10) as connection:
        stream = connection.makefile("rb")
        assert stream.readline().startswith(b"SSH-2.0-dropbear")
        connection.sendall(b"SSH-2.0-test\r\n")
        packet = stream.read(22)
    assert packet[5] == 20, "SSH_MSG_KEXINIT"
    return packet[6:]


def test_two_guests_of_one_snapshot_share_no_random_bytes(any_lab: Lab) -> None:
    streams = []
    for _ in range(2):
        with any_lab.vm() as vm:
            # The first that anybody in the guest gets: without a new seed they are the same.
            streams.append([port.ping().random for port in (vm.host, vm.control)])
            streams.append([vm.ssh.run("cat /proc/sys/kernel/random/boot_id").stdout])
    values = [value for stream in streams for value in stream]
    assert len(set(values)) == len(values) == 6


def test_each_guest_is_given_a_seed_of_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inside it cannot be seen: two guests with the same seed differ by their interrupts' timing.
    seeds = []
    make_fresh = Control.make_fresh

    def note(control: Control, now: float, seed: bytes, watchdogs: Mapping[str, int]) -> None:
        seeds.append(seed)
        make_fresh(control, now, seed, watchdogs)

    monkeypatch.setattr(Control, "make_fresh", note)
    for _ in range(2):
        with lab.vm():
            pass
    assert len(set(seeds)) == len(seeds) == 2


def test_the_kernels_watchdogs_are_stretched_as_our_time_outs_are(
    own_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SLOWDOWN_VARIABLE, "3")
    with own_lab.vm() as vm:  # booted and saved, and continued
        assert set(boot_words(3)) <= set(vm.host.read_file("/proc/cmdline").split())
        assert watchdogs(vm) == (30, 63, 360)
    monkeypatch.setenv(SLOWDOWN_VARIABLE, "1.5")
    with own_lab.vm() as vm:
        assert watchdogs(vm) == (15, 32, 180)


def watchdogs(vm: Vm) -> tuple[int, ...]:
    """Return the seconds of a guest's watchdogs: soft lock-up, RCU stall, hung task."""
    return tuple(
        int(vm.host.read_file(path))
        for path in (
            "/proc/sys/kernel/watchdog_thresh",
            "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout",
            "/proc/sys/kernel/hung_task_timeout_secs",
        )
    )


def test_two_guests_of_one_snapshot_share_no_ssh_secret(any_lab: Lab) -> None:
    with any_lab.vm() as one, any_lab.vm() as other:
        one.ssh.run("true")
        other.ssh.run("true")
        addresses = [vm.machine.ssh_address() for vm in (one, other)]
        assert len(set(addresses)) == 2
        assert len({_first_packet(address) for address in addresses}) == 2
        keys = [vm.ssh.run("hexdump -C /etc/imsh/host_key").stdout for vm in (one, other)]
        assert len(set(keys)) == 2
        assert one._identity is not None
        with (
            pytest.raises(HarnessError, match="another host key"),
            ssh_session(addresses[1], one._identity, other.machine.vitals),
        ):
            pass


def test_the_network_remembers_nobody(any_lab: Lab) -> None:
    with any_lab.vm() as vm:
        for table in ("tcp", "udp", "arp"):
            assert vm.host.read_file(f"/proc/net/{table}").splitlines()[1:] == [], table
        vm.ssh.run("true")
        assert vm.host.read_file("/proc/net/arp").splitlines()[1:] != []


def test_a_snapshot_holds_no_key(lab: Lab) -> None:
    with lab.vm() as vm:
        assert vm.host.call("ping")["errno"] == 0
        vm.ssh.run("test -s /etc/imsh/host_key")
    memory = lab.saved().memory.read_bytes()
    assert b"ssh-ed25519 AAAA" not in memory, "a public key, as the client's is kept"
    assert b"\0\0\0\x0bssh-ed25519\0\0\0\x40" not in memory, "a private key, as the host's is"


def test_what_a_guest_writes_is_its_own(lab: Lab) -> None:
    saved = lab.saved()
    with lab.vm() as one:
        one.ssh.run("dd if=/dev/urandom of=/tmp/mark bs=1M count=8; sync")
        with one.ims_function() as plugged:
            plugged.set_up(Store.IMS, 1)
            plugged.control.fire(Store.IMS)  # by DMA, too
        with lab.vm() as other:
            assert other.ssh.run("ls /tmp").stdout == ""
    saved.check()


# Speed and size.


def test_an_idle_guest_shares_its_memory_with_the_others(any_lab: Lab) -> None:
    with any_lab.vm() as vm, vm.ims_function():
        text = Path(f"/proc/{vm.machine.pid}/smaps_rollup").read_text()
        fields = [line.split() for line in text.splitlines() if line.startswith("Private_")]
        private = sum(int(field[1]) for field in fields) >> 10
    assert private <= PRIVATE_MIB


# As after a boot.


def test_a_panic_is_told_as_after_a_boot(any_lab: Lab) -> None:
    lab, workspace = any_lab, any_lab.workspace()
    with (
        pytest.raises(GuestPanic, match="sysrq triggered crash"),
        lab.snapshots.restored_vm(lab.guest, lab.spec, workspace) as vm,
    ):
        vm.ssh.run("echo c >/proc/sysrq-trigger; sleep 60")
    console = workspace.path("console.log").read_text()
    pointer, _, rest = console.partition("\n")
    assert "Kernel panic" in rest
    assert "its boot is in boot.log" in pointer
    assert "Linux version" in workspace.path("boot.log").read_text()


def test_a_request_that_hangs_does_not_keep_the_harness_out(lab: Lab) -> None:
    with lab.vm() as vm:
        vm.machine.ports["imsh.test"].sendall(b"function wait=600000\n")
        assert "Linux version" in vm.kernel_log()


# What is damaged.


def test_what_a_machine_boots_is_sealed(any_lab: Lab) -> None:
    guest, qemu = any_lab.guest, any_lab.provisioner.qemu()
    used = [
        guest.kernel.vmlinuz,
        guest.kernel.modules / "modules.dep",
        guest.image.initramfs,
        guest.module.module,
        guest.module.control,
    ]
    cache = any_lab.provisioner.cache.directory
    # A QEMU of the host's is none of ours: its digest is part of the keys.
    used += [file for word in qemu.argv if (file := Path(word)).is_relative_to(cache / "qemu")
             and file.is_file()]  # fmt: skip
    for file in used:
        entry = cache.joinpath(*file.relative_to(cache).parts[:2])
        sealed = json.loads((entry / SEAL).read_text())
        assert file.resolve() in {(entry / name).resolve() for name in sealed}


def _flip(path: Path, offset: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_a_bad_snapshot_is_replaced_with_one_line_of_log(
    lab: Lab, own_lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    saved = copied(lab, own_lab)
    began = saved.state.stat().st_mtime_ns

    # Damaged on disk, after it was found sound: its files tell that somebody has touched them.
    _flip(saved.memory, saved.memory.stat().st_size // 2)
    with caplog.at_level(logging.WARNING):
        assert own_lab.saved() == saved
    assert len(caplog.records) == 1
    assert "is made again" in caplog.text
    assert saved.state.stat().st_mtime_ns > began
    saved.check()

    # As another QEMU would have written it: found by QEMU.
    caplog.clear()
    state = saved.state.read_bytes()
    saved.state.chmod(0o644)
    saved.state.write_bytes(b"QEVX" + state[4:])
    manifest = saved.directory / "manifest.json"
    manifest.write_text(
        json.dumps({**json.loads(manifest.read_text()), "state": saved._describe()["state"]})
    )
    with caplog.at_level(logging.WARNING), own_lab.vm() as vm:
        assert vm.control.ping().module
    assert len([record for record in caplog.records if record.name.startswith("harness")]) == 1
    assert [path.name for path in saved.directory.parent.iterdir()] == [saved.directory.name]


def copied(lab: Lab, own_lab: Lab) -> SavedState:
    """Bring a snapshot into an empty cache, where it is found good."""
    kind = own_lab.directory / "cache" / KIND
    kind.mkdir(parents=True)
    subprocess.run(["cp", "-a", "--sparse=always", lab.saved().directory, kind], check=True)
    saved = own_lab.saved()
    assert not (own_lab.directory / "machine" / "boot").exists()
    return saved


def test_a_panic_of_a_guest_that_continues_is_a_result_and_not_tried_again(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lab.saved().made

    @contextlib.contextmanager
    def panicking(*words: Any, **options: Any) -> Iterator[Vm]:
        with answering_vm(*words, **options) as vm:
            vm.ssh.run("echo c >/proc/sysrq-trigger; sleep 60")
            yield vm

    monkeypatch.setattr(snapshots_module, "answering_vm", panicking)
    with pytest.raises(GuestPanic, match="panic in the guest"), lab.vm():
        pass
    assert lab.saved().made == made
    assert "is made again" not in caplog.text


def test_a_kernel_that_does_not_come_up_is_booted_twice_and_the_first_reason_stands(
    own_lab: Lab,
) -> None:
    words = ("rdinit=/nowhere",)
    booted = []
    for _ in range(4):
        workspace = own_lab.workspace()
        with pytest.raises(GuestPanic, match="panic") as caught:
            own_lab.snapshots.provide(
                own_lab.guest, own_lab.spec, workspace, kernel_arguments=words
            )
        booted.append((workspace.directory / "boot").exists())
    assert booted == [True, True, False, False]
    assert "not booted again: it failed 2 times" in str(caught.value)
    assert "Kernel panic" in (caught.value.evidence or "")


def test_a_guest_without_our_module_is_not_saved(own_lab: Lab) -> None:
    with pytest.raises(CheckFailed, match="has not loaded the module"):
        own_lab.snapshots.provide(
            own_lab.guest,
            own_lab.spec,
            own_lab.workspace(),
            kernel_arguments=("module.sig_enforce=1",),
        )
    assert list(own_lab.directory.glob(f"cache/{KIND}/*/manifest.json")) == []


MAKER = """
import sys
from pathlib import Path
from harness.host.cache import Cache
from harness.host.progress import Progress
from harness.host.workspace import Workspace
from harness.testbed.snapshots import Snapshots
from harness.config.recipes import load_machines
from harness.testbed.supplies import make_provisioner

kernel, machine, cache, workspace = sys.argv[1:]
provisioner = make_provisioner()
guest = provisioner.guest(provisioner.recipes.kernels[kernel])
snapshots = Snapshots(Cache(Path(cache), Progress(None)), provisioner.qemu())
snapshots.provide(guest, load_machines()[machine], Workspace(Path(workspace)))
"""


def _maker_argv(lab: Lab, workspace: Workspace) -> list[str]:
    words = [lab.kernel, lab.spec.name, str(lab.directory / "cache"), str(workspace.directory)]
    return [sys.executable, "-c", MAKER, *words]


@contextlib.contextmanager
def _maker(lab: Lab, workspace: Workspace) -> Iterator[subprocess.Popen[bytes]]:
    """Hold another run that makes the snapshot."""
    with subprocess.Popen(_maker_argv(lab, workspace)) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("moment", ["while it boots", "while it is saved"])
def test_a_run_that_is_killed_leaves_nothing_that_poisons_the_next(
    own_lab: Lab, moment: str
) -> None:
    workspace = own_lab.workspace()
    entries = own_lab.directory / "cache" / KIND
    watched = {
        "while it boots": lambda: (
            "Linux version" in _text(workspace.directory / "boot/console.log")
        ),
        "while it is saved": lambda: any(entries.glob("*.partial/state")),
    }[moment]
    with _maker(own_lab, workspace) as process:
        wait_until(watched, Deadline(60, moment), interval=0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert all(path.name.endswith(".partial") for path in entries.iterdir())
    with own_lab.vm() as vm:
        assert vm.control.ping().module
    assert len(list(entries.iterdir())) == 1


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_snapshot(own_lab: Lab) -> None:
    place = own_lab.directory / "cache"
    place.mkdir()
    maker = shlex.join(_maker_argv(own_lab, own_lab.workspace()))
    script = f"mount -t tmpfs -o size=30m none {place} && {{ {maker}; ls {place}/{KIND}; }}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(unshare, capture_output=True, text=True, check=False)
    assert f"no space left on the disk of {place}" in done.stderr
    assert "hint: free some space" in done.stderr
    assert done.stdout == ""


def test_two_runs_that_want_a_snapshot_that_is_gone_boot_it_once(lab: Lab, own_lab: Lab) -> None:
    # It was here, and was found good: then somebody emptied the cache.
    saved = copied(lab, own_lab)
    shutil.rmtree(saved.directory)
    workspace = own_lab.workspace()
    with _maker(own_lab, workspace) as process:
        began = Deadline(60, "the other run's boot")
        wait_until(lambda: (workspace.directory / "boot").exists(), began)
        mine = own_lab.workspace()
        own_lab.snapshots.provide(own_lab.guest, own_lab.spec, mine).saved.check()
        assert process.wait(30) == 0
    assert [path.name for path in saved.directory.parent.iterdir()] == [saved.directory.name]
    assert not (mine.directory / "boot").exists()


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
