"""Whose failure it is: the verdict of what a test, or a verb, ended with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from harness.cli import main as cli
from harness.errors import CheckFailed, ConfigError, Verdict
from harness.report.verdict import graver, verdict_of
from harness.spec.msi import Message


def raised(action: Callable[[], None]) -> BaseException:
    """Return what calling it raises, pytest's own kind of failure included."""
    try:
        action()
    except BaseException as error:
        return error
    raise ValueError("nothing was raised")


def see_no_refusal() -> None:
    with pytest.raises(CheckFailed):
        pass  # the guest took what it had to refuse


def assert_in_a_test() -> None:
    assert Message(0, 0).data == 1


@pytest.mark.parametrize("action", [see_no_refusal, assert_in_a_test])
def test_a_failed_claim_about_a_guest_is_the_kernels(action: Callable[[], None]) -> None:
    assert verdict_of(raised(action), about_guest=True) is Verdict.KERNEL_FAILURE
    assert verdict_of(raised(action), about_guest=False) is Verdict.HARNESS_FAILURE


def test_an_assertion_of_the_harness_is_not_the_kernels() -> None:
    # As if a module of the harness had it: the code says where it comes from.
    code = compile("assert 0, 'an invariant of ours'", cli.__file__, "exec")
    error = raised(lambda: exec(code))
    assert isinstance(error, AssertionError)
    assert verdict_of(error, about_guest=True) is Verdict.HARNESS_FAILURE


def test_an_error_of_usage_is_no_failure_of_the_harness() -> None:
    assert verdict_of(ConfigError("no such kernel"), about_guest=True) is Verdict.USAGE_ERROR
    assert verdict_of(CheckFailed("lost"), about_guest=True) is Verdict.KERNEL_FAILURE


def test_every_verdict_has_a_gravity_and_a_status_of_its_own() -> None:
    assert graver(Verdict.HARNESS_FAILURE, Verdict.KERNEL_FAILURE) is Verdict.HARNESS_FAILURE
    assert {graver(verdict, Verdict.PASS) for verdict in Verdict} == set(Verdict)
    assert len({verdict.exit_status for verdict in Verdict}) == len(Verdict)


@pytest.mark.parametrize(
    "words", [["run", "--kernel", "debain-6.12"], ["run", "--kernle", "x"], ["rum"], []]
)
def test_a_typo_on_the_command_line_has_a_status_of_its_own(words: list[str]) -> None:
    ended = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True)
    assert ended.returncode == Verdict.USAGE_ERROR.exit_status == 64, ended.stderr


def test_an_error_of_ours_does_not_say_that_the_kernel_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> Verdict:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("harness.cli.kernels.run", broken)
    assert cli.main(["kernels"]) == Verdict.HARNESS_FAILURE.exit_status
    assert "imsh: harness failure: ZeroDivisionError('ours')" in capsys.readouterr().err
