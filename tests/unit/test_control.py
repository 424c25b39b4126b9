"""The client of imsctl, against the real tool where no module is needed, else its real answers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestCommandError, ProtocolError
from harness.guest.control import Control, ControlError
from harness.guest.function_control import ALL, ANY, FunctionControl, find_function
from harness.host.deadline import Deadline, wait_until
from harness.host.resources import resource
from harness.spec.ims_function import CompletionStatus
from harness.spec.interrupt import Store
from harness.spec.msi import Message

# As imsctl answered in a v6.12 guest.
INTERRUPT = {
    "store": "ims", "index": 3, "virq": 29, "hwirq": 3, "requested": True, "masked": False,
    "cpu": 1, "vector": 39, "destination": 2, "cached_address": 0xFEE00258, "cached_data": 0,
    "composed_address": 0xFEE00258, "composed_data": 0, "last_sequence": 34, "spurious": 0,
    "counts": [1, 0],
}  # fmt: skip
DMAR_IRQ = {
    "virq": 24, "activated": True, "started": True, "masked": False, "level": False, "cpu": 0,
    "vector": 32, "destination": 1, "address": 0xFEE01004, "data": 0x4020, "depth": 2,
    "levels": [
        {"domain": "DMAR-MSI", "chip": "DMAR-MSI", "hwirq": 0},
        {"domain": "VECTOR", "chip": "APIC", "hwirq": 24},
    ],
}  # fmt: skip
CASCADE_IRQ = {
    "virq": 2, "activated": False, "started": False, "masked": True, "level": True, "cpu": -1,
    "depth": 1, "levels": [{"domain": "", "chip": "XT-PIC", "hwirq": 0}],
}  # fmt: skip


@pytest.fixture(scope="session")
def imsctl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tool, built for this host as it is for a guest."""
    program = tmp_path_factory.mktemp("imsctl") / "imsctl"
    sources = sorted(resource("guests/control").glob("*.c"))
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    include = f"-I{resource('guests/module')}"
    subprocess.run(["gcc", *flags, include, "-o", program, *sources], check=True)
    return program


