"""Reports of other objectives than Top-1: a minimised one, a share, and one made up here."""

import io
import json
import math
import re
import warnings
from dataclasses import replace

import jsonschema
import pytest
from rich.console import Console

from lrtune.core.events import EpochEnded, RunEnded, RunStarted
from lrtune.core.objective import Objective
from lrtune.core.recipe import ParameterGroup
from lrtune.core.study import StudyState
from lrtune.decide.noise import Difference
from lrtune.reporting import wording
from lrtune.reporting.document import compose
from lrtune.reporting.html import render_html
from lrtune.reporting.json import render_json
from lrtune.reporting.live import LiveDisplay
from lrtune.reporting.markdown import render_markdown
from lrtune.reporting.plots import draw
from lrtune.reporting.result import runs_dataframe
from lrtune.reporting.sheet import WIDTHS
from lrtune.reporting.terminal import print_recommendation, print_studies
from tests.reporting.conftest import (
    F1,
    VAL_LOSS,
    baseline_records,
    by_objective,
    compared_records,
    report_of,
    search_records,
    stages,
)
from tests.reporting.test_files import SCHEMA, STAGES, Page
from tests.reporting.test_live import events_of, shown
from tests.reporting.test_terminal import printed

# A metric that lrtune has never heard of: negative, minimised, and with the characters that HTML
# and Markdown give a meaning.
ENERGY = Objective(metric="E_gap <b>|*mev*", direction="min")


def of_energy(top1):
    return -20 * top1


def whole(report):
    """A report in all its renderings, by name."""
    document = compose(report)
    plots = draw(document)
    return {
        "markdown": render_markdown(document, plots),
        "html": render_html(document, plots),
        "json": render_json(document),
        "csv": runs_dataframe(report.state).to_csv(index=False),
    } | {
        f"terminal of {width}": printed(
            lambda console: print_recommendation(report, console), width
        )
        for width in (60, 80, 120)
    }


def assert_nothing_of_top1(text):
    """Percentages that are left are of an interval, a probability, the peak LR and importance."""
    assert not re.search(r"top-?1", text, re.IGNORECASE)
    assert not re.search(r"\d\.\d\d %", text)
    assert not re.search(r"\bpoints\b|\bimages\b|in percent\b(?! of each)", text)
    headings = re.findall(r"[^<>\n]*, %(?! of its peak)", text)
    assert all("share of the variation" in heading for heading in headings)


@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_report(config, objective, stage):
    texts = whole(by_objective(stages(config)[stage], objective))
    jsonschema.validate(json.loads(texts["json"], parse_constant=pytest.fail), SCHEMA)
    page = Page(texts["html"])
    assert (page.open, page.fetched) == ([], [])
    for name, text in texts.items():
        assert_nothing_of_top1(text)
        if name.startswith("terminal"):
            assert "…" not in text
            assert max(map(len, text.splitlines())) <= int(name.split()[-1])
        if name != "csv":
            words = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).lower().split()
            assert not {"nan", "+nan", "inf", "+inf", "-inf"} & set(words), name


@pytest.mark.slow
@pytest.mark.parametrize("study", ["done", "looked", "comparison"])
@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_finished_studies(request, objective, study):
    for text in whole(by_objective(request.getfixturevalue(study), objective)).values():
        assert_nothing_of_top1(text)


