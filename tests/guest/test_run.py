"""`imsh run`: the three stores by the guest's own remapping, and by the vIRTE call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.hypervisor.entry import HostEntry, Refused
from harness.hypervisor.partition import Partition
from harness.spec.hypercall import CallStatus


def test_each_way_is_shown_with_what_its_steps_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--json", "--results", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"] == "pass"
    ways = {(way["store"], way["hypercall"]): way for way in shown["stores"]}
    assert list(ways) == [(name, call) for call in (False, True) for name in ("MSI", "MSIX", "IMS")]
    for (name, by_call), way in ways.items():
        assert ("handle" in way, "irte_index" in way) == (by_call, not by_call)
        assert way["after"]["cpu"] != way["before"]["cpu"]
        assert all(way["trapped"].values()) is False  # a move touches no store
        assert any(way["trapped"].values()) == (name != "IMS")
        assert way["calls"]["move"] == (1 if by_call else 0)
        assert all(way["calls"].values()) == by_call


def test_a_hypervisor_that_maps_nothing_is_a_failure_of_the_call_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Partition, request: object) -> HostEntry:
        raise Refused(CallStatus.NO_HANDLES)

    monkeypatch.setattr(Partition, "map", refuse)
    assert main(["run", "--results", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "\nIMS\n" in shown
    assert "by the hypercall" not in shown
    assert "verdict: kernel failure" in shown
    assert "No space left on device" in shown
