"""Which QEMU is taken: what IMSH_QEMU names must be one, and is never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.provision import Provisioner
from harness.config.recipes import load_recipes
from harness.errors import MissingRequirement
from harness.host.cache import Cache
from harness.host.progress import Progress

# Speaks QMP as far as it is asked, and has none of the devices.
BARE_QEMU = """\
#!/bin/sh
for word; do case $word in socket,*fd=*) fd=${word##*fd=};; esac; done
exec python3 - "$fd" <<'END'
import json, socket, sys
peer = socket.socket(fileno=int(sys.argv[1])).makefile("rw")
def say(message):
    peer.write(json.dumps(message) + "\\n")
    peer.flush()
say({"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "Old"}}})
for line in peer:
    lists = "device-list-properties" in line
    say({"event": "SOMETHING"})
    say({"error": {"class": "DeviceNotFound"}} if lists else {"return": {}})
END
"""

# Has them, and says where its firmware is.
FULL_QEMU = BARE_QEMU.replace(
    "#!/bin/sh",
    """\
#!/bin/sh
[ "$1 $2" = "-L help" ] && { dirname "$0"; exit; }""",
).replace("if lists", "if False")


@pytest.fixture
def provisioner(tmp_path: Path) -> Provisioner:
    return Provisioner(Cache(tmp_path / "cache", Progress(None)), load_recipes())


def test_a_name_of_no_program_is_refused(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_QEMU", "/no/such/qemu")
    with pytest.raises(MissingRequirement, match="is not a program"):
        provisioner.qemu()


def test_a_program_that_is_no_qemu_is_refused(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_QEMU", "/bin/true")
    with pytest.raises(MissingRequirement, match="/bin/true is not a QEMU that runs here"):
        provisioner.qemu()


def test_a_qemu_without_the_devices_is_refused_by_what_it_lacks(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "qemu"
    program.write_text(BARE_QEMU)
    program.chmod(0o755)
    monkeypatch.setenv("IMSH_QEMU", str(program))
    with pytest.raises(
        MissingRequirement, match=r"QEMU 7\.2\.0 \(Old\), lacks vfio-user-pci, intel-iommu"
    ):
        provisioner.qemu()


def test_nothing_is_found_in_an_empty_cache(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("IMSH_QEMU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provisioner.find_qemu() is None
    for recipe in provisioner.recipes.kernels.values():
        assert provisioner.find_guest(recipe) is None
    assert not (tmp_path / "cache").exists()


def test_the_digest_of_a_qemu_is_that_of_its_program_and_its_firmware(
    provisioner: Provisioner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, firmware = tmp_path / "qemu", tmp_path / "bios-256k.bin"
    monkeypatch.setenv("IMSH_QEMU", str(program))

    def digest(text: str, bios: str) -> str:
        program.write_text(text)
        program.chmod(0o755)
        firmware.write_text(bios)
        return provisioner.qemu().digest

    one = digest(FULL_QEMU, "one")
    assert one != digest(FULL_QEMU, "two")
    assert one != digest(f"{FULL_QEMU}\n# changed\n", "one")
    assert one == digest(FULL_QEMU, "one")
