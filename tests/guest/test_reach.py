"""A running machine, reached by a second process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.host.deadline import Deadline, wait_until
from harness.host.process import run
from harness.spec.interrupt import Store
from harness.spec.msi import RemappableMessage
from harness.testbed.plugged import PluggedFunction
from harness.testbed.supplies import DEFAULT_KERNEL
from harness.testbed.vm import Vm

pytestmark = [pytest.mark.kernel(DEFAULT_KERNEL), pytest.mark.machine("caching")]

SECOND = """
import json, sys
from pathlib import Path
from harness.host.control_socket import ask
from harness.host.deadline import Deadline
print(json.dumps(ask(Path(sys.argv[1]), sys.argv[2], Deadline(60, "an answer"))))
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sockets of this test's machines only; set before the machine is there."""
    directory = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        yield directory


def ask_as_another_process(socket: str, operation: str) -> dict[str, Any]:
    argv = [sys.executable, "-c", SECOND, socket, operation]
    said = run(argv, deadline=Deadline(90, f"a process that asks for {operation}"))
    answer: dict[str, Any] = json.loads(said.stdout)
    return answer


def listed() -> list[dict[str, Any]]:
    argv = [sys.executable, "-m", "harness", "machines", "--json"]
    machines: list[dict[str, Any]] = json.loads(run(argv, deadline=Deadline(60, "imsh")).stdout)
    return machines


def test_a_second_process_finds_the_machine_and_sees_its_interrupts(
    runtime: Path, vm: Vm, ims_device: PluggedFunction
) -> None:
    (machine,) = listed()
    assert machine["status"]["provenance"]["kernel"] == DEFAULT_KERNEL
    assert machine["status"]["pid"] == os.getpid()
    assert machine["status"]["workspace"] == str(vm.workspace.directory)

    ims_device.set_up(Store.IMS, 3)
    seen = ask_as_another_process(machine["socket"], "interrupts")
    for interrupt in ims_device.control.interrupts(Store.IMS):
        (found,) = (irq for irq in seen["irqs"] if irq["virq"] == interrupt.virq)
        request = interrupt.composed.decode()
        assert isinstance(request, RemappableMessage)
        assert found["vector"] == interrupt.vector
        entry = ims_device.irte(interrupt.composed)
        assert int(seen["irtes"][str(request.index)]["value"], 16) == entry.value
    # Whoever looks does not come between a test and its guest.
    assert vm.ssh.run("echo still here").stdout == "still here\n"


def test_a_second_process_gets_a_command_run_over_ssh(
    runtime: Path, vm: Vm, tmp_path: Path
) -> None:
    (machine,) = listed()
    way = ask_as_another_process(machine["socket"], "ssh")
    program = """
import base64, io, json, sys, paramiko
way = json.load(sys.stdin)
transport = paramiko.Transport((way["host"], way["port"]))
transport.start_client(timeout=30)
assert transport.get_remote_server_key().asbytes() == base64.b64decode(way["host_key"].split()[1])
transport.auth_timeout = 30
key = paramiko.Ed25519Key.from_private_key(io.StringIO(way["key"]))
transport.auth_publickey(way["user"], key)
channel = transport.open_session(timeout=30)
channel.exec_command("uname -r")
print(channel.makefile("rb").read().decode().strip())
transport.close()
"""
    said = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(way), capture_output=True, text=True,
        timeout=90, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == vm.guest.kernel.release


@contextlib.contextmanager
def process(argv: list[str], log: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a process that has said that it is ready."""
    with log.open("wb") as output:
        started = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        deadline = Deadline(90, f"{ready!r} from a process")
        wait_until(lambda: ready in log.read_text() or started.poll() is not None, deadline)
        assert started.poll() is None, log.read_text()
        yield started
    finally:
        started.kill()
        started.communicate()


def test_a_kept_machine_is_there_until_enter(runtime: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [sys.executable, "-m", "harness", "run", "--keep", "--results", str(tmp_path)]
    with process(argv, log, "the machine is kept") as keeper:
        (machine,) = listed()
        assert machine["status"]["pid"] == keeper.pid
        keeper.communicate(b"\n", timeout=Deadline(60, "its end").seconds)
        assert keeper.returncode == 0
    assert "verdict: pass" in log.read_text()
    assert list((runtime / "imsh").iterdir()) == []


HOLDER = f"""
import sys, time
from pathlib import Path
from harness.config.matrix import Cell
from harness.config.recipes import load_machines
from harness.testbed.lender import VmLender
from harness.testbed.supplies import make_provisioner
with VmLender(make_provisioner(), load_machines(), Path(sys.argv[1])) as lender:
    with lender.fresh_vm(Cell({DEFAULT_KERNEL!r}, "caching")):
        print("it runs", flush=True)
        time.sleep(600)
"""


def test_a_machine_whose_process_was_killed_is_not_listed(runtime: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with process(argv, tmp_path / "log", "it runs") as holder:
        (machine,) = listed()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert Path(machine["socket"]).exists()
        assert listed() == []
        assert not Path(machine["socket"]).exists()
