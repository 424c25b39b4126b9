"""Reports of a validation, one module a format: each a pure function from a report to its text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from harness.validate.formats.b4 import as_b4
from harness.validate.formats.json import as_json
from harness.validate.formats.junit import as_junit
from harness.validate.formats.ktap import as_ktap
from harness.validate.formats.markdown import as_markdown
from harness.validate.formats.text import as_text
from harness.validate.report import Report

FORMATS: Final[Mapping[str, tuple[str, Callable[[Report], str]]]] = {
    "text": ("report.txt", as_text),
    "markdown": ("report.md", as_markdown),
    "junit": ("junit.xml", as_junit),
    "ktap": ("report.ktap", as_ktap),
    "json": ("report.json", as_json),
    "b4": ("report.b4", as_b4),
}
"""By name: the file that it is kept in, and what writes it."""
