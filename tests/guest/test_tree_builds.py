"""What goes wrong in the build of a tree: told by its place, and harmless to the next build."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build.kbuild import CompileError
from harness.build.kernel import KernelArtifact, TreeSource
from harness.build.sandbox import HOST
from harness.build.tree import Trees
from harness.errors import BuildError, ConfigError
from harness.host.deadline import Deadline, wait_until
from tests.guest.small_kernel import RELEASE, make_small_kernel, make_trees

SECONDS = 120


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_small_kernel(tmp_path / "linux")


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return make_trees(tmp_path / "cache")


def build(trees: Trees, tree: Path) -> KernelArtifact:
    return trees.provide("small", TreeSource(str(tree)))


def output(tree: Path) -> Path:
    """Return where the objects are."""
    (found,) = tree.parent.glob("cache/trees/*/output-*")
    return found


def wait_for_text(file: Path, text: str) -> None:
    deadline = Deadline(SECONDS, f"{text!r} in {file}")
    wait_until(lambda: file.exists() and text in file.read_text(), deadline)


@contextlib.contextmanager
def hanging_build(tree: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Hold a harness that builds, from when the build hangs in its second object."""
    (tree / "kernel/bad.mk").write_text(
        "kernel/second.o: kernel/first.o\n\t@echo cut short >$@; echo it hangs; sleep 1000\n"
    )
    # What runs in the background of a shell script ignores SIGINT, and so do its children.
    python = ["env", "--default-signal=INT", sys.executable]
    words = ["-m", "tests.guest.small_kernel", str(tree), str(tree.parent / "cache")]
    logs = tree.parent / "cache/logs"
    deadline = Deadline(SECONDS, "the second object")
    with subprocess.Popen([*python, *words], stderr=subprocess.PIPE) as harness:
        try:
            wait_until(
                lambda: any("it hangs" in log.read_text() for log in logs.glob("*.log")), deadline
            )
            yield harness
        finally:
            harness.kill()


def processes_of(tree: Path) -> list[str]:
    """Return the command lines that name the cache of a tree."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(tree.parent / "cache") in line]


def mended(tree: Path) -> None:
    (tree / "kernel/bad.mk").unlink()


def is_whole(kernel: KernelArtifact) -> bool:
    return kernel.vmlinuz.read_bytes().count(b"\x7fELF") == 2


def test_what_compiles_is_a_kernel_and_is_built_once(trees: Trees, tree: Path) -> None:
    kernel = build(trees, tree)
    assert kernel.release == RELEASE
    assert is_whole(kernel)
    made = kernel.vmlinuz.stat().st_mtime_ns
    assert build(trees, tree).vmlinuz.stat().st_mtime_ns == made


def test_the_machines_own_compiler_builds_what_is_asked_of_it(trees: Trees, tree: Path) -> None:
    # What the packages bring is elsewhere, and of another release than most machines.
    (tree / "kernel/first.c").write_text("const char compiler[] = __VERSION__;\n")
    version = subprocess.check_output(["gcc", "-dumpfullversion"], text=True).strip().encode()
    theirs = build(trees, tree)
    ours = trees.provide("small", TreeSource(str(tree), compiler="host"))
    assert ours.toolchain.root == HOST
    assert is_whole(ours)
    assert version in ours.vmlinuz.read_bytes()
    assert version not in theirs.vmlinuz.read_bytes()


def test_one_line_that_changed_is_one_object(trees: Trees, tree: Path) -> None:
    build(trees, tree)
    first, second = (output(tree) / f"kernel/{name}.o" for name in ("first", "second"))
    before = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    (tree / "kernel/second.c").write_text("int another;\n")
    build(trees, tree)
    assert first.stat().st_mtime_ns == before[0]
    assert second.stat().st_mtime_ns > before[1]


def test_a_compile_error_is_the_compilers_and_can_be_repeated(trees: Trees, tree: Path) -> None:
    (tree / "kernel/second.c").write_text("int second = nowhere;\n")
    with pytest.raises(CompileError) as caught:
        build(trees, tree)
    first_line = (caught.value.evidence or "").partition("\n")[0]
    assert first_line.startswith("/imsh/tree/kernel/second.c:1:14: error: 'nowhere' undeclared")
    command = (caught.value.hint or "").removeprefix("repeat it: ").partition(";")[0]
    again = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert first_line in again.stderr
    (tree / "kernel/second.c").write_text("int second;\n")
    assert is_whole(build(trees, tree))


def test_an_option_that_does_not_stand_is_named(trees: Trees, tree: Path) -> None:
    (tree / "kernel/dropped").write_text("CONFIG_IRQ_REMAP=y\n")
    with pytest.raises(ConfigError) as caught:
        build(trees, tree)
    assert caught.value.evidence == "CONFIG_IRQ_REMAP=y"


@pytest.mark.parametrize("program", ["echo", "cat /imsh/tree/Makefile"])
def test_a_full_disk_is_told_and_what_it_cut_short_is_not_used(
    trees: Trees, tree: Path, program: str
) -> None:
    # /dev/full is the kernel's own full disk.
    (tree / "kernel/bad.mk").write_text(
        f"kernel/second.o: kernel/first.o\n\t@echo cut short >$@; {program} >/dev/full\n"
    )
    with pytest.raises(BuildError, match="no space left on the disk") as caught:
        build(trees, tree)
    assert not isinstance(caught.value, CompileError)
    assert (output(tree) / "kernel/second.o").read_text() == "cut short\n"
    mended(tree)
    assert is_whole(build(trees, tree))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_harness_that_is_ended_takes_its_build_along_and_poisons_nothing(
    trees: Trees, tree: Path, number: signal.Signals
) -> None:
    with hanging_build(tree) as harness:
        harness.send_signal(number)
        harness.communicate(timeout=SECONDS)
    wait_until(lambda: not processes_of(tree), Deadline(SECONDS, "the end of the build"))
    assert (output(tree) / "kernel/second.o").read_text() == "cut short\n"
    mended(tree)
    assert is_whole(build(trees, tree))
