# Ref: proc_cpuinfo(5)
"""The processor of this machine, as far as a guest that it runs itself can see it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_SEEN: Final = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")


def processor(listing: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Return what tells the first processor from others: maker, model, stepping, features."""
    first = listing.read_text().partition("\n\n")[0]
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    named = {name.strip(): " ".join(value.split()) for name, value in fields.items()}
    return tuple(f"{name}: {named[name]}" for name in _SEEN if name in named)
