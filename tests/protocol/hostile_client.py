"""A client that means harm, from a seed: what a vfio-user server has to survive.

    python -m tests.protocol.hostile_client --messages 1000000 --seed 1
    python -m tests.protocol.hostile_client --seed 1 --episode 4711     # one of them again

It serves a device with `imsh poke --serve` and plays episodes against it, one connection each. What
an episode does depends on the seed and its number alone. Between them a well-behaved client comes
by; in the end the server's memory, threads and descriptors are where they were.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import DeadlineExpired, ProtocolError
from harness.host.deadline import Deadline, wait_until
from harness.host.process import Process, running
from harness.spec.ims_function import ID_VALUE, Opcode, WorkDescriptor
from harness.spec.vfio import Command, IrqIndexNumber
from harness.vfio_user import wire
from harness.vfio_user.client import Client
from harness.vfio_user.wire import HEADER, WireMessage
from tests.protocol import hostile_messages as bad
from tests.protocol.hostile_messages import PAGE, PROBE, message

ANSWER_SECONDS: Final = 20.0
"""How long the server may take over anything before it counts as hung."""
WARM_UP: Final = 300_000
"""Messages, or half of all, after which the device's bounded logs are as full as they get."""
GROWTH: Final = 32 << 20
"""Bytes that the server may hold more in the end than after warming up."""
PEAK: Final = 32 << 20
"""Bytes that one client may make the server hold for a time: its backlog, and what copies it."""
MAPPED: Final = "ims_mapped: true\n"


class Descriptors:
    """Descriptors of every kind, some of them fresh for each message. A context manager."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fixed = [
            *os.pipe(),
            os.eventfd((1 << 32) - 1, os.EFD_SEMAPHORE),
            self._full(0),
            self._full(os.EFD_NONBLOCK),
            os.open("/", os.O_RDONLY),
            os.open("/", os.O_PATH),
            os.open("/dev/zero", os.O_RDWR),
            os.open("/dev/null", os.O_RDWR),
            os.open("/proc/self/mem", os.O_RDONLY),
            os.pidfd_open(os.getpid()),
            os.memfd_create("empty"),
        ]
        self._paths = tempfile.TemporaryDirectory()
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND):
            path = Path(self._paths.name, str(flags))
            path.write_bytes(bytes(16 * PAGE))
            self._fixed.append(os.open(path, flags))
        with contextlib.suppress(OSError):  # no huge pages here
            huge = os.memfd_create("huge", os.MFD_HUGETLB)
            self._fixed.append(huge)
            os.ftruncate(huge, 2 << 20)
        self.memory = os.memfd_create("memory")
        """A file for the server to map; it is cut short and made longer all the time."""

    @staticmethod
    def _full(flags: int) -> int:
        fd = os.eventfd(0, flags)
        os.eventfd_write(fd, (1 << 64) - 2)
        return fd

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *error: object) -> None:
        for fd in (*self._fixed, self.memory):
            os.close(fd)
        self._epoll.close()
        self._paths.cleanup()

    def some(self, rng: random.Random, count: int) -> list[int]:
        """Return descriptors of random kinds; they stay owned here."""
        os.ftruncate(self.memory, PAGE * rng.choice((0, 1, 16, 64)))
        kinds = (*self._fixed, self._epoll.fileno())
        return [self.memory if rng.random() < 0.4 else rng.choice(kinds) for _ in range(count)]


class Connection:
    """One connection, and what came over it. Counts the messages it sent.

    :raises ConnectionError: from any method: the server has cut us off, which is its right.
    :raises TimeoutError: it neither reads nor answers: it hangs.
    """

    def __init__(self, path: str):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(Deadline(ANSWER_SECONDS, "").seconds)
        self.sent = 0
        self.asked: list[WireMessage] = []
        """What the server asked for and has no answer to."""
        self._received = bytearray()
        self._ready = select.poll()
        self._ready.register(self.socket, select.POLLIN)
        try:
            self.socket.connect(path)
        except BaseException:
            self.socket.close()  # nobody else has it
            raise

    def send(self, raw: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message, damaged or not."""
        self.sent += 1
        if fds:
            done = socket.send_fds(self.socket, [raw[:64]], fds)
            raw = raw[done:]
        self.socket.sendall(raw)

    def _take(self) -> Iterator[WireMessage]:
        while len(self._received) >= HEADER.size:
            ident, command, size, flags, error = HEADER.unpack_from(self._received)
            if not HEADER.size <= size <= wire.MAX_MESSAGE:
                raise ProtocolError(f"the server sent a message of {size} bytes")
            if len(self._received) < size:
                return
            payload = bytes(self._received[HEADER.size : size])
            del self._received[:size]
            yield WireMessage(ident, command, flags, payload, error)

    def read(self, *, wait: bool = False) -> bool:
        """Take what is there; whether the answer to a probe is among it."""
        if not wait and not self._ready.poll(0):
            return False
        answered = False
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 16, 16)
        for fd in fds:
            os.close(fd)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "cut off")
        self._received += data
        for came in self._take():
            if not came.is_reply:
                self.asked.append(came)
            elif came.id == PROBE:
                answered = True
        return answered

    def probe(self) -> None:
        """Wait until the server has answered everything that was sent."""
        info = wire.DeviceInfo(wire.DeviceInfo.FORMAT.size).pack()
        self.send(WireMessage(PROBE, Command.DEVICE_GET_INFO, 0, info).pack())
        while not self.read(wait=True):
            pass


