"""The doctor's trials, each on a machine where it works and on one where it does not."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from harness import doctor
from harness.build.image import ImageArtifact
from harness.build.kernel import KernelArtifact
from harness.build.module import ModuleArtifact
from harness.build.provision import Guest, Provisioner
from harness.build.qemu import QemuBinary
from harness.build.toolchain import Toolchain
from harness.cli.main import main
from harness.doctor import Supplies, examine
from harness.errors import LaunchError, MissingRequirement
from harness.host.progress import Progress
from harness.host.requirements import Diagnosis, Presence, attempt
from harness.testbed.supplies import DEFAULT_KERNEL, make_provisioner

# The host


def test_the_python_that_runs_this_is_found() -> None:
    assert doctor.try_python().endswith(sys.executable)


def test_a_python_that_is_too_old_is_not_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON", (99, 0))
    with pytest.raises(MissingRequirement) as caught:
        doctor.try_python()
    assert "Python 99.0 or later" in str(caught.value)


def test_a_setpriv_that_starts_processes_is_found() -> None:
    assert Path(doctor.try_setpriv()).name == "setpriv"


def test_a_setpriv_without_the_option_is_noticed_by_using_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "setpriv"
    program.write_text("#!/bin/sh\necho 'setpriv: unrecognized option: pdeathsig' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LaunchError, match="exit status 1"):
        doctor.try_setpriv()


def test_the_memory_of_a_child_can_be_read_here() -> None:
    assert "/mem" in doctor.try_child_memory()


def test_a_child_whose_memory_reads_as_something_else_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_CHILD", doctor._CHILD.replace('b"imsh"', 'b"else"'))
    with pytest.raises(MissingRequirement, match="656c7365"):
        doctor.try_child_memory()


@pytest.mark.parametrize(("slow", "hinted"), [(1e9, False), (0.0, True)])
def test_a_slow_machine_is_told_how_to_stretch_time_outs(
    monkeypatch: pytest.MonkeyPatch, slow: float, hinted: bool
) -> None:
    monkeypatch.setattr(doctor, "SLOW", slow)
    answer = doctor.try_speed()
    assert answer.status is Presence.FOUND
    assert (answer.hint is not None) is hinted


# What is built


@pytest.fixture
def provisioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provisioner:
    """An empty cache, on a host without QEMU."""
    monkeypatch.setenv("IMSH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IMSH_QEMU", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    return make_provisioner(Progress(None))


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    file = tmp_path / "file"
    file.write_bytes(b"")
    return Guest(
        KernelArtifact(
            name="k",
            release="0.1",
            version="0.1-1",
            key="",
            vmlinuz=file,
            modules=tmp_path,
            build=tmp_path,
            toolchain=Toolchain(tmp_path, ()),
        ),
        ModuleArtifact("k", file, file, file),
        ImageArtifact("k", file, ()),
    )


def test_what_imsh_makes_by_itself_is_not_missing(provisioner: Provisioner) -> None:
    supplies = Supplies(provisioner)
    (recipe, *_) = provisioner.recipes.kernels.values()
    answers = [supplies.find_qemu(), supplies.find_guest(recipe)]
    assert [answer.status for answer in answers] == [Presence.NOT_BUILT] * 2
    assert f"`imsh build {recipe.name}`" in str(answers[1].hint)


def test_nothing_is_booted_before_a_guest_is_built(provisioner: Provisioner) -> None:
    supplies = Supplies(provisioner)
    for answer in (supplies.try_emulation(), supplies.try_kvm()):
        assert answer.status is Presence.NOT_TRIED
        assert (answer.detail, answer.hint) == ("build a guest kernel first", "imsh build")


def test_a_qemu_that_was_named_and_will_not_do_is_missing(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_QEMU", "/nowhere/qemu")
    found = attempt("QEMU", Supplies(provisioner).find_qemu)
    assert found.is_fatal
    assert "/nowhere/qemu" in found.detail


def test_a_kvm_that_is_not_there_is_named(
    provisioner: Provisioner, guest: Guest, tmp_path: Path
) -> None:
    supplies = Supplies(provisioner, QemuBinary(("/bin/false",), "0", "here", ""), guest)
    with pytest.raises(MissingRequirement, match="none: No such file") as caught:
        supplies.try_kvm(tmp_path / "none")
    assert "imsh emulates" in str(caught.value.hint)


def test_a_kvm_that_boots_nothing_does_not_count(
    monkeypatch: pytest.MonkeyPatch, provisioner: Provisioner, guest: Guest, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    supplies = Supplies(provisioner, QemuBinary(("/bin/false",), "0", "here", ""), guest)
    device = tmp_path / "kvm"
    device.touch()
    with pytest.raises(MissingRequirement, match="kvm is there and does not boot a guest: QEMU"):
        supplies.try_kvm(device)


def test_an_emulator_that_does_not_start_is_a_fatal_answer(
    monkeypatch: pytest.MonkeyPatch, provisioner: Provisioner, guest: Guest
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    supplies = Supplies(provisioner, QemuBinary(("/bin/false",), "0", "here", ""), guest)
    found = attempt("emulation", supplies.try_emulation)
    assert found.is_fatal
    assert "QEMU did not start" in found.detail


# The whole


@pytest.fixture
def broken_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache can be nowhere, the trials end before those that take long."""
    monkeypatch.setenv("IMSH_CACHE", "not/absolute")


@pytest.mark.usefixtures("broken_cache")
def test_a_cache_that_cannot_be_is_an_answer_after_the_others() -> None:
    found = list(examine())
    assert [item.is_fatal for item in found] == [False] * 4 + [True]
    assert "not/absolute" in found[-1].detail


def test_a_machine_without_any_tool_is_described_to_the_end(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_MIRROR", "not an archive")
    found = {item.name: item for item in examine()}
    assert found["cache and recipes"].status is Presence.FOUND
    for name in ("setpriv", "perl", "user namespaces", "package archive"):
        assert found[name].is_fatal
        assert found[name].hint
    assert found[f"guest {DEFAULT_KERNEL}"].status is Presence.NOT_BUILT
    assert found["KVM"].status is Presence.NOT_TRIED
    assert not found["KVM"].required


@pytest.mark.usefixtures("broken_cache")
def test_the_command_prints_a_list_for_scripts_and_ends_with_three(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--json"]) == 3
    items = json.loads(capsys.readouterr().out)
    names = {field.name for field in dataclasses.fields(Diagnosis)}
    assert all(set(item) == names for item in items)
    assert [item["status"] for item in items] == ["found"] * 4 + ["missing"]


def test_the_command_prints_the_hint_below_what_is_missing(
    capsys: pytest.CaptureFixture[str], provisioner: Provisioner
) -> None:
    assert main(["doctor"]) == 3
    lines = capsys.readouterr().out.splitlines()
    place = next(at for at, line in enumerate(lines) if line.startswith("missing    perl"))
    detail = lines[place].index("perl is not in PATH")
    assert lines[place + 1].startswith(" " * detail + "-> install the package perl")
    assert lines[-1].startswith("missing: setpriv, ")


def test_what_is_optional_does_not_fail_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [Diagnosis("KVM", Presence.MISSING, False, "none")]
    monkeypatch.setattr("harness.cli.doctor.examine", lambda: iter(answers))
    assert main(["doctor"]) == 0
    assert "KVM (optional)" in capsys.readouterr().out
