"""The live display: plain lines, a terminal, and nothing at all."""

import io
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from rich.console import Console

from lrtune.core.events import EpochEnded, Note, RunEnded, RunStarted, SweepStarted
from lrtune.core.study import Budget, StudyState
from lrtune.reporting.live import LiveDisplay
from lrtune.reporting.progress import Progress, expected_runs
from tests.reporting.conftest import (
    baseline_records,
    compared_records,
    confirmation_records,
    looked_at,
    search_records,
    stages,
)


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
    events = [
        SweepStarted("sgd", 1, 3),
        Note("sgd: 0.01 to 1"),
        *events_of(baseline_records()[0]),
        *events_of(pruned),
    ]
    text, _ = shown(config, empty, events)
    assert text.splitlines() == [
        "range test of sgd, sweep 1 of 3",
        "sgd: 0.01 to 1",
        "baseline-0 completed: 12 of 12 epochs, Top-1 89.66 %, sgd 0.1, "
        "step(every_epochs=4, factor=0.1)",
        f"trial-0008 pruned ({pruned.reason}): 4 of 12 epochs, Top-1 70.25 %, sgd 0.004, cosine",
    ]


def test_a_run_that_failed_by_the_users_code_shows_where(config, empty):
    reason = 'the task failed in training (epoch 2): KeyError: 7\n  File "net.py", line 3, in loss'
    failed = replace(baseline_records()[0], state="failed", reason=reason)
    text, _ = shown(config, empty, [RunEnded(failed)])
    first, second = text.splitlines()
    assert first.startswith(f"baseline-0 failed ({reason.splitlines()[0]}): 12 of 12 epochs")
    assert second == '  File "net.py", line 3, in loss'
    _, text = shown(config, empty, [RunEnded(failed)], terminal=True, width=120)
    assert text.splitlines()[-1] == f"baseline-0 failed: {reason.splitlines()[0]}"


def test_slow_epochs_have_a_plain_line(config, empty):
    record = baseline_records()[0]
    slow = replace(record.measurements[0], seconds=11.0)
    text, _ = shown(config, empty, [EpochEnded(record.run, slow)])
    loss, top1 = slow.metrics["train_loss"], slow.metrics["top1"]
    assert text == (
        f"baseline-0 epoch 1 of 12: LR 0.1, train loss {loss:.3f}, Top-1 {top1:.2f} %\n"
    )


def test_quiet_shows_nothing(config, empty):
    events = list(events_of(baseline_records()[0]))
    assert shown(config, empty, events, quiet=True)[0] == ""
    assert shown(config, empty, events, quiet=True, terminal=True)[0] == ""


def test_terminal_shows_the_running_and_the_best(config, empty):
    baseline, best, pruned = baseline_records()[0], search_records()[0], search_records()[8]
    running = list(events_of(search_records()[1]))[:4]
    _, text = shown(
        config,
        empty,
        [*events_of(baseline), *events_of(best), *events_of(pruned), *running],
        width=120,
    )
    header, overall, run, best_line, note = text.splitlines()
    assert header.startswith("digits-<first> · small-cnn on digits · cpu, fp32")
    assert overall.startswith("search")
    assert "trial 3 of 11" in overall
    assert re.search(r"elapsed  about .* left", overall)
    assert all(word in run for word in ("trial-0001", "3/12", "LR ", "loss ", "ex/s", "sgd 0.35"))
    assert "best so far 91.32 % (trial-0000: sgd 0.213" in best_line
    assert "baseline 89.66 %" in best_line
    assert note.startswith("trial-0008 pruned: Top-1 68.2")


@pytest.mark.parametrize(
    ("width", "overall", "row"),
    [
        (
            60,
            r"confirmation [━╸╺ ]+ 1 of 9–20 runs  about .+ left",
            "trial-0002-confirm-0 10/12 91.16 % sgd 0.28, warmup 1 ep, w…",
        ),
        (
            80,
            r"confirmation [━╸╺ ]+ 1 of 9–20 runs  .+ elapsed  about .+ left",
            "trial-0002-confirm-0 10/12 91.16 % LR 0.108 loss 0.234 5.0 s left sgd 0.28, war…",
        ),
    ],
)
def test_a_short_line_says_less_and_cuts_the_recipe_alone(config, width, overall, row):
    state = StudyState(config=replace(config, max_seeds=5), records=search_records())
    events = [*events_of(baseline_records()[0]), *list(events_of(confirmation_records()[3]))[:11]]
    _, text = shown(state.config, state, events, width=width)
    lines = text.splitlines()
    assert re.fullmatch(overall, lines[1].rstrip())
    assert lines[2] == row


