"""May this kernel use IMS? The rules of docs/ims-policy.md in real guests, and what they obey.

A machine stands for a platform. What firmware says there was built by the harness, and is decoded
back from the guest's own copy of the table.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.cli.policy import Answers, table
from harness.devices.virte_function.function import VirteFunction
from harness.guest.control import ControlError
from harness.guest.policy import PolicyFacts, Rule
from harness.hypervisor.host import Host
from harness.hypervisor.policy import Policy
from harness.qemu.command import Iommu
from harness.qemu.firmware import firmware, q35_dmar
from harness.spec.acpi import HEADER_SIZE, sealed
from harness.spec.acpi_dmar import Dmar
from harness.spec.acpi_vire import ImsUse, Vire
from harness.spec.interrupt import Store
from harness.testbed.plugged import PluggedFunction
from harness.testbed.vm import Vm
from tests.guest.support import deliver

DOCUMENT = Path(__file__).parents[2] / "docs/ims-policy.md"

ALLOWED = True
REFUSED = False


def policy(vm: Vm) -> PolicyFacts:
    """Return what the rules say, once it was found to be what the document's table has."""
    facts = vm.control.policy()
    if (truth := vm.spec.own_pairs_work) is not None:
        _, row = table([Answers(vm.spec.name, truth, facts)])
        (documented,) = re.findall(rf"(?m)^\| {vm.spec.name} \|.*", DOCUMENT.read_text())
        assert re.split(r"  +", row) == documented.strip("| ").split(" | ")
    return facts


def guests_table(vm: Vm, name: str) -> bytes:
    """Return an ACPI table as the guest's kernel has it."""
    return bytes.fromhex(vm.ssh.run(f"xxd -p /sys/firmware/acpi/tables/{name}").stdout)


def obeys(vm: Vm, device: PluggedFunction, rule: Rule) -> bool:
    """Put a rule in force, and return whether IMS can be allocated. MSI-X can in either case."""
    vm.control.enforce(rule)
    assert vm.control.policy().enforced == rule
    device.set_up(Store.MSIX, 1)
    deliver(device, Store.MSIX, 0)
    device.control.release(Store.MSIX)
    device.control.free(Store.MSIX)
    allowed = can_allocate(device)
    if allowed:
        device.set_up(Store.IMS, 2)
        deliver(device, Store.IMS, 0, 1)
        device.control.release(Store.IMS, count=2)
        device.control.free(Store.IMS, count=2)
    vm.control.enforce(None)
    return allowed


def can_allocate(device: PluggedFunction) -> bool:
    try:
        device.control.alloc(Store.IMS, 1)
    except ControlError as error:
        if error.errno != errno.EPERM:
            raise
        return False
    device.control.free(Store.IMS)
    return True


GUESSED = (Rule.IOMMU, Rule.CACHING_MODE, Rule.CPUID)
"""Rules that need no word of the firmware's: they go by what a VM cannot hide, or does not."""


