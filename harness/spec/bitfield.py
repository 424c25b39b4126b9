"""Register and table layouts declared as data, in the notation of the documents.

A layout names inclusive bit ranges the way a specification prints them::

    class MsiData(Layout, bits=32):
        vector        = Bits(7, 0)
        delivery_mode = Bits(10, 8)
        reserved      = Reserved((31, 11))

    MsiData(vector=0x31).value            # 0x31
    MsiData.unpack(0x8031).reserved       # 0x80 << ... : reserved bits stay visible
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self, overload


class Bits:
    """One field: bits ``high`` down to ``low`` inclusive, as documents write ``[high:low]``."""

    def __init__(self, high: int, low: int | None = None):
        self.high = high
        self.low = high if low is None else low
        if not 0 <= self.low <= self.high:
            raise TypeError(f"Bits({high}, {low}): the higher bit comes first")
        self.mask = (1 << (self.high - self.low + 1)) - 1
        self.name = "?"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Layout, owner: type) -> int: ...
    def __get__(self, instance: Layout | None, owner: type) -> Self | int:
        if instance is None:
            return self
        return (instance.value >> self.low) & self.mask

    def place(self, value: int) -> int:
        """Return ``value`` shifted to this field's place.

        :raises ValueError: it does not fit.
        """
        if not 0 <= value <= self.mask:
            raise ValueError(f"{self.name}[{self.high}:{self.low}] cannot hold {value:#x}")
        return value << self.low


class Reserved:
    """The ranges a document reserves. Reading gives those bits in place, 0 when all are clear."""

    def __init__(self, *ranges: tuple[int, int]):
        self.fields = [Bits(high, low) for high, low in ranges]
        self.mask = sum(field.mask << field.low for field in self.fields)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Layout, owner: type) -> int: ...
    def __get__(self, instance: Layout | None, owner: type) -> Self | int:
        return self if instance is None else instance.value & self.mask


class Layout:
    """Base of a layout: an immutable integer of ``bits`` bits with named fields.

    A subclass that overlaps, overflows or leaves a bit unnamed is a ``TypeError`` at definition.
    """

    width: ClassVar[int]
    _fields: ClassVar[dict[str, Bits]]

    def __init_subclass__(cls, *, bits: int, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.width = bits
        cls._fields = {name: item for name, item in vars(cls).items() if isinstance(item, Bits)}
        ranges = list(cls._fields.items())
        for name, item in vars(cls).items():
            if isinstance(item, Reserved):
                ranges += [(name, field) for field in item.fields]
        expected = 0
        for name, field in sorted(ranges, key=lambda item: item[1].low):
            if field.low != expected:
                what = "overlaps" if field.low < expected else "leaves a gap below"
                raise TypeError(f"{cls.__name__}.{name}[{field.high}:{field.low}] {what} its place")
            expected = field.high + 1
        if expected != bits:
            raise TypeError(f"{cls.__name__} names {expected} bits of {bits}")

    def __init__(self, **fields: int):
        value = 0
        for name, number in fields.items():
            if name not in self._fields:
                raise TypeError(f"{type(self).__name__} has no field {name!r}")
            value |= self._fields[name].place(number)
        self._value = value

    @classmethod
    def unpack(cls, value: int | bytes) -> Self:
        """Return the layout of an integer or of little-endian bytes.

        :raises ValueError: more bits than the layout has, or bytes of another length.
        """
        if isinstance(value, bytes):
            if len(value) * 8 != cls.width:
                raise ValueError(f"{cls.__name__} is {cls.width // 8} bytes, not {len(value)}")
            value = int.from_bytes(value, "little")
        if not 0 <= value < 1 << cls.width:
            raise ValueError(f"{cls.__name__} cannot hold {value:#x}")
        self = cls.__new__(cls)  # it has a value: there are no fields to place
        self._value = value
        return self

    @property
    def value(self) -> int:
        """The whole as one integer."""
        return self._value

    def pack(self) -> bytes:
        """Return the whole as little-endian bytes."""
        return self._value.to_bytes(self.width // 8, "little")

    def replace(self, **fields: int) -> Self:
        """Return a copy with some fields changed."""
        value = self._value
        for name, number in fields.items():
            field = self._fields[name]
            value = value & ~(field.mask << field.low) | field.place(number)
        return self.unpack(value)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for name, field in self._fields.items():
            yield name, (self._value >> field.low) & field.mask

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.value == self.value

    def __hash__(self) -> int:
        return hash((type(self), self._value))

    def __repr__(self) -> str:
        fields = " ".join(f"{name}={number:#x}" for name, number in self)
        return f"<{type(self).__name__} {self._value:#0{self.width // 4 + 2}x} {fields}>"