@pytest.mark.parametrize("budget", ["50", "300ep", "4h"])
def test_sweeps_of_the_range_test_are_counted(config, budget):
    state = StudyState(config=replace(config, budget=Budget.parse(budget)))
    _, text = shown(state.config, state, [SweepStarted("sgd", 1, 3), SweepStarted("sgd", 2, 3)])
    assert re.fullmatch(r"range test +[━ ]+ sgd, sweep 2 of 3 .*", text.splitlines()[1])


def test_resumed_study_goes_on_from_what_is_recorded(config):
    begun = replace(
        search_records()[1], state="running", measurements=search_records()[1].measurements[:5]
    )
    state = StudyState(config=config, records=(*baseline_records(), search_records()[0], begun))
    _, text = shown(config, state, [RunStarted(begun.run, 5)])
    assert "trial 2 of 11" in text
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


@pytest.fixture
def of_id(looked):
    """A run of a study with looks, by its id."""
    return {record.run.id: record for record in looked.state.records}.get


@pytest.mark.parametrize(
    ("run_id", "said"),
    [
        (
            "trial-0000-look-1",
            "trial-0000-look-1 completed: 2 of 2 epochs, Top-1 77.45 %, validation loss 0.7016",
        ),
        (
            "trial-0002-look-2",
            "trial-0002-look-2 completed: 4 of 4 epochs, 1 of them reused, Top-1 87.15 %, "
            "validation loss 0.3886",
        ),
        ("trial-0002-confirm-0", "trial-0002-confirm-0 completed: 12 of 12 epochs, Top-1 92.16 %"),
        (
            "trial-0007-look-1",
            "trial-0007-look-1 diverged (the loss of epoch 2 is not finite): 2 of 2 epochs, "
            "Top-1 10.00 %",
        ),
    ],
)
def test_looks_and_reused_epochs_in_plain_lines(looked_config, of_id, run_id, said):
    ended = of_id(run_id)
    text, _ = shown(looked_config, StudyState(config=looked_config), events_of(ended))
    assert text == f"{said}, {ended.run.recipe.label}\n"


def test_slow_epochs_that_are_reused_have_no_line(looked_config, of_id):
    ended = of_id("trial-0002-look-2")
    events = [EpochEnded(ended.run, replace(m, seconds=11.0)) for m in ended.measurements[:2]]
    text, _ = shown(looked_config, StudyState(config=looked_config), events)
    assert text.startswith("trial-0002-look-2 epoch 2 of 4")


@pytest.mark.parametrize(
    ("until", "overall", "best"),
    [
        ("trial-0005-look-1", "search trial 6 of 18", "best so far validation loss 0.6276 "
         "(trial-0003-look-1: sgd 0.28, warmup 1 ep, wsd(cooldown_frac=0.3))"),
        ("trial-0008-look-2", "search second look 3 of 3", "best so far validation loss 0.3886 "
         "(trial-0002-look-2: sgd 0.35"),
        ("trial-0003-look-3", "search third look 2 of 2", "best so far validation loss 0.3882 "
         "(trial-0002-look-3: sgd 0.35"),
        ("trial-0002-confirm-0", "confirmation 1 of 9–20 runs", "best so far validation loss "
         "0.3882 (trial-0002-look-3: sgd 0.35, warmup 0.6 ep, linear); baseline 89.66 %"),
        ("trial-0003-confirm-0", "confirmation 2 of 9–20 runs", "in the lead: trial 2 92.16 % "
         "(sgd 0.35, warmup 0.6 ep, linear); baseline 89.66 %"),
        ("trial-0003-confirm-1", "confirmation 6 of 9–20 runs", "in the lead: trial 2 "
         "92.12 ± 0.06 % (sgd 0.35, warmup 0.6 ep, linear); baseline 89.44 ± 0.31 %"),
    ],
)  # fmt: skip
def test_the_display_follows_the_looks_and_then_the_race(looked_config, until, overall, best):
    state = looked_at(looked_config, until)
    _, text = shown(looked_config, state, [RunStarted(state.records[-1].run, 1)], width=120)
    lines = text.splitlines()
    assert " ".join(re.sub(r"[━╸╺]", "", lines[1]).split()).startswith(overall)
    assert any(line.startswith(best) for line in lines[2:])


