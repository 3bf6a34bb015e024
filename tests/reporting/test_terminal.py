"""Terminal output, as plain text."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from lrtune.reporting.document import compose
from lrtune.reporting.range_test import print_range_result
from lrtune.reporting.terminal import NARROW, print_recommendation, print_studies
from tests.reporting.conftest import range_result, stages

GOLDEN = Path(__file__).parent / "golden"


def printed(show, width):
    console = Console(file=io.StringIO(), width=width)
    show(console)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize(
    ("study", "name", "width"),
    [
        ("done", "terminal-80", 80),
        ("done", "terminal-120", 120),
        ("looked", "terminal-looks-80", 80),
        ("comparison", "terminal-comparison-80", 80),
        ("comparison", "terminal-comparison-120", 120),
    ],
)
def test_recommendation_is_the_golden_file(request, study, name, width):
    report = request.getfixturevalue(study)
    text = printed(
        lambda console: print_recommendation(report, console, Path("reports/digits")), width
    )
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_stage_fits_into_80_columns(config):
    for name, report in stages(config).items():
        text = printed(lambda console, report=report: print_recommendation(report, console), 80)
        assert "…" not in text, name
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("unconfirmed", "Top-1, %: 92.02 (trial 1, one run of the search, not confirmed)"),
        (
            "in the second looks",
            "Validation loss: 0.6276 (trial 3, after 1 look, not confirmed)",
        ),
        ("looks alone", "Validation loss: 0.3882 (trial 2, after 3 looks, not confirmed)"),
    ],
)
def test_the_top1_of_what_is_not_confirmed_is_told(config, stage, said):
    assert (
        said
        in printed(
            lambda console: print_recommendation(stages(config)[stage], console), 80
        ).splitlines()
    )


def test_a_line_that_is_too_short_loses_nothing(done):
    assert "…" not in printed(lambda console: print_recommendation(done, console), 60)


@pytest.mark.parametrize(("width", "num_columns"), [(35, 1), (50, 2), (60, 3), (75, 4), (80, 5)])
def test_a_narrow_terminal_has_fewer_columns_and_breaks_no_number(done, width, num_columns):
    lines = printed(lambda console: print_recommendation(done, console), width).splitlines()
    for row in compose(done).contenders:
        cells = [str(getattr(row, field)) for field in NARROW[:num_columns]]
        expected = f"{row.name} {' '.join(cells)}"
        assert expected in [" ".join(line.lstrip("> =").split()) for line in lines]


def test_studies(config, done):
    states = [done.state, stages(config)["nothing"].state]
    lines = printed(lambda console: print_studies(states, console), 100).splitlines()
    assert lines[1].split() == [
        "digits-<first>", "23", "246", "Top-1", "91.60", "±", "0.36", "done",
    ]  # fmt: skip
    assert lines[2].split()[-2:] == ["–", "stopped"]
    unconfirmed = [stages(config)[stage].state for stage in ("looks alone", "in the second looks")]
    lines = printed(lambda console: print_studies(unconfirmed, console), 100).splitlines()
    assert "  validation loss 0.3882, not confirmed  done" in lines[1]
    assert "  validation loss 0.6276, not confirmed  " in lines[2]
    assert printed(lambda console: print_studies([], console), 80) == "There are no studies yet.\n"


def test_range_test():
    text = printed(
        lambda console: print_range_result(range_result(), Path("out"), console=console), 120
    )
    assert text.startswith(
        "SGD: use a peak LR of 0.21, or search from 0.012 to 0.94. Found by 3 sweeps"
    )
    as_json = printed(
        lambda console: print_range_result(
            range_result(), Path("out"), as_json=True, console=console
        ),
        40,
    )
    assert '"suggestion": 0.21' in as_json
