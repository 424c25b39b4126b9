"""Commands for the guest that reach its physical memory, as root can."""

from __future__ import annotations

from collections.abc import Mapping


def read(address: int, bits: int = 32) -> str:
    """Return the command that reads a word, and prints it."""
    return f"devmem {address:#x} {bits}"


def write(words: Mapping[int, int]) -> list[str]:
    """Return the commands that write dwords, by address."""
    return [f"devmem {address:#x} 32 {value:#x}" for address, value in words.items()]
