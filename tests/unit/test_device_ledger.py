"""The ledger: each thing that can go wrong with an interrupt has its own name."""

from __future__ import annotations

import threading
import time

import pytest

from harness.devices import ledger as ledger_module
from harness.devices.ledger import (
    EVENT_BYTES,
    Event,
    Fate,
    Finding,
    FindingKind,
    Ledger,
    Step,
)
from harness.errors import CheckFailed
from harness.host.deadline import Deadline
from harness.spec.interrupt import Store
from tests.memory_growth import memory_growth


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def sent(ledger: Ledger, index: int = 0, store: Store = Store.IMS) -> Event:
    event = ledger.open(store, index)
    assert ledger.settle(event, Fate.SENT)
    return event


def soon() -> Deadline:
    return Deadline(0.01, "the answer")


def kinds(ledger: Ledger) -> list[FindingKind]:
    return [finding.kind for finding in ledger.findings()]


def test_an_answered_event_carries_the_cpu_and_leaves_the_device_quiet(ledger: Ledger) -> None:
    event = sent(ledger)
    assert ledger.answer(Store.IMS, 0, event.sequence, 3) is event
    assert (event.answered, event.cpu) == (True, 3)
    ledger.wait_answered(event, soon())
    ledger.assert_quiet()


def test_numbers_begin_at_one_and_are_never_given_twice(ledger: Ledger) -> None:
    assert [sent(ledger, index).sequence for index in (0, 1, 0)] == [1, 2, 3]


def test_a_slot_shows_the_oldest_unanswered_event(ledger: Ledger) -> None:
    first, second = sent(ledger), sent(ledger)
    assert ledger.oldest(Store.IMS, 0) == first.sequence
    ledger.answer(Store.IMS, 0, first.sequence, 0)
    assert ledger.oldest(Store.IMS, 0) == second.sequence
    ledger.answer(Store.IMS, 0, second.sequence, 0)
    assert ledger.oldest(Store.IMS, 0) == 0


def test_a_slot_does_not_show_another_interrupt(ledger: Ledger) -> None:
    sent(ledger, 1)
    assert ledger.oldest(Store.IMS, 0) == 0
    assert ledger.oldest(Store.MSIX, 1) == 0


@pytest.mark.parametrize("outcome", [Fate.PENDING, Fate.BLOCKED, Fate.DISABLED])
def test_a_slot_shows_nothing_that_was_not_sent(ledger: Ledger, outcome: Fate) -> None:
    ledger.settle(ledger.open(Store.IMS, 0), outcome)
    assert ledger.oldest(Store.IMS, 0) == 0
    assert ledger.unanswered == 0


def test_a_message_refused_late_leaves_the_slot(ledger: Ledger) -> None:
    event = sent(ledger)
    assert ledger.unanswered == 1
    ledger.settle(event, Fate.BLOCKED, "no entry")
    assert ledger.oldest(Store.IMS, 0) == 0
    assert ledger.unanswered == 0


def test_an_unanswered_event_is_named_as_lost(ledger: Ledger) -> None:
    answered, lost = sent(ledger, 4), sent(ledger, 5)
    ledger.answer(Store.IMS, 4, answered.sequence, 0)
    with pytest.raises(CheckFailed, match="1 interrupts not answered") as caught:
        ledger.wait_answered([answered, lost], soon())
    assert "event 2 on IMS 5" in str(caught.value)
    assert "IMS 4" not in str(caught.value)
    assert kinds(ledger) == [FindingKind.LOST]


def test_waiting_for_a_blocked_event_fails_at_once_and_says_why(ledger: Ledger) -> None:
    event = ledger.open(Store.IMS, 5)
    ledger.settle(event, Fate.BLOCKED, "wrong source id")
    with pytest.raises(CheckFailed, match="wrong source id"):
        ledger.wait_answered(event, Deadline(60, "the answer"))
    assert not ledger.findings()


