"""A study as a value for programs."""

import math
from dataclasses import replace

from lrtune.reporting.document import compose
from lrtune.reporting.result import SearchResult, runs_dataframe
from tests.reporting.conftest import range_result, stages


def test_runs_as_a_table(climbed):
    table = runs_dataframe(climbed.state).set_index("run")
    columns = ["horizon", "stop", "epochs", "reused", "top1", "averaged_top1"]
    assert table.loc["trial-0000-rung-c2", columns].to_list() == [2, 2, 2, 0, 85.85, 86.25]
    assert table.loc["trial-0001", columns].to_list() == [12, 12, 12, 4, 92.02, 92.42]


def test_a_run_without_an_epoch_has_no_top1(done):
    row = runs_dataframe(done.state).set_index("run").loc["trial-0010"]
    assert math.isnan(row["top1"])
    assert math.isnan(row["averaged_top1"])


def test_best_that_was_left_on_a_rung(config, tmp_path):
    report = stages(config)["left on rungs"]
    result = SearchResult(
        state=report.state, recommendation=report.recommendation, folder=tmp_path, report=report
    )
    assert result.best.recipe.peak_lr == 0.35
    assert math.isnan(result.best.value)


def test_a_result_is_two_lines(done, tmp_path):
    result = SearchResult(
        state=done.state, recommendation=done.recommendation, folder=tmp_path, report=done
    )
    assert (
        repr(result) == f"digits-<first>: {compose(done).headline}\n{done.recommendation.verdict}"
    )
    assert repr(range_result(signal=False)) == (
        "RangeResult(optimizer='sgd', interval=None, rule='from the steepest descent to the "
        "lowest loss', reason='The loss fell by less than its noise at every learning "
        "rate.', suggestions={})"
    )


def test_names_and_retries_as_a_table(done, comparison):
    first = replace(done.state.records[0], retries=2)
    table = runs_dataframe(replace(done.state, records=(first, *done.state.records[1:]))).set_index(
        "run"
    )
    assert table.loc["baseline-0", ["name", "retries"]].to_list() == ["baseline", 2]
    assert table.loc["trial-0001-confirm-0", ["name", "retries"]].to_list() == ["trial 1", 0]
    names = runs_dataframe(comparison.state).set_index("run")["name"]
    assert (names["baseline-0"], names["trial-0004-confirm-2"]) == ("sgd-step", "sgd-plateau")