def test_the_lead_of_the_baseline_is_told_once(config):
    state = stages(config)["worse than the baseline"].state
    _, text = shown(config, state, [], width=120)
    assert "in the lead: baseline 89.60 ± 0.06 % (sgd 0.1, step" in text
    assert text.count("baseline 89.60") == 1


def test_looks_that_are_ranked_by_the_objective_name_no_other_metric(looked_config):
    config = replace(looked_config, rank_by=None)
    state = looked_at(config, "trial-0005-look-1")
    _, text = shown(config, state, [], width=120)
    assert "best so far 79.74 % (trial-0003-look-1: sgd 0.28" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            {("look", 2, 2): 18, ("look", 4, 4): 3 + 2},
        ),
        (
            {"looks": ()},
            {("full", 12, 12): 18},
        ),
        (  # at least one has each look; one finalist has a seed a round
            {"budget": Budget(2, "trials")},
            {("look", 2, 2): 2, ("look", 4, 4): 1 + 1, ("confirm", 12, 12): 3},
        ),
        (  # the baseline's own recipe
            {"budget": Budget(1, "trials")},
            {("look", 2, 2): 1, ("look", 4, 4): 1 + 1, ("confirm", 12, 12): 0},
        ),
        (
            {"confirm": "quick"},
            {("look", 2, 2): 18, ("look", 4, 4): 3 + 2}
            | {("confirm", 12, 12): 1, ("baseline", 12, 12): 1},
        ),
        (
            {"confirm": "0"},
            {("look", 2, 2): 18, ("look", 4, 4): 3 + 2}
            | {("confirm", 12, 12): 0, ("baseline", 12, 12): 0},
        ),
        (
            {"num_seeds": 1},
            {("look", 2, 2): 18, ("look", 4, 4): 3 + 2}
            | {("confirm", 12, 12): 3, ("baseline", 12, 12): 1},
        ),
    ],
)
def test_expected_runs(looked_config, changes, expected):
    # All have two seeds, and two of three finalists the third.
    rest = {("baseline", 12, 12): 3, ("confirm", 12, 12): 3 * 2 + 2}
    assert expected_runs(replace(looked_config, **changes)) == rest | expected


# study, and the first run that has not begun: epochs that are still to come, at least and at most
LOOKS, PROOF = 18 * 2 + 3 * 4 + 2 * 4, (9 * 12, 20 * 12)
LEFT = [
    ({}, None, (LOOKS + PROOF[0], LOOKS + PROOF[1])),
    ({}, "trial-0006-look-1", (LOOKS - 12 + PROOF[0], LOOKS - 12 + PROOF[1])),
    ({}, "baseline-0", PROOF),
    ({}, "trial-0003-confirm-0", (7 * 12, 18 * 12)),
    ({}, "trial-0002-confirm-2", (2 * 12, 2 * 3 * 12)),  # two are out after two rounds
    ({"confirm": "0"}, None, (LOOKS, LOOKS)),
    ({"confirm": "quick"}, None, (LOOKS + 24, LOOKS + 24)),
    ({"budget": Budget(2, "trials"), "max_seeds": 3}, None, (2 * 2 + 4 + 4 + 60, 2 * 2 + 8 + 72)),
    ({"budget": Budget(100, "epochs")}, None, (100, 100)),
    ({"budget": Budget(400, "epochs")}, None, (180 + 15 * 12, 400)),
    ({"budget": Budget(5, "runs")}, None, (56, 56)),
]


@pytest.mark.parametrize(("changes", "until", "left"), LEFT)
def test_what_is_left_counts_the_proof(looked_config, changes, until, left):
    config = replace(looked_config, **changes)
    state = looked_at(config, until) if until else StudyState(config=config)
    assert Progress.of(state).epochs_left == left


def test_less_is_left_with_each_run_whatever_comes(looked_config, looked):
    progress, left = Progress.of(StudyState(config=looked_config)), []
    for record in looked.state.records:
        for event in events_of(record):
            progress.take(event)
            left.append(progress.epochs_left)
    assert all(fewest <= most for fewest, most in left)
    most = [most for _, most in left]
    assert most == sorted(most, reverse=True)
    assert left[-1][0] == 0


