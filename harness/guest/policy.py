# Ref: docs/ims-policy.md, "The rules"; guests/module/policy.c implements them.
"""May this kernel use IMS? What each rule says in the guest."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Rule(enum.StrEnum):
    """What goes by what."""

    IOMMU = "iommu"
    """There is an IOMMU, and it remaps interrupts."""
    TABLE_FORMAT = "table_format"
    """The DMAR table is of the new format, and allows IMS."""
    CACHING_MODE = "caching_mode"
    """No remapping unit is in caching mode."""
    CPUID = "cpuid"
    """CPUID shows no hypervisor."""
    FIRMWARE_FLAG = "firmware_flag"
    """The vendor-neutral flag in the table VIRE."""
    CALL = "call"
    """The hypervisor has granted the vIRTE call."""
    COMBINED = "combined"
    """All of them."""


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What a rule says."""

    rule: Rule
    allowed: bool
    why: str


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What every rule says of the platform now, and which one is in force."""

    enforced: str
    """The rule that allocations of IMS entries obey, or ``none``."""
    rules: tuple[RuleVerdict, ...]

    def __getitem__(self, rule: Rule) -> RuleVerdict:
        """Return what a rule says."""
        return next(verdict for verdict in self.rules if verdict.rule is rule)