class Pipes:
    """A running ``imsctl serve`` behind two pipes."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process

    def send(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        reply = json.loads(self.process.stdout.readline())
        assert isinstance(reply, dict)
        return reply

    def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
        self.send(line.encode() + b"\n")
        assert self.process.stdout
        return self.process.stdout.readline().decode()


@pytest.fixture
def pipes(imsctl: Path) -> Iterator[Pipes]:
    command = [str(imsctl), "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Pipes(process)
        finally:
            process.kill()


class Answers:
    """An exchange that gives recorded answers, with the tag of the request put in."""

    def __init__(self, *answers: dict[str, Any]):
        self.answers = list(answers)
        self.requests: list[str] = []

    def ask(self, line: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
        request, _, tag = line.rpartition(" tag=")
        self.requests.append(request)
        return json.dumps({"errno": 0, "error": "", "tag": tag, **self.answers.pop(0)})


def run(imsctl: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([imsctl, *words], capture_output=True, check=False)
    assert done.stdout.count(b"\n") == 1
    return done.returncode, json.loads(done.stdout)


# The tool.


def test_help_teaches_every_operation(imsctl: Path) -> None:
    status, reply = run(imsctl, "help")
    assert status == 0
    assert set(reply["operations"]) == {
        "alloc", "request", "release", "free", "mask", "unmask", "move", "cycle", "fire",
        "move_fire", "list", "stored", "write", "function", "irqs", "hold", "drop", "reset", "cpus",
        "cpu", "bind", "unbind", "config", "ping", "fresh", "ssh", "log", "read",
        "kexec", "policy",
    }  # fmt: skip
    assert run(imsctl)[1]["operations"] == reply["operations"]


def test_the_exit_status_is_zero_only_when_errno_is(imsctl: Path) -> None:
    status, reply = run(imsctl, "ping")
    assert (status, reply["errno"], reply["release"]) == (0, 0, os.uname().release)
    status, reply = run(imsctl, "function")
    assert (status, reply["errno"]) == (1, "ENOENT")
    assert "/dev/imstest" in reply["error"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("fly", "fly"),
        ("alloc", "store"),
        ("alloc store=pci", "pci"),
        ("alloc store=ims colour=red", "colour=red"),
        ("alloc store=ims function", "function: not KEY=VALUE"),
        ("alloc store=ims count=", "count="),
        ("alloc store=ims count=1x", "1x"),
        ("alloc store=ims count=-1", "-1"),
        ("alloc store=ims count =1", "count"),
        ("alloc store=ims count=+1", "+1"),
        ("alloc store=ims count=0x", "0x"),
        ("alloc store=ims count=1e9", "1e9"),
        ("alloc store=ims index=-0", "-0"),
        ("alloc store=ims index=next", "next"),
        ("alloc store=ims store=msi", "store"),
        ("move store=ims", "cpu"),
        ("config slot=0000:00:00.0", "offset"),
        ("config slot=0000:00:00.0 offset=1 size=2", "not an aligned"),
        ("config slot=0000:00:00.0 offset=0 size=8", "not an aligned"),
        ("cycle store=ims", "rounds"),
        ("cpu id=0 state=asleep", "asleep"),
        ("cpu id=0", "state"),
        ("ping count=1", "count"),
        ('ping \x01\x7f"\\', '"\\'),
        (" ".join(["ping"] * 40), "32"),
    ],
)
def test_a_bad_word_is_refused_and_named(pipes: Pipes, line: str, named: str) -> None:
    pipes.send(line.encode() + b"\n")
    reply = pipes.receive()
    assert reply["errno"] == "EINVAL"
    assert named in reply["error"]
    pipes.send(b"ping\n")
    assert pipes.receive()["errno"] == 0


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("alloc store=ims count=4294967296", "4294967296"),
        ("alloc store=ims count=18446744073709551617", "18446744073709551617"),
        ("fire store=ims timeout=0x10000000000000000", "0x10000000000000000"),
        # The number that stands for "any" inside is no index from outside.
        ("free store=ims index=4294967295", "4294967295"),
        ("alloc store=msix index=0xffffffff", "0xffffffff"),
        ("function wait=60001", "60001"),
        ("cpu id=99999999999 state=online", "99999999999"),
        ("bind slot=" + "0" * 256, "slot"),
        ("config slot=0000:00:00.0 offset=0 size=1 value=256", "0x100"),
        ("ssh host_key=00 client_key=" + "A" * 160, "client_key"),
    ],
)
def test_a_word_beyond_its_range_is_refused_and_named(pipes: Pipes, line: str, named: str) -> None:
    pipes.send(line.encode() + b"\n")
    reply = pipes.receive()
    assert reply["errno"] == "ERANGE"
    assert named in reply["error"]
    pipes.send(b"ping\n")
    assert pipes.receive()["errno"] == 0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"ping" + b" " * 10000, "a line of more than"),
        (b"ping tag=" + b"x" * 4087, "a line of more than"),
        (b"ping\0 tag=1", "NUL"),
        (b"", "no such operation"),
        (b"\xff\xfe\xc3", "no such operation"),
    ],
)
def test_garbage_is_answered_once_and_forgotten(pipes: Pipes, line: bytes, why: str) -> None:
    pipes.send(line + b"\nping tag=after\n")
    reply = pipes.receive()
    assert reply["errno"] == "EINVAL"
    assert why in reply["error"]
    assert pipes.receive()["tag"] == "after"


def test_the_longest_line_is_served(pipes: Pipes) -> None:
    tag = "x" * (4095 - len("ping tag="))
    pipes.send(f"ping tag={tag}\n".encode())
    assert pipes.receive()["tag"] == tag


def test_requests_may_arrive_in_pieces_and_together(pipes: Pipes) -> None:
    pipes.send(b"pi")
    pipes.send(b"ng tag=1\r\nping tag=2\n\tping  tag=3\n")
    assert [pipes.receive()["tag"] for _ in range(3)] == ["1", "2", "3"]


def test_serve_ends_with_its_input(pipes: Pipes) -> None:
    assert pipes.process.stdin
    pipes.send(b"ping\nping")  # a line without an end is no request
    pipes.receive()
    pipes.process.stdin.close()
    assert pipes.process.wait(10) == 0
    assert pipes.process.stdout
    assert pipes.process.stdout.read() == b""


def test_serve_on_a_terminal_line_neither_echoes_nor_translates(imsctl: Path) -> None:
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen([imsctl, "serve", os.ttyname(theirs)]) as process:
            try:
                deadline = Deadline(10.0, "imsctl to take the line over")
                wait_until(lambda: not termios.tcgetattr(theirs)[3] & termios.ECHO, deadline)
                os.write(ours, b"ping tag=1\n")
                with os.fdopen(os.dup(ours), "rb", buffering=0) as stream:
                    line = b""
                    while not line.endswith(b"\n"):
                        line += stream.read(4096)
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)
    assert line.count(b"\n") == 1
    assert not line.endswith(b"\r\n")
    assert json.loads(line)["tag"] == "1"


@pytest.mark.slow
def test_serve_on_a_port_that_never_comes_says_so(imsctl: Path) -> None:
    done = subprocess.run([imsctl, "serve", "imsh.none"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"imsh.none: No such device" in done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("fresh", f"seed={'00' * 32}"), "time=...: missing"),
        (("fresh", "time=now", f"seed={'00' * 32}"), "time=now: not a number"),
        (("fresh", "time=1"), "seed=...: missing"),
        (("fresh", "time=1", f"seed={'00' * 31}"), "seed: not 32 bytes"),
        (("fresh", "time=1", f"seed={'00' * 33}"), "seed: not up to 32 bytes"),
        (("fresh", "time=1", f"seed={'0' * 63}"), "seed: not up to 32 bytes"),
        (("fresh", "time=1", "seed=0x"), "seed: not up to 32 bytes"),
        (("fresh", "time=1", f"seed={'00' * 32}", "rcu_stall=x"), "rcu_stall=x: not a number"),
        (("ssh", "host_key=00"), "client_key=...: missing"),
        (("ssh", "client_key=x"), "host_key=...: missing"),
        (("ssh", "client_key=x", "host_key=zz"), "host_key: not up to"),
        (("kexec", "image=/nowhere"), "kernel=...: missing"),
        (("kexec", "kernel=/dev/null"), "image=...: missing"),
    ],
)
def test_a_wrong_word_changes_nothing_of_the_guest(
    imsctl: Path, words: tuple[str, ...], named: str
) -> None:
    status, reply = run(imsctl, *words)
    assert (status, reply["errno"]) == (1, "EINVAL")
    assert named in reply["error"]


def test_a_text_file_is_read_whole(imsctl: Path, tmp_path: Path) -> None:
    text = "".join(f'line {number}\t"quoted"\n' for number in range(5000))
    path = tmp_path / "file"
    path.write_text(text)
    status, reply = run(imsctl, "read", f"path={path}")
    assert (status, reply["text"]) == (0, text)
    assert run(imsctl, "read", "path=/proc/self/status")[1]["text"].startswith("Name:\timsctl\n")


@pytest.mark.parametrize(("path", "name"), [("/nowhere", "ENOENT"), ("/proc", "EISDIR")])
def test_a_file_that_cannot_be_read_is_an_error(imsctl: Path, path: str, name: str) -> None:
    status, reply = run(imsctl, "read", f"path={path}")
    assert (status, reply["errno"]) == (1, name)
    assert path in reply["error"]


# The client.


def test_the_client_talks_to_the_tool(pipes: Pipes) -> None:
    control = Control(pipes)
    assert control.ping().release == os.uname().release
    cpus = control.cpus()
    assert len(cpus.cpus) == len({cpu.apic_id for cpu in cpus.cpus}) == os.cpu_count()
    with pytest.raises(ControlError, match="ENOENT") as caught:
        FunctionControl(control).alloc(Store.IMS, 4)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.done == 0
    with pytest.raises(ControlError) as caught:
        control.set_cpu(1 << 20, online=True)
    assert caught.value.errno == errno.ENOENT


def test_a_guest_is_made_fresh_with_time_seed_and_watchdogs() -> None:
    answers = Answers({}, {"text": "a\nb\n"}, {"text": ""})
    control = Control(answers)
    control.make_fresh(1_700_000_000.25, bytes(range(32)), {"soft_lockup": 30})
    assert control.kernel_log() == "a\nb\n"
    assert control.kernel_log(clear=True) == ""
    seed = bytes(range(32)).hex()
    assert answers.requests == [
        f"fresh time=1700000000 nanoseconds=250000000 seed={seed} soft_lockup=30",
        "log",
        "log clear=1",
    ]


def test_no_message_repeats_a_secret(pipes: Pipes) -> None:
    control = Control(pipes)
    with pytest.raises(ControlError, match=r"imsctl fresh .* seed=\.\.\.: EINVAL") as caught:
        control.make_fresh(0.0, bytes(31), {})
    assert bytes(31).hex() not in str(caught.value)
    with pytest.raises(ControlError, match=r"imsctl ssh host_key=\.\.\. client_key=x: EINVAL"):
        control.start_ssh("secret", "x")


def function(answers: Answers, number: int = 0) -> FunctionControl:
    return FunctionControl(Control(answers), number)


def test_an_interrupt_comes_back_as_its_facts() -> None:
    answers = Answers({"index": 3, "done": 1, "nanoseconds": 5, "interrupts": [INTERRUPT]})
    (interrupt,) = function(answers).move(Store.IMS, 1, 3)
    assert answers.requests == ["move store=ims index=3 count=1 cpu=1"]
    assert (interrupt.store, interrupt.index, interrupt.virq) == (Store.IMS, 3, 29)
    assert interrupt.counts == (1, 0)
    assert interrupt.composed == interrupt.cached == Message(0xFEE00258, 0)


def test_the_machines_interrupts_may_lack_a_vector_and_a_message() -> None:
    dmar, cascade = Control(Answers({"irqs": [DMAR_IRQ, CASCADE_IRQ]})).irqs()
    assert dmar.domains == ("DMAR-MSI", "VECTOR")
    assert dmar.message == Message(0xFEE01004, 0x4020)
    assert (cascade.vector, cascade.message, cascade.cpu) == (None, None, -1)


def test_any_index_and_a_least_count_are_words_of_the_request() -> None:
    took = {"nanoseconds": 5}
    answers = Answers({"index": 7, "done": 2, **took}, {"index": 0, "done": 4, **took})
    control = function(answers)
    assert control.alloc(Store.IMS, 2, index=ANY).index == 7
    assert control.alloc(Store.MSI, 8, least=1, facts=False).done == 4
    assert answers.requests == [
        "alloc store=ims count=2 index=any facts=1",
        "alloc store=msi count=8 index=0 least=1 facts=0",
    ]


def test_an_error_carries_the_errno_and_what_was_done() -> None:
    control = function(Answers({"errno": "ENOSPC", "error": "No space", "done": 391}))
    with pytest.raises(ControlError, match=r"request store=ims.*ENOSPC.*after 391") as caught:
        control.request(Store.IMS, count=ALL)
    assert (caught.value.errno, caught.value.done) == (errno.ENOSPC, 391)
    assert isinstance(caught.value, GuestCommandError)


def test_a_hold_without_a_count_ends_with_the_kernels_refusal() -> None:
    full = {"errno": "ENOMEM", "error": "", "done": 65519, "total": 65519}
    held = function(Answers(full)).hold()
    assert (held.done, held.total, held.refusal) == (65519, 65519, errno.ENOMEM)


@pytest.mark.parametrize(("count", "done"), [(70000, 65519), (ALL, 0)])
def test_a_hold_that_took_too_few_is_an_error(count: int, done: int) -> None:
    refused = {"errno": "ENOMEM", "error": "", "done": done, "total": done}
    with pytest.raises(ControlError):
        function(Answers(refused)).hold(count)


def test_a_completion_keeps_a_status_that_nobody_knows() -> None:
    words = {"completion": "unknown", "sequence": 0, "device_status": 3}
    control = function(Answers({"status": 77, **words}, {"status": 3, **words}))
    assert control.fire(Store.IMS).status == 77
    completion = control.fire(Store.IMS, 9999)
    assert completion.status == CompletionStatus.BAD_HANDLE
    assert (completion.device.wq_active, completion.device.wq_error) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"virq": "29"},
        {"virq": None},
        {"virq": True},
        {"requested": 1},
        {"store": "pci"},
        {"store": 3},
        {"counts": 1},
        {"counts": [1, "0"]},
        {"cached_data": 0.0},
    ],
)
def test_a_fact_of_another_type_is_a_protocol_error(change: dict[str, Any]) -> None:
    answers = Answers({"interrupts": [{**INTERRUPT, **change}]})
    with pytest.raises(ProtocolError, match=next(iter(change))):
        function(answers).interrupts(Store.IMS)


def test_a_missing_fact_is_a_protocol_error() -> None:
    rest = {name: value for name, value in INTERRUPT.items() if name != "vector"}
    with pytest.raises(ProtocolError, match="vector"):
        function(Answers({"interrupts": [rest]})).interrupts(Store.IMS)
    with pytest.raises(ProtocolError, match="interrupts"):
        function(Answers({})).interrupts(Store.IMS)


def test_an_interrupt_that_is_not_allocated_is_said_so() -> None:
    with pytest.raises(GuestCommandError, match="IMS interrupt 5"):
        function(Answers({"interrupts": []})).interrupt(Store.IMS, 5)


NO_FUNCTION = {"errno": "ENODEV", "error": "No such device"}


def facts_of(slot: str) -> dict[str, Any]:
    numbers = dict.fromkeys(
        [
            *("msi_max", "msix_max", "ims_max", "msi", "msix", "ims"),
            *("placeholders", "status", "refused", "unanswered"),
        ],
        0,
    )
    flags = dict.fromkeys(["remapping", "dynamic_msix", "ims_mapped"], True)
    names = {"slot": slot, "msi_parent": "INTEL-IR-0", "ims_domain": "module"}
    return {**names, **flags, **numbers}


def test_every_operation_on_a_function_says_which() -> None:
    answers = Answers({"done": 1}, {"index": 0, "done": 1, "nanoseconds": 5})
    function(answers, 3).free(Store.IMS)
    function(answers).alloc(Store.IMS)
    assert answers.requests == [
        "free function=3 store=ims index=0 count=1",
        "alloc store=ims count=1 index=0 facts=1",
    ]


def test_a_function_is_found_by_its_address_and_not_by_its_number() -> None:
    answers = Answers(NO_FUNCTION, facts_of("0000:02:00.0"), facts_of("0000:01:00.0"))
    found = find_function(Control(answers), "0000:01:00.0", among=3)
    assert found.number == 2


def test_a_driver_is_waited_for_at_the_first_number_that_is_free() -> None:
    taken = facts_of("0000:02:00.0")
    answers = Answers(taken, NO_FUNCTION, NO_FUNCTION, facts_of("0000:01:00.0"))
    found = find_function(Control(answers), "0000:01:00.0", among=3, wait_ms=250)
    assert found.number == 1
    assert answers.requests[-1] == "function function=1 wait=250"


def test_a_function_that_is_not_bound_is_named() -> None:
    answers = Answers(facts_of("0000:02:00.0"), NO_FUNCTION, NO_FUNCTION)
    with pytest.raises(GuestCommandError, match=r"0000:01:00\.0"):
        find_function(Control(answers), "0000:01:00.0", among=2)


PONG = '"release": "6.12", "module": true, "random": "00"'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Segmentation fault",
        "[]",
        f'{{"tag": "1", {PONG}}}',
        f'{{"errno": 0, {PONG}}}',
        f'{{"errno": 0, "tag": "0", {PONG}}}',
        f'{{"errno": "EIO", "tag": "0", {PONG}}}',
    ],
)
def test_a_line_that_answers_nothing_or_another_request_is_a_protocol_error(line: str) -> None:
    class Line:
        def ask(self, _: str, deadline: Deadline, late: Callable[[str], bool]) -> str:
            assert not late(line)
            return line

    with pytest.raises(ProtocolError):
        Control(Line()).ping()
