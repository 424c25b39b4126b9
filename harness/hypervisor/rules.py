"""What a request may say: docs/virte.md, "Rules of a request". Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from harness.hypervisor.entry import Origin, Refused, Route, Source
from harness.spec.hypercall import (
    BLOCK_MAX,
    VECTOR_MIN,
    CallStatus,
    EntryFlag,
    EntryRequest,
    Feature,
    Operation,
)
from harness.spec.interrupt import Store
from harness.spec.msi import DeliveryMode

_FEATURE_OF: Final = {
    Store.MSI: Feature.MSI,
    Store.MSIX: Feature.MSIX,
    Store.IMS: Feature.IMS,
}
_PASID_MAX: Final = (1 << 20) - 1
_MSIX_INDEX_MAX: Final = 2047
_DESTINATION_MAX: Final = 0xFF
"""What the model's injection can reach: a compatibility-format message holds 8 bits."""

# As plain numbers: the complement of an IntFlag has no bits but those that it names, and a batch
# has thousands of entries, for each of which an enumeration's own arithmetic takes microseconds.
_PASID: Final = int(EntryFlag.PASID)
_LOGICAL: Final = int(EntryFlag.LOGICAL)
_REDIRECTION_HINT: Final = int(EntryFlag.REDIRECTION_HINT)
_PARKED: Final = int(EntryFlag.PARKED)
_ROUTE_FLAGS: Final = _LOGICAL | _REDIRECTION_HINT | _PARKED
_MAP_FLAGS: Final = _ROUTE_FLAGS | _PASID
_ROUTE_FIELDS: Final = frozenset({"flags", "destination", "vector", "delivery_mode"})
# The fields of an entry that each operation uses; the others are zero.
_FIELDS: Final = {
    Operation.MAP: frozenset(
        {"store", "requester", "count", "least", "index", "pasid", "segment", *_ROUTE_FIELDS}
    ),
    Operation.RETARGET: frozenset({"handle", *_ROUTE_FIELDS}),
    Operation.UNMAP: frozenset({"handle", "count"}),
    Operation.QUERY: frozenset({"handle"}),
    Operation.REVIVE: frozenset({"handle"}),
}
_UNUSED: Final = {
    operation: attrgetter(*(name for name in EntryRequest.__slots__ if name not in used))
    for operation, used in _FIELDS.items()
}


def check_unused(operation: Operation, request: EntryRequest) -> None:
    """See to it that an entry says nothing that its operation does not ask for.

    :raises Refused: a field that is not used is not zero.
    """
    _require(not any(_UNUSED[operation](request)))


def source_of(request: EntryRequest) -> Source:
    """Return the interrupt that a MAP is for."""
    pasid = request.pasid if request.flags & _PASID else None
    origin = Origin(request.segment, request.requester, pasid)
    return Source(origin, request.store, request.index)


def route_of(request: EntryRequest) -> Route | None:
    """Return the route that a request gives, None for parked.

    :raises Refused: it gives none that there is.
    """
    flags = request.flags & _ROUTE_FLAGS
    if flags & _PARKED:
        _require(flags == _PARKED)
        _require(not any((request.destination, request.vector, request.delivery_mode)))
        return None
    fixed = request.delivery_mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
    _require(fixed, CallStatus.UNSUPPORTED)
    _require(request.vector >= VECTOR_MIN)
    _require(request.destination <= _DESTINATION_MAX, CallStatus.UNSUPPORTED)
    return Route(
        request.destination,
        request.vector,
        request.delivery_mode,
        logical=bool(flags & _LOGICAL),
        redirection_hint=bool(flags & _REDIRECTION_HINT),
    )


def check_retarget(request: EntryRequest) -> None:
    """Hold a RETARGET to the rules, but for its route.

    :raises Refused: it breaks one.
    """
    _require(not request.flags & ~_ROUTE_FLAGS)


def check_map(request: EntryRequest, features: Feature) -> None:
    """Hold a MAP to the rules and to what was negotiated, but for its route.

    :raises Refused: it breaks one, or asks for more.
    """
    _require(not request.flags & ~_MAP_FLAGS)
    _require(request.store in _FEATURE_OF)
    _require(bool(_FEATURE_OF[Store(request.store)] & features), CallStatus.UNSUPPORTED)
    if request.flags & _PASID:
        _require(Feature.PASID in features, CallStatus.UNSUPPORTED)
        # A message of MSI or MSI-X carries no PASID.
        _require(request.store == Store.IMS and request.pasid <= _PASID_MAX)
    else:
        _require(not request.pasid)
    if request.store == Store.MSI:
        _require(request.index == 0)
        _require(request.count.bit_count() == 1 and request.count <= BLOCK_MAX)
        _require(request.least <= request.count)
    else:
        _require(request.store == Store.IMS or request.index <= _MSIX_INDEX_MAX)
        _require(request.count == 1 and request.least <= 1)


def _require(sound: bool, status: CallStatus = CallStatus.INVALID) -> None:
    if not sound:
        raise Refused(status)