def test_a_wait_ends_with_the_answer_and_not_with_the_deadline(ledger: Ledger) -> None:
    event = sent(ledger)
    timer = threading.Timer(0.05, ledger.answer, (Store.IMS, 0, event.sequence, 1))
    timer.start()
    ledger.wait_answered(event, Deadline(60, "the answer"))
    timer.join()
    assert event.cpu == 1


def test_the_same_answer_twice_is_doubled(ledger: Ledger) -> None:
    event = sent(ledger)
    ledger.answer(Store.IMS, 0, event.sequence, 0)
    assert ledger.answer(Store.IMS, 0, event.sequence, 2) is None
    assert kinds(ledger) == [FindingKind.DOUBLED]
    assert event.cpu == 0


def test_a_handler_that_found_nothing_is_doubled(ledger: Ledger) -> None:
    assert ledger.answer(Store.MSIX, 3, 0, 1) is None
    assert kinds(ledger) == [FindingKind.DOUBLED]
    assert "MSIX 3 (CPU 1)" in ledger.findings()[0].text


@pytest.mark.parametrize(("store", "index"), [(Store.IMS, 6), (Store.MSIX, 5)])
def test_an_answer_on_another_slot_is_misdirected_and_ends_nothing(
    ledger: Ledger, store: Store, index: int
) -> None:
    event = sent(ledger, 5)
    assert ledger.answer(store, index, event.sequence, 0) is None
    assert kinds(ledger) == [FindingKind.MISDIRECTED]
    assert not event.answered
    assert ledger.oldest(Store.IMS, 5) == event.sequence


def test_an_answer_to_a_number_never_given_is_a_stray(ledger: Ledger) -> None:
    ledger.answer(Store.IMS, 0, 99, 0)
    assert kinds(ledger) == [FindingKind.STRAY]


def test_an_answer_to_a_pending_event_is_a_stray(ledger: Ledger) -> None:
    event = ledger.open(Store.IMS, 0)
    ledger.settle(event, Fate.PENDING)
    ledger.answer(Store.IMS, 0, event.sequence, 0)
    assert kinds(ledger) == [FindingKind.STRAY]


def test_an_answer_to_a_blocked_event_is_a_stray(ledger: Ledger) -> None:
    event = sent(ledger)
    ledger.settle(event, Fate.BLOCKED, "refused")
    ledger.answer(Store.IMS, 0, event.sequence, 0)
    assert kinds(ledger) == [FindingKind.STRAY]


def test_a_refusal_after_the_answer_is_a_stray(ledger: Ledger) -> None:
    event = sent(ledger)
    ledger.answer(Store.IMS, 0, event.sequence, 0)
    assert not ledger.settle(event, Fate.BLOCKED, "refused")
    assert kinds(ledger) == [FindingKind.STRAY]
    assert event.fate is Fate.SENT


def test_quiet_names_what_is_outstanding(ledger: Ledger) -> None:
    sent(ledger, 8)
    ledger.settle(ledger.open(Store.MSI, 2), Fate.PENDING)
    with pytest.raises(CheckFailed) as caught:
        ledger.assert_quiet()
    assert "event 1 on IMS 8, sent" in str(caught.value)
    assert "event 2 on MSI 2, pending" in str(caught.value)


def test_quiet_names_each_finding_since_the_mark_only(ledger: Ledger) -> None:
    ledger.answer(Store.IMS, 1, 0, 0)
    mark = ledger.mark()
    ledger.assert_quiet(since=mark)
    ledger.answer(Store.IMS, 2, 0, 0)
    with pytest.raises(CheckFailed, match="1 points") as caught:
        ledger.assert_quiet(since=mark)
    assert "IMS 2" in str(caught.value)