@pytest.mark.parametrize(("budget", "said"), [
    ("18", "about 2 to 5 min left"), ("60ep", "about 40 s left"), ("1h", "to 60 min left"),
])  # fmt: skip
def test_the_time_left_is_a_range_by_the_pace_of_this_session(
    looked_config, looked, monkeypatch, budget, said
):
    now = 1000.0
    monkeypatch.setattr("lrtune.reporting.live.time.monotonic", lambda: now)
    config = replace(looked_config, budget=Budget.parse(budget))
    display = LiveDisplay(StudyState(config=config), Console(quiet=True), device="cpu", quiet=True)

    def overall():
        rendered = Console(file=io.StringIO(), width=120)
        rendered.print(display._render())
        return rendered.file.getvalue().splitlines()[1]

    with display as show:
        now += 600  # the range test has no part in the pace
        assert "left" not in overall()
        for record in looked.state.records[:10]:
            for event in events_of(record):
                now += isinstance(event, EpochEnded)
                show(event)
        assert said in overall()


def test_progress_never_takes_a_step_back(looked_config, looked):
    progress, behind = Progress.of(StudyState(config=looked_config)), [0.0]
    for record in looked.state.records:
        for event in events_of(record):
            progress.take(event)
            done, total = progress.spent(0.0)
            behind.append(done)
            assert total == 18 * 2 + 5 * 4 + (3 + 8) * 12
    assert behind == sorted(behind)
    assert behind[-1] == total - 12  # the race was a run shorter than expected
    assert progress.epochs_trained == looked.state.epochs_trained


def test_a_run_of_the_baseline_during_the_search_is_no_end_of_it(looked_config, looked):
    """A worker that would wait for the last look takes it."""
    records = looked.state.records
    progress = Progress.of(replace(looked.state, records=records[:22]))  # but one third look
    behind = [progress.spent(0.0)[0]]
    for record in (records[23], records[22], *records[24:]):
        for event in events_of(record):
            progress.take(event)
            behind.append(progress.spent(0.0)[0])
    assert behind == sorted(behind)
    assert behind[1] == behind[0] == 18 * 2 + 4 * 4


def test_looks_that_are_missing_when_the_race_begins_count_as_done(looked_config, looked):
    fewer = [record for record in looked.state.records if record.run.trial != 17]
    index = [record.run.id for record in fewer].index("trial-0002-confirm-0")
    state = replace(looked.state, records=tuple(fewer[:index]))
    progress = Progress.of(state)
    before = progress.spent(0.0)[0]
    progress.take(RunStarted(fewer[index].run, 0))
    assert progress.spent(0.0)[0] == before + 2


def test_diverged_and_failed_runs_do_not_break_it(config, empty):
    records = search_records()[9:]
    assert math.isnan(records[0].measurements[-1].metrics["val_loss"])
    _, text = shown(
        config, empty, [event for record in records for event in events_of(record)], width=100
    )
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


def test_seeds_that_the_race_adds_are_part_of_the_confirmation(config):
    config = replace(config, max_seeds=5)
    confirmed, first = confirmation_records(), baseline_records()[0]
    more = replace(first, run=replace(first.run, id="baseline-3", seed=4))
    state = StudyState(config=config, records=(*baseline_records(), *search_records(), *confirmed))
    progress = Progress.of(state)
    before = progress.spent(0.0)
    for event in events_of(more):
        progress.take(event)
    assert progress.phase == "confirmation"
    assert progress.spent(0.0) == (before[0] + 12, before[1] + 12)
    _, text = shown(config, state, events_of(more))
    assert "13 of 9–20 runs" in text


def test_progress_of_a_comparison(comparison_config):
    records = compared_records()
    state = StudyState(config=comparison_config, records=records[:2])
    assert Progress.of(state).spent(0.0) == (2 * 12, 5 * 3 * 12)
    plain, _ = shown(comparison_config, state, events_of(records[5]))
    assert plain.startswith("adamw-<cosine>, seed 1 completed: 12 of 12 epochs")
    _, text = shown(comparison_config, state, events_of(records[2]), width=120)
    assert "comparison" in text
    assert "3 of 15–25 runs" in text
    assert "sgd-step 89.70 ± 0.04 %" in text


@pytest.mark.parametrize("budget", ["15runs", "180ep", "4h"])
def test_a_comparison_is_measured_by_its_plan(comparison_config, budget):
    config = replace(comparison_config, budget=Budget.parse(budget))
    state = StudyState(config=config, records=compared_records())
    assert Progress.of(state).spent(0.0) == ((5 * 3 + 3 * 2) * 12,) * 2
