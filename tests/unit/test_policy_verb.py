"""What `imsh policy` makes of the answers of guests."""

from __future__ import annotations

import json

import pytest

from harness.cli.policy import Answers, platforms, table
from harness.config.recipes import load_machines
from harness.errors import ConfigError
from harness.guest.facts import build
from harness.guest.policy import PolicyFacts, Rule

REPLY = {
    "enforced": "none",
    "rules": [{"rule": rule.value, "allowed": rule is Rule.CPUID, "why": "so"} for rule in Rule],
}


def test_an_answer_is_right_too_careful_or_dangerous() -> None:
    facts = build(PolicyFacts, json.loads(json.dumps(REPLY)))
    for own_pairs_work, allowed, refused in ((True, "", "!"), (False, "!!", "")):
        answers = Answers("m", own_pairs_work, facts)
        assert answers.mark(facts[Rule.CPUID]) == allowed
        assert answers.mark(facts[Rule.CALL]) == refused


def test_the_table_has_a_line_for_each_machine_and_a_column_for_each_rule() -> None:
    facts = build(PolicyFacts, REPLY)
    head, work, fail = table([Answers("works", True, facts), Answers("fails", False, facts)])
    assert head.split() == ["machine", "own", "pairs", *Rule]
    assert work.startswith("works    work         refused !  refused !")
    assert fail.split("  ")[0] == "fails"
    assert fail.count("!!") == 1


def test_machines_that_stand_for_no_platform_are_not_asked() -> None:
    machines = load_machines()
    asked = platforms(machines, None)
    assert {"bare-metal", "no-iommu", "disguised-guest"} <= asked.keys()
    assert "vire-twice" not in asked
    assert list(platforms(machines, ["no-iommu", "bare-metal"])) == ["no-iommu", "bare-metal"]
    with pytest.raises(ConfigError, match="vire-twice stands for no platform") as refused:
        platforms(machines, ["vire-twice"])
    assert "bare-metal" in str(refused.value.hint)
    with pytest.raises(ConfigError, match="no machine named 'bare'"):
        platforms(machines, ["bare"])
