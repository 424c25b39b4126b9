"""How many bytes a piece of a test has left allocated."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Growth:
    """Bytes of Python's memory; good when the measurement has ended."""

    bytes: int = 0


@contextlib.contextmanager
def memory_growth() -> Iterator[Growth]:
    """Measure what is allocated inside and still there at the end."""
    growth = Growth()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield growth
        growth.bytes = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
