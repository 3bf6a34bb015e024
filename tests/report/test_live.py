"""The live display: plain lines, a terminal, and nothing at all."""

import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from rich.console import Console

from lrtune.core.events import EpochEnded, Note, RunEnded, RunStarted
from lrtune.core.study import Budget, StudyState
from lrtune.report.live import LiveDisplay
from tests.report.conftest import baseline_records, search_records


def events_of(record):
    yield RunStarted(record.run, 0)
    for measurement in record.measurements:
        yield EpochEnded(record.run, measurement)
    yield RunEnded(record)


def shown(config, state, events, *, terminal=False, width=80, quiet=False):
    """What was written, and for a terminal the last thing rendered."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    with LiveDisplay(state, console, device="cpu, fp32", quiet=quiet) as show:
        for event in events:
            show(event)
        rendered = Console(file=io.StringIO(), width=width)
        rendered.print(show._render())
    return console.file.getvalue(), rendered.file.getvalue()


@pytest.fixture
def empty(config):
    return StudyState(config=config)


def test_plain_lines_one_a_run_and_one_a_note(config, empty):
    pruned = search_records()[8]
    events = [Note("range test: 0.01 to 1"), *events_of(baseline_records()[0]), *events_of(pruned)]
    text, _ = shown(config, empty, events)
    assert text.splitlines() == [
        "range test: 0.01 to 1",
        "baseline-0 completed: 12 of 12 epochs, Top-1 89.66 %, sgd 0.1, step(every_epochs=4, factor=0.1)",
        f"trial-0008 pruned ({pruned.reason}): 4 of 12 epochs, Top-1 70.25 %, sgd 0.004, cosine",
    ]


def test_slow_epochs_have_a_plain_line(config, empty):
    record = baseline_records()[0]
    slow = replace(record.measurements[0], seconds=11.0)
    text, _ = shown(config, empty, [EpochEnded(record.run, slow)])
    assert text == f"baseline-0 epoch 1 of 12: LR 0.1, train loss {slow.train_loss:.3f}, Top-1 {slow.top1:.2f} %\n"


def test_quiet_shows_nothing(config, empty):
    events = list(events_of(baseline_records()[0]))
    assert shown(config, empty, events, quiet=True)[0] == ""
    assert shown(config, empty, events, quiet=True, terminal=True)[0] == ""


def test_terminal_shows_the_running_and_the_best(config, empty):
    baseline, best, pruned = baseline_records()[0], search_records()[0], search_records()[8]
    running = list(events_of(search_records()[1]))[:4]
    _, text = shown(config, empty, [*events_of(baseline), *events_of(best), *events_of(pruned), *running], width=120)
    header, overall, run, best_line, note = text.splitlines()
    assert header.startswith("digits-<first> · small-cnn on digits · cpu, fp32")
    assert overall.startswith("search")
    assert "3 of 23 runs" in overall
    assert "ETA" in overall
    assert all(word in run for word in ("trial-0001", "3/12", "LR ", "loss ", "img/s", "sgd 0.35"))
    assert "best so far 91.32 % (trial-0000: sgd 0.213" in best_line
    assert "baseline 89.66 %" in best_line
    assert note.startswith("trial-0008 pruned: Top-1 68.2")


def test_resumed_study_goes_on_from_what_is_recorded(config):
    begun = replace(search_records()[1], state="running", measurements=search_records()[1].measurements[:5])
    state = StudyState(config=config, records=(*baseline_records(), search_records()[0], begun))
    _, text = shown(config, state, [RunStarted(begun.run, 5)])
    assert "4 of 23 runs" in text
    assert "5/12" in text
    assert "best so far 91.32 %" in text
    plain, _ = shown(config, state, [RunStarted(begun.run, 5)])
    assert plain == "trial-0001 goes on after epoch 5 of 12: sgd 0.35, warmup 0.6 ep, linear\n"


@pytest.mark.parametrize(
    ("budget", "said"),
    [("300ep", "24 of 300 epochs"), ("20runs", "2 of 20 runs"), ("4h", "of 4 h 00 min")],
)
def test_budgets_other_than_trials(config, budget, said):
    config = replace(config, budget=Budget.parse(budget))
    state = StudyState(config=config, records=baseline_records()[:1])
    _, text = shown(config, state, events_of(baseline_records()[1]), width=120)
    assert said in text


def test_diverged_and_failed_runs_do_not_break_it(config, empty):
    records = search_records()[9:]
    assert math.isnan(records[0].measurements[-1].val_loss)
    _, text = shown(config, empty, [event for record in records for event in events_of(record)], width=100)
    assert "trial-0009 diverged: the loss of epoch 2 is not finite" in text
    assert "trial-0010 failed: out of memory" in text


def test_events_of_several_threads_and_a_real_terminal(config, empty):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    records = (*baseline_records(), *search_records())
    with LiveDisplay(empty, console, device="cpu, fp32") as show, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda record: [show(event) for event in events_of(record)], records))
        assert len(show._progress.records) == len(records)
        assert show._progress.epochs_trained == sum(record.epochs for record in records)
        assert not show._progress.running