@pytest.mark.machine("bare-metal-new", "bare-metal-vire")
@pytest.mark.capability("C1")
def test_with_remapping_and_nothing_that_says_vm_ims_is_allowed(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    facts = policy(vm)
    assert {rule: facts[rule].why for rule in GUESSED} == {
        Rule.IOMMU: "every unit remaps interrupts",
        Rule.CACHING_MODE: "no unit is in caching mode",
        Rule.CPUID: "CPUID shows no hypervisor",
    }
    for rule in (*GUESSED, Rule.COMBINED):
        assert facts[rule].allowed
        assert obeys(vm, ims_device, rule) is ALLOWED


@pytest.mark.machine("bare-metal")
@pytest.mark.capability("C1", "C3")
def test_an_old_tables_silence_is_no_word_so_that_guesses_alone_allow_ims(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    facts = policy(vm)
    assert Dmar.unpack(guests_table(vm, "DMAR")).ims_allowed is None
    for rule in GUESSED:
        assert obeys(vm, ims_device, rule) is ALLOWED
    for rule in (Rule.TABLE_FORMAT, Rule.COMBINED):
        assert facts[rule].why == "DMAR is of the old format"
        assert obeys(vm, ims_device, rule) is REFUSED


@pytest.mark.machine("bare-metal")
@pytest.mark.kernel("debian-6.12")
def test_the_table_that_the_harness_builds_says_what_qemus_own_says(vm: Vm) -> None:
    qemus, ours = Dmar.unpack(guests_table(vm, "DMAR")), q35_dmar(Iommu())
    assert (ours.header.oem_id, ours.header.oem_table_id, ours.header.oem_revision) == (
        qemus.header.oem_id,
        qemus.header.oem_table_id,
        qemus.header.oem_revision,
    )
    assert (ours.flags, ours.address_width) == (qemus.flags, qemus.address_width)
    (unit,), (qemus_unit,) = ours.units, qemus.units
    assert unit.address == qemus_unit.address
    assert unit.scopes[0] == qemus_unit.scopes[0]


@pytest.mark.machine("no-iommu")
@pytest.mark.capability("C2")
def test_without_an_iommu_ims_is_refused(vm: Vm, ims_device: PluggedFunction) -> None:
    facts = policy(vm)
    assert facts[Rule.IOMMU].why == facts[Rule.COMBINED].why == "no DMAR table: no IOMMU"
    assert obeys(vm, ims_device, Rule.IOMMU) is REFUSED
    assert obeys(vm, ims_device, Rule.COMBINED) is REFUSED


@pytest.mark.machine("bare-metal")
@pytest.mark.kernel("debian-6.12")
@pytest.mark.cold_boot("intremap=off")
@pytest.mark.capability("C1")
def test_an_iommu_whose_remapping_is_off_is_like_none(vm: Vm, ims_device: PluggedFunction) -> None:
    facts = vm.control.policy()
    assert facts[Rule.IOMMU].why == facts[Rule.COMBINED].why == "a unit does not remap interrupts"
    assert obeys(vm, ims_device, Rule.COMBINED) is REFUSED


@pytest.mark.machine("ims-allowed", "ims-disallowed")
@pytest.mark.capability("C4")
def test_a_table_of_the_new_format_is_followed_whatever_else_hints_at(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    dmar = guests_table(vm, "DMAR")
    assert (dmar,) == firmware(vm.spec).upgrades
    allowed = Dmar.unpack(dmar).ims_allowed
    assert allowed is (vm.spec.name == "ims-allowed")

    facts = policy(vm)
    # What can be guessed says the contrary.
    assert facts[Rule.CACHING_MODE].allowed == facts[Rule.CPUID].allowed == (not allowed)
    for rule in (Rule.TABLE_FORMAT, Rule.COMBINED):
        assert facts[rule].allowed is allowed
        assert obeys(vm, ims_device, rule) is allowed


@pytest.mark.machine("caching", "bare-metal")
@pytest.mark.capability("C5")
def test_caching_mode_is_taken_as_a_sign_of_a_vm(vm: Vm, ims_device: PluggedFunction) -> None:
    bare = vm.spec.name == "bare-metal"
    assert policy(vm)[Rule.CACHING_MODE].why == (
        "no unit is in caching mode" if bare else "a unit is in caching mode"
    )
    assert obeys(vm, ims_device, Rule.CACHING_MODE) is bare


@pytest.mark.machine("caching")
@pytest.mark.kernel("debian-6.12")
def test_no_rule_is_in_force_until_one_is_put_there(vm: Vm, ims_device: PluggedFunction) -> None:
    assert vm.control.policy().enforced == "none"
    assert can_allocate(ims_device)
    with pytest.raises(ControlError, match="no such rule") as refused:
        vm.control.call("policy", enforce="luck")
    assert refused.value.errno == errno.EINVAL


@pytest.mark.machine("remapping-only")
@pytest.mark.capability("C6")
def test_a_host_that_shows_the_hypervisor_bit_is_refused_what_works_there(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    assert vm.spec.own_pairs_work
    assert policy(vm)[Rule.CPUID].why == "CPUID shows a hypervisor"
    assert "hypervisor" in vm.control.read_file("/proc/cpuinfo").split()
    assert obeys(vm, ims_device, Rule.CPUID) is REFUSED
    ims_device.set_up(Store.IMS, 1)
    deliver(ims_device, Store.IMS, 0)


@pytest.mark.machine("disguised-guest")
@pytest.mark.capability("C6")
@pytest.mark.device(ims_mapped=True)
def test_a_vm_that_hides_the_hypervisor_bit_is_taken_for_bare_metal(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    assert not vm.spec.own_pairs_work
    facts = policy(vm)
    assert "hypervisor" not in vm.control.read_file("/proc/cpuinfo").split()
    for rule in GUESSED:
        assert facts[rule].allowed
        assert obeys(vm, ims_device, rule) is ALLOWED
    assert facts[Rule.COMBINED].why == "DMAR is of the old format"
    # It is a VM for all that: MSI-X is trapped and translated. The message in the IMS nobody has
    # seen: it names an entry of the guest's own table, of which the hardware knows nothing.
    with ims_device.trapped() as traps:
        ims_device.set_up(Store.MSIX, 1)
        ims_device.set_up(Store.IMS, 1)
    assert traps[Store.MSIX] > 0
    assert traps[Store.IMS] == 0
    assert ims_device.message(Store.IMS, 0) == ims_device.control.interrupt(Store.IMS, 0).composed


@pytest.mark.machine("vire-direct", "vire-call", "vire-undefined")
@pytest.mark.capability("C7")
def test_the_vendor_neutral_flag_is_followed_whatever_else_hints_at(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    vire = guests_table(vm, "VIRE")
    assert (vire,) == firmware(vm.spec).added
    use = Vire.unpack(vire).ims
    assert f"vire-{use.name.lower()}" == vm.spec.name

    facts = policy(vm)
    allowed = use is ImsUse.DIRECT
    assert facts[Rule.CACHING_MODE].allowed == facts[Rule.CPUID].allowed == (not allowed)
    assert (
        facts[Rule.FIRMWARE_FLAG].why
        == {
            ImsUse.DIRECT: "VIRE: pairs of the kernel's own work",
            ImsUse.CALL: "VIRE: the call is needed, and not granted",
            ImsUse.UNDEFINED: "VIRE: undefined",
        }[use]
    )
    for rule in (Rule.FIRMWARE_FLAG, Rule.COMBINED):
        assert obeys(vm, ims_device, rule) is allowed


@pytest.mark.machine("vire-call")
@pytest.mark.capability("C7", "C8")
def test_a_call_that_is_granted_overrides_every_hint(vm: Vm) -> None:
    """For devices that are bound after it: others are still in the old scheme."""
    with vm.granted_call(VirteFunction(Host(64, time.monotonic), Policy())) as virte:
        facts = vm.control.policy()
        for rule in (Rule.CALL, Rule.FIRMWARE_FLAG, Rule.COMBINED):
            assert facts[rule].allowed
        assert facts[Rule.COMBINED].why == "the hypervisor has granted the call"
        with vm.ims_function() as device:
            assert obeys(vm, device, Rule.COMBINED) is ALLOWED
            assert obeys(vm, device, Rule.TABLE_FORMAT) is REFUSED
        vm.ssh.run(f"echo {virte.slot} > /sys/bus/pci/devices/{virte.slot}/driver/unbind")
        assert not vm.control.policy()[Rule.COMBINED].allowed


# Bad input.


@pytest.mark.machine("vire-twice", "dmar-twice", "contradiction")
def test_tables_that_are_there_twice_or_contradict_each_other_allow_nothing(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    facts = vm.control.policy()
    assert (
        facts[Rule.COMBINED].why
        == {
            "vire-twice": "VIRE: there are two of it",
            "dmar-twice": "DMAR: there are two of it",
            "contradiction": "VIRE and DMAR contradict each other",
        }[vm.spec.name]
    )
    assert facts[Rule.CPUID].allowed
    assert obeys(vm, ims_device, Rule.COMBINED) is REFUSED


@pytest.mark.machine("dmar-checksum")
def test_a_table_that_the_kernel_refuses_has_said_nothing(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    assert "Bad table checksum" in vm.kernel_log()
    assert Dmar.unpack(guests_table(vm, "DMAR")).ims_allowed is None
    facts = vm.control.policy()
    assert all(facts[rule].allowed for rule in GUESSED)
    for rule in (Rule.TABLE_FORMAT, Rule.COMBINED):
        assert facts[rule].why == "DMAR is of the old format"
        assert obeys(vm, ims_device, rule) is REFUSED


@contextmanager
def damaged(vm: Vm, signature: str, damage: Callable[[bytes], bytes]) -> Iterator[None]:
    """Change a table where the guest's kernel has it in memory, and put it back."""
    # Of a table that was replaced the first line is the old one's, with other words in it.
    lines = rf"ACPI: {signature} 0x(\w+) (\w+) \(v"
    (address, length) = (int(text, 16) for text in re.findall(lines, vm.kernel_log())[0])
    sound = vm.machine.memory.read(address, length)
    vm.machine.memory.write(address, damage(sound))
    try:
        yield
    finally:
        vm.machine.memory.write(address, sound)


def written(offset: int, *values: int) -> Callable[[bytes], bytes]:
    """Return what writes bytes into a table, whose check sum stays right."""
    return lambda sound: sealed(sound[:offset] + bytes(values) + sound[offset + len(values) :])


def unsealed(sound: bytes) -> bytes:
    return sound[:-1] + bytes([sound[-1] ^ 1])


def check_named(
    vm: Vm,
    device: PluggedFunction,
    signature: str,
    damages: Mapping[str, Callable[[bytes], bytes]],
    rules: tuple[Rule, ...],
) -> None:
    """See every rule that goes by a table refuse and name each damage, the combined one too."""
    for name, damage in damages.items():
        with damaged(vm, signature, damage):
            facts = vm.control.policy()
            said = {facts[rule] for rule in (*rules, Rule.COMBINED)}
            assert {(verdict.allowed, verdict.why) for verdict in said} == {(REFUSED, name)}
            assert not can_allocate(device), name


@pytest.mark.machine("ims-allowed")
def test_a_damaged_dmar_table_is_named_and_allows_nothing(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    length, drhd = 4, HEADER_SIZE + 12
    damages = {
        "DMAR: wrong check sum": unsealed,
        "DMAR: 47 bytes": written(length, 47),
        "DMAR: 4294967295 bytes": written(length, 0xFF, 0xFF, 0xFF, 0xFF),
        "DMAR: no structure fits at 0x48": written(length, 73),
        "DMAR: revision 0 is not known": written(8, 0),
        "DMAR: revision 3 is not known": written(8, 3),
        "DMAR: reserved flags are set, 0x10": written(37, 0x19),
        "DMAR: reserved flags are set, 0x8": written(8, 1),
        "DMAR: allows IMS without interrupt remapping": written(37, 8),
        "DMAR: no structure fits at 0x30": written(drhd + 2, 0),
        "DMAR: half a unit at 0x30": written(drhd + 2, 12),
        "DMAR: no remapping unit": written(drhd, 0x7F),
        "DMAR: no remapping unit can be at 0xfed90010": written(drhd + 8, 0x10),
        "DMAR: no remapping unit can be at 0x100000": written(drhd + 8, 0, 0, 0x10, 0),
        "DMAR: no remapping unit can be at 0x0": written(drhd + 8, *bytes(8)),
        "DMAR: nothing answers at 0xfe000000": written(drhd + 8, 0, 0, 0, 0xFE),
    }
    assert obeys(vm, ims_device, Rule.COMBINED) is ALLOWED
    vm.control.enforce(Rule.COMBINED)
    rules = (Rule.IOMMU, Rule.TABLE_FORMAT, Rule.CACHING_MODE)
    check_named(vm, ims_device, "DMAR", damages, rules)
    assert can_allocate(ims_device)


@pytest.mark.machine("vire-direct")
def test_a_damaged_vire_table_is_named_and_allows_nothing(
    vm: Vm, ims_device: PluggedFunction
) -> None:
    damages = {
        "VIRE: wrong check sum": unsealed,
        "VIRE: 47 bytes instead of 48": written(4, 47),
        "VIRE: 4294967295 bytes instead of 48": written(4, 0xFF, 0xFF, 0xFF, 0xFF),
        "VIRE: revision 2 is not known": written(8, 2),
        "VIRE: value 3 is not known": written(36, 3),
        "VIRE: reserved bytes are not zero": written(47, 1),
    }
    assert obeys(vm, ims_device, Rule.COMBINED) is ALLOWED
    vm.control.enforce(Rule.COMBINED)
    check_named(vm, ims_device, "VIRE", damages, (Rule.FIRMWARE_FLAG,))
    assert can_allocate(ims_device)
