"""A report for scripts: one JSON object."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from harness.validate.comparison import Compared, Comparison, Runs
from harness.validate.cost import Cost
from harness.validate.report import Report


def as_json(report: Report) -> str:
    """Return the report. Each test has every run of it; ``tried`` ends with the whole."""
    facts = {
        field.name: getattr(report, field.name)
        for field in dataclasses.fields(report)
        if field.name not in ("tried", "costs")
    }
    found = {
        "verdict": report.verdict,
        "headline": report.headline,
        **facts,
        "machines": report.machines,
        "tried": [
            {
                "name": item.candidate.name,
                "title": item.candidate.title,
                "error": item.error,
                **(_comparison(item.comparison) if item.comparison else {}),
            }
            for item in report.tried
        ],
        "costs": [_cost(cost) for cost in report.costs],
    }
    return json.dumps(found, indent=2) + "\n"


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {"counts": comparison.counts, "tests": [_test(test) for test in comparison.tests]}


def _test(test: Compared) -> dict[str, Any]:
    return {
        "test": test.test,
        "rows": test.known.rows,
        "machine": test.known.machine,
        "change": test.change,
        "reason": test.reason,
        "base": _runs(test.base),
        "patched": _runs(test.patched),
    }


def _runs(runs: Runs) -> list[dict[str, Any]]:
    return [
        {
            "verdict": run.verdict,
            "seconds": run.seconds,
            "error": run.error,
            "evidence": run.provenance.get("evidence", ""),
            "reproduce": run.provenance.get("reproduce", ""),
        }
        for run in runs.outcomes
    ]


def _cost(cost: Cost) -> dict[str, Any]:
    computed = {"noise": cost.noise, "changed": cost.changed, "worse": cost.changed and cost.worse}
    return dataclasses.asdict(cost) | computed
