"""The benchmark's statistics, its table, its JSON, and how measurements are shared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from harness.build.provision import Provisioner
from harness.build.qemu import QemuBinary
from harness.errors import HarnessError, LaunchError
from harness.host.deadline import Deadline, wait_until
from harness.host.process import running
from harness.host.progress import Progress
from harness.host.workspace import directory_lock
from harness.qemu.command import MachineSpec
from tests.bench.__main__ import main, measure
from tests.bench.bench import Bench
from tests.bench.catalogue import METRICS
from tests.bench.metrics import Goal, Metric, Summary, percentile, short, table, write_json
from tests.bench.raw_boot import LINE, raw_boot, tiny_init


def metric(name: str = "latency_us", goal: Goal | None = None) -> Metric:
    return Metric(
        name=name,
        unit="us",
        measure=lambda bench: Summary.of([1.0]),
        against="two processes",
        goal=goal,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    # What is tested here asks for no guest.
    return Bench(cast(Provisioner, None), "none", tmp_path, Progress(None))


# Statistics


def test_the_value_is_the_median_in_whatever_order_the_samples_came() -> None:
    summary = Summary.of([5.0, 1.0, 100.0, 3.0, 2.0])
    assert (summary.value, summary.p50) == (3.0, 3.0)
    assert (summary.n, summary.min, summary.max) == (5, 1.0, 100.0)


def test_a_percentile_between_two_samples_is_interpolated() -> None:
    samples = [0.0, 10.0, 20.0, 30.0]
    assert percentile(samples, 50) == 15.0
    assert percentile(samples, 0) == 0.0
    assert percentile(samples, 100) == 30.0
    assert percentile(samples, 95) == pytest.approx(28.5)


def test_one_sample_is_every_percentile() -> None:
    summary = Summary.of([7.0], percentiles=[99])
    assert (summary.min, summary.p50, summary.p95, summary.max) == (7.0,) * 4
    assert summary.extra == {"p99": 7.0}


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_no_samples_and_samples_that_are_no_numbers_are_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one sample, all of them finite"):
        Summary.of(samples)


def test_a_goal_holds_at_its_limit_and_on_one_side_of_it() -> None:
    at_most, at_least = Goal(40), Goal(40, at_least=True)
    assert [at_most.met_by(value) for value in (39.9, 40, 40.1)] == [True, True, False]
    assert [at_least.met_by(value) for value in (39.9, 40, 40.1)] == [False, True, True]


# JSON


def test_the_json_names_each_metric_with_its_numbers_and_extras(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.json"
    summary = Summary.of([1.0, 2.0, 3.0], percentiles=[99])
    write_json(path, {metric(): summary})
    assert json.loads(path.read_text()) == {
        "latency_us": {
            "value": 2.0,
            "unit": "us",
            "n": 3,
            "min": 1.0,
            "p50": 2.0,
            "p95": pytest.approx(2.9),
            "max": 3.0,
            "p99": pytest.approx(2.98),
        }
    }


def test_a_new_json_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_json(path, {metric("old"): Summary.of([1.0])})
    held = path.open()  # as a reader who is half through
    write_json(path, {metric("new"): Summary.of([1.0])})
    with held:
        assert list(json.load(held)) == ["old"]
    assert list(json.loads(path.read_text())) == ["new"]


def test_a_json_that_cannot_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    taken = tmp_path / "bench.json"
    taken.mkdir()
    with pytest.raises(OSError, match=r"bench\.json"):
        write_json(taken, {metric(): Summary.of([1.0])})
    assert list(tmp_path.iterdir()) == [taken]


# Table


def test_the_table_is_aligned_and_says_whether_a_goal_is_met() -> None:
    good, bad = metric("latency_us", Goal(40)), metric("rate", Goal(60_000, at_least=True))
    text = table(
        {good: Summary.of([27.0]), bad: Summary.of([100.0]), metric("plain"): Summary.of([1.0])}
    )
    header, *rows = text.splitlines()
    assert "<= 40.0 met" in rows[0]
    assert ">= 60000 MISSED" in rows[1]
    assert "met" not in rows[2].lower()
    for title in ("unit", "against"):
        place = header.index(title)
        assert {row[place - 1 : place + 1][:1] for row in rows} == {" "}
        assert all(row[place] != " " for row in rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.2749, "1.27"),
        (27.44, "27.4"),
        (61651.3, "61651"),
        (0.0123, "0.0123"),
        (0, "0"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_count(value: float, text: str) -> None:
    assert short(value) == text


# Measurements


def test_what_several_metrics_look_at_is_observed_once(bench: Bench) -> None:
    calls = []

    def observe(_: Bench) -> list[float]:
        calls.append(1)
        return [1.0, 2.0, 3.0]

    low = replace(metric("low"), measure=lambda b: Summary.of(b.shared(observe)[:1]))
    high = replace(metric("high"), measure=lambda b: Summary.of(b.shared(observe)[2:]))
    results, failures = measure(bench, [low, high])
    assert {m.name: summary.value for m, summary in results.items()} == {"low": 1.0, "high": 3.0}
    assert (len(calls), failures) == (1, {})


def test_a_failed_observation_is_not_tried_again_and_fails_all_who_need_it(bench: Bench) -> None:
    calls = []

    def observe(_: Bench) -> list[float]:
        calls.append(1)
        raise LaunchError("QEMU ended")

    broken = [
        replace(metric(name), measure=lambda b: Summary.of(b.shared(observe)))
        for name in ("first", "second")
    ]
    results, failures = measure(bench, [broken[0], metric("sound"), broken[1]])
    assert [m.name for m in results] == ["sound"]
    assert list(failures) == ["first", "second"]
    assert all(isinstance(error, HarnessError) for error in failures.values())
    assert len(calls) == 1


def test_rounds_are_the_measurements_own_number_unless_told_otherwise(bench: Bench) -> None:
    assert list(bench.counted("boots", 3)) == [0, 1, 2]
    bench.rounds = 2
    assert list(bench.counted("boots", 3)) == [0, 1]


def test_every_metric_that_is_promised_is_in_the_table_once() -> None:
    names = [m.name for m in METRICS]
    assert len(names) == len(set(names))
    assert {
        "boot_to_ssh_ratio",
        "vfio_user_read_us",
        "vfio_user_posted_writes_per_s",
        "ims_irqs_per_s",
        "msix_irqs_per_s",
    } <= set(names)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--rounds", "0"], "'0' is not a number above zero"),
        (["--rounds", "-1"], "'-1' is not a number above zero"),
        (["--only", "speed"], "invalid choice: 'speed'"),
    ],
)
def test_a_wrong_option_is_named(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# Raw boot


def test_the_init_of_the_raw_boot_prints_its_line_and_stays(tmp_path: Path) -> None:
    program = tmp_path / "init"
    program.write_bytes(tiny_init(LINE))
    program.chmod(0o755)
    log = tmp_path / "output"
    with running([str(program)], name="init", log=log) as process:
        wait_until(lambda: log.read_bytes() == LINE or None, Deadline(5, "the line of init"))
        assert process.poll() is None
    assert log.read_bytes() == LINE


def test_a_raw_boot_whose_qemu_ends_carries_what_it_said(tmp_path: Path) -> None:
    qemu = QemuBinary(("sh", "-c", "echo no such machine"), version="", origin="", digest="")
    spec = MachineSpec(name="any", description="any")
    with pytest.raises(LaunchError, match="QEMU ended in a raw boot") as raised:
        raw_boot(qemu, spec, kernel=tmp_path, initramfs=tmp_path)
    assert raised.value.evidence == "no such machine"


def test_a_second_run_that_would_write_the_same_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with directory_lock(tmp_path / "bench.machines"):
        status = main(["--json", str(tmp_path / "bench.json"), "--only", "vfio_user_read_us"])
    assert status == 64
    assert "another run uses the directory" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_a_run_that_measured_nothing_leaves_the_last_ones_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMSH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "bench.json"
    path.write_text("{ }")
    assert main(["--json", str(path), "--kernel", "none", "--only", "raw_boot_s"]) == 64
    assert "raw_boot_s: usage error: there is no kernel named 'none'" in capsys.readouterr().err
    assert path.read_text() == "{ }"