class Episode:
    """One connection's worth of malice: ``size`` messages or a few more, of one of some kinds."""

    def __init__(self, connection: Connection, fds: Descriptors, rng: random.Random, size: int):
        self._to = connection
        self._fds = fds
        self._rng = rng
        self._size = size

        self.kind = ""
        """What it does, once it is played."""

    def play(self) -> None:
        """Play it, to its end or to being cut off."""
        kind = self._rng.choice(
            (
                self.babbles,
                self.babbles,
                self.streams,
                self.never_reads,
                self.maps,
                self.cuts_short,
                self.answers_badly,
                self.answers_badly,
                self.wires,
                self.leaves,
            )
        )
        self.kind = kind.__name__
        with contextlib.suppress(ConnectionError):
            if self._rng.random() < 0.95:
                self._to.send(message(self._rng, Command.VERSION, bad.VERSION))
            kind()
            if kind != self.leaves and self._rng.random() < 0.5:
                self._to.probe()

    def _each(self) -> Iterator[None]:
        # What is sent without reading has to be read some time: a sender that waits for room in the
        # server's socket while it leaves 16 MiB unread is cut off.
        while self._to.sent < self._size:
            self._to.read()
            yield

    def babbles(self) -> None:
        """Damaged messages of every command, each followed by a question that is answered."""
        for _ in self._each():
            raw, count = bad.mutated(self._rng)
            self._to.send(bad.completed(raw), self._fds.some(self._rng, count))
            if self._rng.random() < 0.2:
                self._to.probe()

    def streams(self) -> None:
        """Accesses to every region, as fast as they go."""
        for _ in self._each():
            self._to.send(bad.access(self._rng))

    def never_reads(self) -> None:
        """Questions whose answers are left lying, up to being cut off."""
        size = self._rng.choice((4, 1 << 16, 1 << 16))
        read = wire.RegionAccess(0, 0, size).pack()
        info = wire.RegionInfo(4096, index=4).pack()
        for _ in range(max(self._size, 800)):  # of the long ones enough to be cut off
            if self._rng.random() < 0.05:
                self._to.send(message(self._rng, Command.DEVICE_GET_REGION_INFO, info))
            self._to.send(message(self._rng, Command.REGION_READ, read))

    def maps(self) -> None:
        """Files of every kind as memory, cut short while the device works in them."""
        for _ in self._each():
            what = self._rng.random()
            if what < 0.5:
                fds = self._fds.some(self._rng, self._rng.choice((0, 1, 1, 1, 2)))
                self._to.send(bad.dma_map(self._rng), fds)
            elif what < 0.8:
                fds = self._fds.some(self._rng, self._rng.choice((0, 1)))
                self._to.send(bad.dma_unmap(self._rng), fds)
            else:
                for raw in bad.work(self._rng):
                    self._to.send(raw)
                self._fds.some(self._rng, 1)  # another size
        self._answer()

    def cuts_short(self) -> None:
        """A file that the device works in, whose pages come and go."""
        whole = 64 * PAGE
        os.ftruncate(self._fds.memory, whole)
        descriptor = WorkDescriptor(Opcode.NOP, completion=bad.BASE + whole - 16).pack()
        given = wire.DmaMap(32, 3, 0, bad.BASE, whole).pack()
        self._to.send(message(self._rng, Command.DMA_MAP, given), [self._fds.memory])
        for _ in self._each():
            if self._rng.random() < 0.5:  # else the ring itself may be gone
                os.pwrite(self._fds.memory, descriptor * 16, 0)
            for raw in bad.work(self._rng, (bad.BASE,), (16,)):
                self._to.send(raw)
            if self._rng.random() < 0.5:
                self._to.probe()
            os.ftruncate(self._fds.memory, PAGE * self._rng.choice((0, 1, 64)))

    def wires(self) -> None:
        """Descriptors of every kind as eventfds, raised, masked, and taken away."""
        for _ in self._each():
            if self._rng.random() < 0.8:
                raw, count = bad.set_irqs(self._rng)
                self._to.send(raw, self._fds.some(self._rng, count))
            else:
                self._to.send(bad.access(self._rng))

    def answers_badly(self) -> None:
        """The device's own requests answered with too little, late, twice, wrongly, or not."""
        given = wire.DmaMap(32, 3, 0, bad.BASE, 64 * PAGE).pack()
        self._to.send(message(self._rng, Command.DMA_MAP, given))
        for _ in self._each():
            for raw in bad.work(self._rng):
                self._to.send(raw)
            if self._rng.random() < 0.5:
                self._to.probe()
            if self._rng.random() < 0.7:
                self._answer()

    def _answer(self) -> None:
        rng = self._rng
        rng.shuffle(self._to.asked)
        while self._to.asked and rng.random() < 0.9:
            asked = self._to.asked.pop()
            command = asked.command if rng.random() < 0.9 else rng.randrange(20)
            for _ in range(rng.choice((1, 1, 1, 1, 2))):
                if rng.random() < 0.2:
                    error = rng.choice((0, errno.EFAULT, errno.ETIMEDOUT, 0xFFFFFFFF))
                    answer = WireMessage(asked.id, command, 0x21, b"", error)
                else:
                    answer = WireMessage(asked.id, command, 1, self._data(asked))
                self._to.send(answer.pack(), self._fds.some(rng, rng.choice((0, 0, 0, 1))))

    def _data(self, asked: WireMessage) -> bytes:
        """Return the payload of an answer: a descriptor for the work queue, whole or in part."""
        rng = self._rng
        where = rng.choice((0, bad.BASE, (1 << 64) - 8, rng.randrange(1 << 64)))
        descriptor = WorkDescriptor(
            rng.choice((*Opcode, 7)), rng.randrange(4), rng.randrange(40), 1, where
        )
        data = asked.payload[:16] + descriptor.pack()
        return data[: rng.choice((0, 8, 16, 17, 47, 48, 48, 48, 48, 48))] + bytes(
            rng.choice((0, 0, 0, 1, PAGE))
        )

    def leaves(self) -> None:
        """Half a message, silence, or the end of one direction only."""
        for _ in self._each():
            self._to.send(bad.access(self._rng))
            if self._rng.random() < 0.05:
                break
        raw, count = bad.mutated(self._rng)
        match self._rng.randrange(4):
            case 0:
                self._to.send(raw[: self._rng.randrange(1, HEADER.size)])
            case 1:
                self._to.send(raw[:-1], self._fds.some(self._rng, count))
            case 2:
                self._to.socket.shutdown(socket.SHUT_WR)
            case 3:
                # To be reset, not closed: there are answers that nobody has read.
                linger = struct.pack("@ii", 1, 0)
                self._to.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    bytes: int
    peak: int
    """The most bytes that it ever held."""
    fds: int
    threads: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """Return it.

        :raises FileNotFoundError: the process has ended.
        """
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return cls(
            int(fields["VmRSS"].split()[0]) << 10,
            int(fields["VmHWM"].split()[0]) << 10,
            len(os.listdir(f"/proc/{pid}/fd")),
            int(fields["Threads"]),
        )


