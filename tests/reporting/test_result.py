"""A study as a value for programs."""

import math
from dataclasses import replace

from lrtune.reporting.document import compose
from lrtune.reporting.result import SearchResult, runs_dataframe
from tests.reporting.conftest import range_result, stages


def test_runs_as_a_table(looked):
    table = runs_dataframe(looked.state).set_index("run")
    columns = ["kind", "seed", "horizon", "stop", "epochs", "reused", "top1"]
    assert table.loc["trial-0002-look-2", columns].to_list() == ["look", 0, 4, 4, 4, 1, 87.15]
    assert table.loc["trial-0002-look-3", columns].to_list() == ["look", 10_000, 4, 4, 4, 0, 87.18]
    assert table.loc["trial-0002-confirm-0", columns].to_list() == [
        "confirm", 1, 12, 12, 12, 0, 92.16,
    ]  # fmt: skip


def test_a_run_without_an_epoch_has_no_top1(done):
    row = runs_dataframe(done.state).set_index("run").loc["trial-0010"]
    assert math.isnan(row["top1"])
    assert math.isnan(row["averaged_top1"])


def test_the_best_by_looks_alone_has_no_value(config, tmp_path):
    report = stages(config)["looks alone"]
    result = SearchResult(
        state=report.state, recommendation=report.recommendation, folder=tmp_path, report=report
    )
    assert result.best.recipe.peak_lr == 0.35
    assert math.isnan(result.best.value)
    assert repr(result).startswith("digits-<first>: Not confirmed: train 12 epochs")


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