@pytest.mark.parametrize(
    ("objective", "facts"),
    [
        (
            VAL_LOSS,
            [
                (
                    "Validation loss", "0.01405 ± 0.00051",
                    "3 fresh seeds; baseline 0.01715 ± 0.00010 (3)",
                ),
                (
                    "Convergence, epoch", "7 [6, 7] of 12",
                    "3 of 3 runs reach 0.01714; baseline 11 [11, 12] of 12",
                ),
                ("To baseline", "-0.00310"),
            ],
        ),
        (
            F1,
            [
                ("f1", "0.9160 ± 0.0036", "3 fresh seeds; baseline 0.8960 ± 0.00060 (3)"),
                (
                    "Convergence, epoch", "7 [6, 7] of 12",
                    "3 of 3 runs reach 0.8961; baseline 11 [11, 12] of 12",
                ),
                ("To baseline", "+0.0200"),
            ],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_first_screen(done, objective, facts):
    report = by_objective(done, objective)
    document = compose(report)
    assert [fact[: len(said)] for fact, said in zip(document.facts, facts, strict=False)] == facts
    contender = report.recommendation.best
    assert contender.name == "trial 1"
    assert float(facts[-1][1]) == pytest.approx(
        contender.mean - report.recommendation.baseline.mean, abs=1e-4
    )
    assert document.verdict.startswith(f"{facts[-1][1]} in {objective.title} against the baseline")
    assert ": better." in document.verdict


def test_sentences_of_a_loss(done):
    document = compose(by_objective(done, VAL_LOSS))
    assert document.target == (
        "Convergence is the first epoch with a validation loss of at most 0.01714 "
        "(the median final validation loss of the baseline over 3 seeds)."
    )
    assert document.optimism.startswith(
        "Winner's curse: the best search score of those confirmed was 0.01347 (trial 1); over 3 "
        "fresh seeds it has 0.01405, 0.000579 more."
    )
    assert document.table_note.startswith("Validation loss (lower is better). Search: the one run")
    assert "To baseline: the difference in validation loss, the mean" in document.table_note
    assert "the epoch from which validation loss stays" in document.table_note
    assert document.learning_title == "Validation loss"
    assert document.parallel.lines[1].text == (
        "trial 1: place 1, validation loss 0.01347; sgd 0.35, warmup 0.6 ep, linear"
    )


def test_sentences_of_a_share(done):
    document = compose(by_objective(done, F1))
    assert document.target == (
        "Convergence is the first epoch with f1 of at least 0.8961 "
        "(the median final f1 of the baseline over 3 seeds)."
    )
    assert "0.00417 less" in document.optimism
    assert document.table_note.startswith("f1 (higher is better). Search: the one run")
    assert "the epoch from which f1 stays" in document.table_note
    assert document.learning_title == "Validation f1"


def test_a_worse_recipe_has_a_loss_that_is_higher(config):
    document = compose(by_objective(stages(config)["worse than the baseline"], VAL_LOSS))
    baseline, worse = document.contenders
    assert (baseline.name, baseline.recommended) == ("baseline", True)
    assert worse.difference.startswith("+0.0")
    assert document.headline.startswith("Keep the baseline")


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (Objective(), "+0.50 [+0.25, +0.75]"),
        (F1, "+0.500 [+0.250, +0.750]"),
        (VAL_LOSS, "-0.500 [-0.750, -0.250]"),
    ],
    ids=str,
)
def test_a_better_one_has_the_sign_of_its_metric(objective, text):
    assert wording.difference(objective, Difference(mean=0.5, low=0.25, high=0.75)) == text


@pytest.mark.parametrize("objective", [Objective(), F1, VAL_LOSS], ids=str)
def test_no_difference_has_a_plus(objective):
    text = wording.difference(objective, Difference(mean=0.0, low=-math.inf, high=math.inf))
    assert text == "+0.00 (no interval)"


@pytest.mark.parametrize(
    ("objective", "start"),
    [
        (
            Objective(metric="val_loss", direction="min", constant=0.001),
            "No epoch of any run is better than a constant prediction (validation loss 0.001000)",
        ),
        (
            Objective(metric="f1", direction="max", guessing=0.97),
            "No epoch of any run is better than guessing (f1 0.9700)",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("study", ["done", "comparison"])
def test_a_training_that_learns_nothing_is_told_at_the_head(request, study, objective, start):
    of_top1 = (lambda top1: 0.01 * (101 - top1)) if objective.metric == "val_loss" else None
    report = request.getfixturevalue(study)
    report = by_objective(report, objective, of_top1 or (lambda top1: top1 / 100))
    texts = whole(report)
    assert compose(report).verdict.startswith(start)
    assert f'<p class="verdict">{start}' in texts["html"]
    assert f"**{start}" in texts["markdown"]
    assert any(line.startswith(start[:40]) for line in texts["terminal of 80"].splitlines()[:6])
    better = {"constant": 10.0} if objective.metric == "val_loss" else {"guessing": 0.1}
    report = by_objective(
        request.getfixturevalue(study), replace(objective, **better), of_top1 or (lambda t: t / 100)
    )
    assert "No epoch" not in compose(report).verdict


@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_a_difference_to_a_baseline_that_diverged_once_is_a_dash(done, objective):
    lost, *records = done.state.records
    last = replace(lost.measurements[-1], metrics={"train_loss": math.nan, "top1": 10.0})
    lost = replace(lost, state="diverged", measurements=(*lost.measurements[:-1], last))
    report = by_objective(report_of(replace(done.state, records=(lost, *records))), objective)
    document = compose(report)
    assert document.facts[0].note == "3 fresh seeds; baseline 1 of 3 diverged (3)"
    assert document.facts[2] == (
        "To baseline", "–", f"no interval; {wording.direction(objective)}",
    )  # fmt: skip
    assert document.contenders[0].difference == "–"
    assert "against the baseline" not in document.verdict
    for text in whole(report).values():
        assert "+nan" not in text


def test_a_value_that_is_infinite_has_no_spread(done):
    """A perplexity may overflow where its loss is finite."""
    objective = Objective(metric="perplexity", direction="min")
    best = {f"trial-0001-confirm-{i}" for i in range(3)}
    records = tuple(
        replace(record, measurements=tuple(
            replace(m, metrics=m.metrics | {"top1": 0.0}) for m in record.measurements
        )) if record.run.id in best else record
        for record in done.state.records
    )  # fmt: skip
    report = report_of(replace(done.state, records=records))
    report = by_objective(report, objective, lambda top1: 100 - top1 if top1 else math.inf)
    [row] = [row for row in compose(report).contenders if row.name == "trial 1"]
    assert row.value == "inf"
    whole(report)


# --- plots


def panels_of(report, name):
    [plot] = [plot for plot in draw(compose(report)) if plot.name == name]
    return plot.paint(WIDTHS["wide"]).panels


def marks_of(axes):
    """Marker to the heights of the visible marks."""
    marks = {}
    for line in axes.lines:
        if line.get_alpha() != 0 and len(line.get_ydata()):
            marks.setdefault(line.get_marker(), []).extend(line.get_ydata())
    return marks


@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_values_that_are_far_off_lie_at_the_worse_edge(done, objective):
    records = list(done.state.records)
    for i, record in enumerate(records):
        if record.run.id == "trial-0003":  # completed, and much worse than the others
            last = replace(record.measurements[-1], metrics={"val_loss": 9.0, "top1": 12.0})
            records[i] = replace(record, measurements=(*record.measurements[:-1], last))
    far_off = report_of(replace(done.state, records=tuple(records)))
    [axes] = panels_of(by_objective(far_off, objective), "trials")
    low, high = axes.get_ylim()
    worse_edge = low if objective.direction == "max" else high
    marks = marks_of(axes)
    triangle = "v" if objective.direction == "max" else "^"
    assert marks[triangle]
    assert marks[triangle] == pytest.approx([worse_edge] * len(marks[triangle]))
    assert marks["x"] == pytest.approx([worse_edge])  # it diverged
    assert all(low < height < high for height in marks["o"])
    assert axes.get_ylabel() == f"{objective.title} of the full run"


@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_learning_curves_use_the_height_of_their_axis(done, objective):
    report = by_objective(done, objective)
    [axes] = panels_of(report, "learning_curves")
    low, high = axes.get_ylim()
    values = [value for curve in compose(report).learning_curves for value in curve.ys[2:]]
    assert low < min(values) < max(values) < high
    assert high - low < 1.3 * (max(values) - min(values))
    assert low < report.recommendation.target < high
    assert axes.get_ylabel() == {
        VAL_LOSS: "validation loss", F1: "validation f1",
    }[objective]  # fmt: skip
    assert any(text.get_text().startswith("target 0.") for text in axes.texts)


@pytest.mark.parametrize("objective", [Objective(), VAL_LOSS, F1], ids=str)
def test_a_target_that_no_run_reaches_is_on_the_axis(done, objective):
    report = by_objective(
        done, objective, (lambda top1: top1) if objective.metric == "top1" else None
    )
    target = objective.signed(objective.signed(report.recommendation.best.mean) + 0.01)
    recommendation = replace(report.recommendation, target=target)
    [axes] = panels_of(replace(report, recommendation=recommendation), "learning_curves")
    low, high = axes.get_ylim()
    assert low < target < high


@pytest.mark.parametrize("value", [0.0, 0.25, 1e6, -3.0])
@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_a_value_that_never_changes_is_drawn(done, objective, value):
    report = by_objective(done, objective, lambda _: value)
    with warnings.catch_warnings(action="error"):
        for name in ("learning_curves", "trials"):
            for axes in panels_of(report, name):
                low, high = axes.get_ylim()
                assert low < value < high
        whole(report)


@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_runs_that_all_diverged_are_told_and_not_drawn(config, objective):
    for stage in ("diverged baseline", "everything diverged"):
        report = by_objective(stages(config)[stage], objective)
        assert draw(compose(report)) == ()
    records = compared_records()
    lost = tuple(
        replace(record, state="diverged", measurements=(
            *record.measurements[:2],
            replace(record.measurements[2], metrics={"train_loss": math.nan, "top1": 10.0}),
        ))
        for record in records
    )  # fmt: skip
    state = stages(config)["comparison"].state
    report = by_objective(report_of(replace(state, records=lost), {}), objective)
    if report.recommendation is not None:
        assert {row.value for row in compose(report).contenders} == {"diverged"}
    whole(report)


def test_looks_of_which_all_diverged_have_their_crosses(looked):
    """Beside the full runs of a study of an earlier version, which had both."""
    lost = [record for record in looked.state.records if record.state == "diverged"]
    full = search_records()[:2]
    report = by_objective(report_of(replace(looked.state, records=(*full, *lost))), VAL_LOSS)
    above, below = panels_of(report, "trials")
    assert len(marks_of(above)["o"]) == 2
    assert len(marks_of(below)["x"]) == 1
    assert list(below.get_yticks()) == []


def test_first_looks_are_drawn_together_and_larger_the_more_looks_there_were(looked):
    [axes] = panels_of(looked, "trials")
    assert axes.get_ylabel() == "Top-1 of the first look, %"
    dots = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_ydata())]
    assert len({dot.get_markersize() for dot in dots if dot.get_alpha() != 0}) == 3


def test_importance_is_of_what_looks_are_ranked_by(looked, done):
    [axes] = panels_of(looked, "importance")
    assert axes.get_xlabel() == "share of the variation of validation loss, %"
    [axes] = panels_of(done, "importance")
    assert axes.get_xlabel() == "share of the variation of Top-1, %"


def test_a_long_name_is_cut_in_a_plot_and_whole_in_the_report(done):
    name = "val/weighted_f1_score_macro_average_over_all_classes"
    texts = whole(by_objective(done, Objective(metric=name, direction="max"), lambda top1: top1))
    assert "val/weighted_f1_s…ll_classes\nof the full run" in [
        axes.get_ylabel()
        for axes in panels_of(
            by_objective(done, Objective(metric=name, direction="max"), lambda top1: top1),
            "trials",
        )
    ]
    assert all(
        name in "".join(text.split()) for kind, text in texts.items() if kind != "terminal of 60"
    )


# --- while it runs


def test_plain_lines(config):
    report = by_objective(
        report_of(StudyState(config=config, records=(*baseline_records(), *search_records()))),
        VAL_LOSS,
    )
    config, records = report.state.config, report.state.records
    events = [
        event for record in (records[0], records[12], records[13]) for event in events_of(record)
    ]
    text, _ = shown(config, StudyState(config=config), events)
    assert text.splitlines() == [
        "baseline-0 completed: 12 of 12 epochs, validation loss 0.01706, sgd 0.1, "
        "step(every_epochs=4, factor=0.1)",
        "trial-0009 diverged (the loss of epoch 2 is not finite): 2 of 2 epochs, sgd 2.4, constant"
        .replace("2 of 2", "2 of 12"),
        "trial-0010 failed (out of memory): 0 of 12 epochs, sgd 2.4, constant",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("objective", [VAL_LOSS, F1], ids=str)
def test_display(config, objective, width):
    state = StudyState(config=config, records=(*baseline_records(), *search_records()[:2]))
    report = by_objective(report_of(state), objective)
    config, records = report.state.config, report.state.records
    begun = list(events_of(records[4]))[:4]
    _, text = shown(config, replace(report.state, records=records[:4]), begun, width=width)
    _, _, run, best = text.splitlines()
    reached = objective.text(objective.value(records[4].measurements[2].metrics))
    label = "" if width == 60 else f"{objective.metric} "
    assert f"3/12  {label}{reached}".replace("  ", " ") in run.replace("  ", " ")
    value = objective.text(objective.value(records[3].metrics))
    assert best.startswith(f"best so far {value} (trial-0000")
    if width == 120:
        assert (
            f"baseline {objective.summary([objective.value(r.metrics) for r in records[:3]])}"
            in best
        )
    assert_nothing_of_top1(text)


def test_a_running_study_of_a_metric_that_was_not_measured(config):
    """A user's metric may be missing where an epoch had nothing to count."""
    config = replace(config, objective=F1)
    run = search_records()[0]
    console = Console(file=io.StringIO(), width=80)
    with LiveDisplay(StudyState(config=config), console, device="cpu") as show:
        for event in (
            RunStarted(run.run, 0), EpochEnded(run.run, run.measurements[0]), RunEnded(run),
        ):  # fmt: skip
            show(event)
    assert "nan" not in console.file.getvalue()


# --- a list of studies


def test_studies_have_the_name_of_their_metric(done, looked, config):
    left = by_objective(stages(config)["looks alone"], VAL_LOSS)
    states = [
        by_objective(done, VAL_LOSS).state, by_objective(looked, F1).state, left.state, done.state,
    ]  # fmt: skip
    lines = printed(lambda console: print_studies(states, console), 120).splitlines()[1:]
    assert [re.sub(r"^.*?\d {2,}\d+ +", "", line).strip() for line in lines] == [
        "validation loss 0.01405 ± 0.00051  done",
        "f1 0.9195 ± 0.0030  done",
        "validation loss 0.02189, not confirmed  done",
        "Top-1 91.60 ± 0.36  done",
    ]


# --- a metric that is defined here alone


def test_a_new_metric_needs_nothing_but_its_objective(done):
    report = by_objective(done, ENERGY, of_energy)
    texts = whole(report)
    for name, text in texts.items():
        assert_nothing_of_top1(text)
        if name.startswith("terminal"):
            assert ENERGY.metric in " ".join(text.split())
    assert "<b>" not in texts["html"]
    assert "E_gap &lt;b&gt;|*mev*" in texts["html"]
    assert ENERGY.metric not in re.sub(r"```.*?```", "", texts["markdown"], flags=re.DOTALL)
    assert r"E_gap \<b\>\|\*mev\*" in texts["markdown"]
    rows = [line for line in texts["markdown"].splitlines() if line.startswith("|")]
    for table in re.findall(r"(?:^\|.*\n)+", texts["markdown"], flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    assert rows
    assert report.recommendation.best.name == "trial 1"
    assert compose(report).facts[0][:2] == ("E_gap <b>|*mev*", "-1,832 ± 7.2")
    assert compose(report).facts[2][:2] == ("To baseline", "-40.0")
    [axes] = panels_of(report, "trials")
    assert "x" in marks_of(axes)
    low, high = axes.get_ylim()
    assert low < -1840 < high < -1300


def test_a_new_metric_while_it_runs_and_in_a_list(done):
    report = by_objective(done, ENERGY, of_energy)
    config, records = report.state.config, report.state.records
    text, rendered = shown(config, StudyState(config=config), events_of(records[0]), width=120)
    assert f"12 of 12 epochs, {ENERGY.metric} -1,793, sgd 0.1" in text
    assert "baseline -1,793" in rendered
    line = printed(lambda console: print_studies([report.state], console), 120)
    assert f"{ENERGY.metric} -1,832 ± 7.2" in line


# --- parameter groups


@pytest.fixture
def grouped(done):
    """Trials that have tried four LRs for the backbone; the head has its fixed share."""
    groups = (
        ParameterGroup(name="backbone", lr_scale=0.5),
        ParameterGroup(name="head", lr_scale=2.0),
        ParameterGroup(name="rest"),
    )
    scales = {-1: (), 0: (("backbone", 0.1),), 1: (("backbone", 0.05),), 2: (("backbone", 0.01),)}
    records = tuple(
        replace(record, run=replace(record.run, recipe=replace(
            record.run.recipe, group_scales=scales.get(record.run.trial, (("backbone", 1.0),)),
        )))
        for record in done.state.records
    )  # fmt: skip
    config = replace(done.state.config, groups=groups)
    return report_of(replace(done.state, config=config, records=records))


def test_group_scales_are_shown(grouped):
    document = compose(grouped)
    assert document.contenders[0].recipe == "sgd 0.35, warmup 0.6 ep, linear, backbone x 0.05"
    settings = dict(document.settings)
    assert settings["Parameter groups, of the peak LR"] == "backbone x 0.5, head x 2, rest x 1"
    assert document.headline.startswith(
        "Train 12 epochs with SGD at a peak learning rate of 0.35 (backbone: 0.05 times that, "
        "head: 2 times that): warm up"
    )
    axes = {axis.label: axis for axis in document.parallel.axes}
    assert [text for _, text in axes["backbone, of peak"].ticks] == ["0.01", "0.1", "1"]
    assert "head, of peak" not in axes  # it was not varied
    for text in whole(grouped).values():
        assert "backbone" in text
    rows = runs_dataframe(grouped.state).set_index("run")
    assert rows.loc["trial-0001", "group_scale_backbone"] == 0.05
    assert "group_scales" not in rows


def test_a_recipe_without_scales_has_those_of_the_task(grouped):
    baseline = grouped.recommendation.baseline
    recommendation = replace(grouped.recommendation, best=baseline, simplest=None, ties=())
    document = compose(replace(grouped, recommendation=recommendation))
    assert "0.1 (backbone: 0.5 times that, head: 2 times that): " in document.schedule
