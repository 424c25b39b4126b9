"""pytest's own time-out of a test, the last behind all of ours: it is stretched as they are.

Ref: pytest-timeout 2.4.0, pytest_timeout.py: the hook ``pytest_timeout_set_timer``.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_timeout

from harness.host.deadline import timeout_factor


@pytest.hookimpl(optionalhook=True)  # of a plugin that may be switched off
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> object:
    """Set the timer of a test to what it or the configuration says, times our factor."""
    seconds = settings.timeout * timeout_factor()
    return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=seconds))
