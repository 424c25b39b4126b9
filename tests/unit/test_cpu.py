"""The processor of the host, as far as a guest under KVM can see it."""

from __future__ import annotations

from pathlib import Path

from harness.host.cpu import processor

LISTING = """\
processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: A Processor  @ 2.00GHz
stepping\t: 8
microcode\t: {microcode}
cpu MHz\t\t: {mhz}
bogomips\t: 4000.00
flags\t\t: fpu vme {flags}

"""


def listed(directory: Path, **values: str) -> tuple[str, ...]:
    fields = {"microcode": "0x1", "mhz": "2000.0", "flags": "x2apic"} | values
    file = directory / "cpuinfo"
    file.write_text("".join(LISTING.format(number=n, **fields) for n in range(2)))
    return processor(file)


def test_another_feature_or_microcode_is_another_processor(tmp_path: Path) -> None:
    one = listed(tmp_path)
    assert one != listed(tmp_path, flags="x2apic avx512f")
    assert one != listed(tmp_path, microcode="0x2")


def test_its_clock_does_not_matter(tmp_path: Path) -> None:
    assert listed(tmp_path) == listed(tmp_path, mhz="800.0")


def test_this_one_is_told() -> None:
    assert any(field.startswith("vendor_id: ") for field in processor())