@dataclass(frozen=True, slots=True)
class Survived:
    """A server that is as it was."""

    messages: int
    episodes: int
    seconds: float
    before: Held
    after: Held

    def __str__(self) -> str:
        rate = self.messages / self.seconds
        return (
            f"{self.messages} messages in {self.episodes} episodes and {self.seconds:.0f} s"
            f" ({rate:.0f} a second); held before {self.before}, after {self.after}"
        )


class Siege:
    """A served device, and episodes played against it.

    :raises Exception: from :meth:`play`: the server is dead, hangs, or holds more than it did; a
        note says seed and episode.
    """

    def __init__(self, server: Process, path: str, log: Path, seed: int):
        self.server = server
        self._log = log
        self._path = path
        self._seed = seed

    def episode(self, number: int, fds: Descriptors) -> int:
        """Play one episode and return how many messages it sent."""
        rng = random.Random(f"{self._seed}/{number}")
        sent, kind = 0, "on the way in"
        try:
            connection = Connection(self._path)
            with connection.socket:
                episode = Episode(connection, fds, rng, rng.choice((3, 50, 500, 1000)))
                try:
                    episode.play()
                finally:
                    sent, kind = connection.sent, episode.kind
            if number % 20 == 0:
                kind = "a well-behaved client"
                self.come_by()
        except Exception as error:
            error.add_note(f"seed {self._seed}, episode {number}, message {sent}: {kind}")
            raise
        return sent

    def come_by(self) -> None:
        """Be a well-behaved client, and be served."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(Deadline(ANSWER_SECONDS, "").seconds)
            connection.connect(self._path)
            with Client(connection) as client:
                assert client.region_read(0, 0, 4) == ID_VALUE.to_bytes(4, "little")
                memory = client.map_shared(0, PAGE)
                memory[:4] = b"mine"
                fd = os.eventfd(0, os.EFD_NONBLOCK)
                try:
                    client.wire_irqs(IrqIndexNumber.MSIX, 0, [fd])
                    client.trigger_irqs(IrqIndexNumber.MSIX, 0, 1)
                    assert os.eventfd_read(fd) == 1
                finally:
                    os.close(fd)

    def held(self) -> Held:
        """Return what the server holds once the last client is gone."""
        self.come_by()
        gone = Deadline(ANSWER_SECONDS, "the last client's end")
        wait_until(self._is_alone, gone, interval=0.05)
        return Held.by(self.server.pid)

    def _is_alone(self) -> bool:
        said = re.findall(r"^client \d+ has (come|gone)$", self._log.read_text(), re.MULTILINE)
        return said.count("come") == said.count("gone")

    def play(self, messages: int, say: Callable[[str], None] = lambda text: None) -> Survived:
        """Play episodes until so many messages were sent."""
        sent, number, before, start = 0, 0, None, time.monotonic()
        warm = min(WARM_UP, messages // 2)
        with Descriptors() as fds:
            while sent < messages:
                sent += self.episode(number, fds)
                number += 1
                if before is None and sent >= warm:
                    before = self.held()
                if number % 200 == 0:
                    say(f"{sent} messages, {number} episodes: {Held.by(self.server.pid)}")
        seconds = time.monotonic() - start
        assert before is not None
        after = self.held()
        survived = Survived(sent, number, seconds, before, after)
        assert after.fds == before.fds, f"seed {self._seed}: descriptors stay behind: {survived}"
        assert after.bytes - before.bytes < GROWTH, f"seed {self._seed}: memory stays: {survived}"
        assert after.peak - after.bytes < PEAK, f"seed {self._seed}: too much memory: {survived}"
        return survived


@contextlib.contextmanager
def besieged(seed: int, directory: Path) -> Iterator[Siege]:
    """Hold a device served by `imsh poke --serve`; it ends well when the body does."""
    path, log, device = directory / "s", directory / "log", directory / "device.yaml"
    device.write_text(MAPPED)
    argv = [sys.executable, "-m", "harness", "poke", "--serve", str(path), "--device", str(device)]
    with running(argv, name="poke", log=log) as process:
        wait_until(lambda: "for QEMU" in log.read_text(), Deadline(60, "imsh poke --serve"))
        try:
            yield Siege(process, str(path), log, seed)
        except Exception as error:
            with contextlib.suppress(DeadlineExpired):
                status = process.wait(Deadline(1, "the server's end"))
                error.add_note(f"the server had ended with {status}")
            error.add_note(f"the server's last words: {log.read_text()[-3000:]}")
            raise
        process.signal(signal.SIGINT)
        status = process.wait(Deadline(ANSWER_SECONDS, "the server's end"))
        assert status == 0, f"the server ended with {status}: {log.read_text()[-3000:]}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episode", type=int, metavar="N", help="play this one alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        with besieged(args.seed, Path(directory)) as siege:
            if args.episode is not None:
                with Descriptors() as fds:
                    siege.episode(args.episode, fds)
                siege.come_by()
                return
            survived = siege.play(args.messages, _say)
        _say(f"seed {args.seed}: {survived}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
