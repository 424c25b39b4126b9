"""Build steps cannot leave: each test is a step that tries, in the root of a real guest kernel."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from harness.build.provision import Provisioner
from harness.errors import BuildError, DeadlineExpired
from harness.host.deadline import Deadline
from harness.testbed.supplies import DEFAULT_KERNEL

SECRET: Final = "a file of the host"

# Raw system calls, for a root that has no tools to make them with.
NETWORK: Final = """
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])) };
	int s = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	puts(connect(s, (void *)&to, sizeof(to)) ? strerror(errno) : "connected");
	return 0;
}
"""
NAMESPACE: Final = """
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
	puts(unshare(CLONE_NEWUSER) ? strerror(errno) : "made");
	return 0;
}
"""


class Cell:
    """Runs shell scripts as build steps in one build root."""

    def __init__(self, provisioner: Provisioner, directory: Path):
        kernel = provisioner.kernel(provisioner.recipes.kernels[DEFAULT_KERNEL])
        self.root = kernel.toolchain.root
        self.sources = directory / "sources"
        self.output = directory / "output"
        self.sources.mkdir()
        self.output.mkdir()
        self._sandbox = provisioner.sandbox
        self._log = directory / "log"

    def run(self, script: str, *, seconds: float = 60) -> str:
        """Return what a script says; its working directory can be written."""
        self._log.write_text("")
        self._sandbox.run_step(
            ["sh", "-c", script],
            root=self.root,
            step="trying to leave",
            log=self._log,
            deadline=Deadline(seconds, "the step"),
            readable={"sources": self.sources},
            writable={"output": self.output},
            directory=PurePosixPath("/imsh/output"),
        )
        return self._log.read_text().partition("\n")[2].strip()

    def compiled(self, source: str, *arguments: str) -> str:
        """Return what a C program says."""
        (self.output / "program.c").write_text(source)
        return self.run(f"gcc -o program program.c && ./program {' '.join(arguments)}")


@pytest.fixture
def cell(provisioner: Provisioner, tmp_path: Path) -> Cell:
    (tmp_path / "secret").write_text(SECRET)
    return Cell(provisioner, tmp_path)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host, of the same user."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_step_reads_its_sources_and_writes_its_output(cell: Cell) -> None:
    (cell.sources / "text").write_text("hello")
    assert cell.run("cat ../sources/text; cp ../sources/text copy; echo x >/dev/null") == "hello"
    assert (cell.output / "copy").read_text() == "hello"


@pytest.mark.parametrize("place", ["/imsh/sources", "/imsh", "/usr", "/boot", "/"])
def test_nothing_else_can_be_written(cell: Cell, place: str) -> None:
    assert cell.run(f"touch {place}/x 2>&1 || true").endswith("Read-only file system")
    assert not (cell.root / place[1:] / "x").exists()


def test_the_files_of_the_host_cannot_be_reached(cell: Cell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    ways = " ".join(f"{way}{secret}" for way in ("", "/proc/[0-9]*/root", "/proc/[0-9]*/cwd"))
    assert SECRET not in cell.run(f"cat {ways} /imsh/../..{secret} ../../secret 2>/dev/null; true")
    same_root = cell.run("stat -L -c %d:%i / /proc/1/root /proc/self/root").splitlines()
    assert len(same_root) == 3
    assert len(set(same_root)) == 1


def test_only_its_own_processes_are_there(cell: Cell, bystander: subprocess.Popen[bytes]) -> None:
    commands = cell.run("cat /proc/[0-9]*/comm").split()
    assert "sleep" not in commands
    assert "systemd" not in commands
    assert len(commands) <= 4
    cell.run(f"kill -9 {bystander.pid} || true; trap '' TERM; kill -TERM -1 || true")
    assert bystander.poll() is None


def test_the_network_of_the_host_cannot_be_reached(cell: Cell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cell.compiled(NETWORK, str(port)) in ("Network is unreachable", "Connection refused")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert cell.run("tail -n +3 /proc/net/dev | cut -d: -f1").split() in ([], ["lo"])


def test_it_has_no_capability_and_gets_none(cell: Cell) -> None:
    sets = [line.split() for line in cell.run("grep ^Cap /proc/self/status").splitlines()]
    assert {int(value, 16) for _, value in sets} == {0}
    assert cell.compiled(NAMESPACE) != "made"


def test_it_sees_nothing_of_our_environment(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    names = {line.partition("=")[0] for line in cell.run("env").splitlines()}
    assert names <= {"HOME", "LC_ALL", "OLDPWD", "PATH", "PWD", "_"}


def test_a_step_that_fails_is_a_build_error_with_its_last_words(cell: Cell) -> None:
    with pytest.raises(BuildError, match="trying to leave failed") as caught:
        cell.run("echo the last words; exit 3")
    assert "the last words" in (caught.value.evidence or "")


def test_a_step_that_is_given_up_leaves_no_process(cell: Cell) -> None:
    with pytest.raises(DeadlineExpired):
        cell.run("(while :; do date +%N >tick; sleep 0.05; done) & sleep 600", seconds=1)
    (cell.output / "tick").unlink()
    time.sleep(0.5)  # ten times as long as it would need
    assert not (cell.output / "tick").exists()
