"""Every decision of the hypervisor, as a knob."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.spec.hypercall import BLOCK_MAX, CallStatus, Feature, Operation


class DeliveryPath(enum.Enum):
    """How a message reaches the guest's CPU."""

    POSTED = enum.auto()
    """The host's remapping unit posts it to the virtual CPU; no host CPU takes part."""
    HOST_HANDLER = enum.auto()
    """A handler of the host takes it and injects."""


@dataclass(frozen=True, slots=True)
class StormLimit:
    """More than ``messages`` of one handle within ``seconds`` are a storm."""

    messages: int
    seconds: float


@dataclass(slots=True)
class _Failure:
    operation: Operation
    status: CallStatus
    after: int
    times: int | None


REFUSABLE = frozenset({Operation.NEGOTIATE, Operation.MAP, Operation.RETARGET, Operation.REVIVE})
"""What may fail at all. Giving back always succeeds: a guest has nobody to tell."""


@dataclass(slots=True, kw_only=True)
class Policy:
    """What a hypervisor grants to one guest, and where it fails. Change it at any time."""

    grant: bool = True
    """Whether NEGOTIATE is granted."""
    features: Feature = ~Feature(0)
    """What is offered."""
    quota: int = 4096
    """Handles that the guest may hold at a time."""
    owns: Callable[[int, int], bool] = lambda segment, requester: True
    """Whether a PCI function, by segment and requester id, is this guest's."""
    largest_block: int = BLOCK_MAX
    """The largest block that is granted: a smaller one than was asked for is a partial grant."""
    delivery: DeliveryPath = DeliveryPath.POSTED
    handler: Callable[[Callable[[], None]], None] | None = None
    """The host's handler: calls what injects a message when it comes to it; None: soon."""
    start_seconds: float = 0.0
    """How long the host's interrupt takes to start; MAP is BUSY until then."""
    abandon_seconds: float = 1.0
    """A started interrupt that the guest does not come back for is taken down after this time."""
    storm: StormLimit | None = None
    """When a handle is quenched; None: never."""
    cool_down_seconds: float = 0.0
    """How long REVIVE is BUSY after a handle was quenched."""
    crashes: int = 0
    """How many of the next maps crash between the two host halves."""
    busy_us: int = 100
    """What an injected BUSY says in ``retry_us``."""
    _failures: list[_Failure] = field(default_factory=list)

    def fail(
        self,
        operation: Operation,
        status: CallStatus,
        *,
        after: int = 0,
        times: int | None = 1,
    ) -> None:
        """Let entries of an operation (NEGOTIATE: calls) fail from now on.

        :param after: how many succeed first.
        :param times: how many fail then; None: every one.
        :raises ValueError: the operation may not fail.
        """
        if operation not in REFUSABLE:
            raise ValueError(f"{operation.name} always succeeds")
        self._failures.append(_Failure(operation, status, after, times))

    def stop_failing(self) -> None:
        """Forget every failure that :meth:`fail` asked for."""
        self._failures.clear()

    def verdict(self, operation: Operation) -> CallStatus | None:
        """Count one entry, and return how it is to fail, None when it is not."""
        for failure in self._failures:
            if failure.operation is not operation:
                continue
            if failure.after:
                failure.after -= 1
                return None
            if failure.times is not None:
                failure.times -= 1
                if not failure.times:
                    self._failures.remove(failure)
            return failure.status
        return None