def test_dropping_everything_ends_what_lives_and_returns_it(ledger: Ledger) -> None:
    pending = ledger.open(Store.IMS, 0)
    ledger.settle(pending, Fate.PENDING)
    out = sent(ledger, 1)
    assert ledger.drop_all("reset") == [pending, out]
    ledger.assert_quiet()
    assert ledger.pending(Store.IMS, 0) is None
    assert ledger.oldest(Store.IMS, 1) == 0
    assert not ledger.settle(out, Fate.BLOCKED, "too late")
    assert out.fate is Fate.DROPPED


def test_an_event_that_has_ended_cannot_be_sent(ledger: Ledger) -> None:
    event = ledger.open(Store.IMS, 0)
    ledger.settle(event, Fate.DISABLED)
    with pytest.raises(ValueError, match="cannot become sent"):
        ledger.settle(event, Fate.SENT)


def test_every_outcome_is_counted(ledger: Ledger) -> None:
    event = sent(ledger)
    ledger.answer(Store.IMS, 0, event.sequence, 0)
    ledger.settle(ledger.open(Store.IMS, 0), Fate.BLOCKED)
    counts = ledger.counts()
    assert (counts["raised"], counts["sent"], counts["blocked"], counts["answered"]) == (2, 1, 1, 1)


# What a guest can make it keep


def test_of_too_many_unanswered_events_the_oldest_is_given_up_and_named_as_lost(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MOST_UNANSWERED", 3)
    events = [sent(ledger, index) for index in range(4)]
    assert [event.fate for event in events[:2]] == [Fate.DROPPED, Fate.SENT]
    assert (ledger.unanswered, ledger.oldest(Store.IMS, 0)) == (3, 0)
    assert kinds(ledger) == [FindingKind.LOST]
    with pytest.raises(CheckFailed, match="newer ones are unanswered"):
        ledger.wait_answered(events[0], soon())


def test_events_that_are_never_answered_are_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = 2000
    monkeypatch.setattr(ledger_module, "MOST_UNANSWERED", many)
    monkeypatch.setattr(ledger_module, "HISTORY", many)
    monkeypatch.setattr(ledger_module, "FINDINGS_LIMIT", 0)
    monkeypatch.setattr(Step, "LIMIT", 0)
    monkeypatch.setattr(Finding, "LIMIT", 0)
    with memory_growth() as growth:
        ledger = Ledger()
        for _ in range(4 * many):
            sent(ledger)
    assert growth.bytes < 2 * many * EVENT_BYTES
    assert ledger.unanswered == many


def test_findings_are_bounded_in_bytes_and_none_goes_unnoticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = 3000
    limit = 1 << 17
    monkeypatch.setattr(ledger_module, "FINDINGS_LIMIT", limit)
    monkeypatch.setattr(Finding, "LIMIT", 0)
    ledger = Ledger()
    mark = ledger.mark()
    with memory_growth() as growth:
        for number in range(many):
            ledger.answer(Store.IMS, 0, 1_000_000 + number, 0)
    assert 0.5 * limit < growth.bytes < limit
    late = ledger.mark()
    assert late - mark == many
    assert ledger.findings()[-1].sequence == 1_000_000 + many - 1
    ledger.answer(Store.IMS, 7, 0, 0)
    with pytest.raises(CheckFailed, match="1 points") as caught:
        ledger.assert_quiet(since=late)
    assert "IMS 7" in str(caught.value)
    with pytest.raises(CheckFailed, match=f"{many + 1} points"):
        ledger.assert_quiet()


def test_an_answer_is_found_without_a_search(ledger: Ledger) -> None:
    """The newest of many on one interrupt first, and answers to what is long over."""
    events = [sent(ledger) for _ in range(20_000)]
    began = time.perf_counter()
    for event in reversed(events):
        assert ledger.answer(Store.IMS, 0, event.sequence, 0)
        assert ledger.answer(Store.IMS, 0, event.sequence, 0) is None
    assert time.perf_counter() - began < 5  # 0.2 s; with a search for each it takes minutes
