"""The files of a report: golden Markdown, plain JSON and one page, at every stage of a study."""

import io
import json
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from matplotlib import rc_context

import lrtune.reporting.html
from lrtune.core.printing import printable
from lrtune.core.recipe import ParameterGroup
from lrtune.core.study import StudyState
from lrtune.reporting.console import PlainConsole
from lrtune.reporting.document import compose
from lrtune.reporting.files import write_report, write_whole
from lrtune.reporting.html import render_html
from lrtune.reporting.json import render_json
from lrtune.reporting.markdown import escape, fenced, render_markdown
from lrtune.reporting.plots import decay_colours, draw, draw_range_test
from lrtune.reporting.range_test import write_range_result
from lrtune.reporting.sheet import SERIES, VARIABLES, WIDTHS
from lrtune.reporting.terminal import print_recommendation
from tests.reporting.conftest import range_result, report_of, stages

GOLDEN = Path(__file__).parent / "golden"
REPORTS = Path(__file__).parents[2] / "reports"
CSS = Path(lrtune.reporting.html.__file__).parent / "templates" / "report.css"
SCHEMA = json.loads(
    Path(lrtune.reporting.html.__file__).with_name("report.schema.json").read_text()
)
STAGES = (
    "nothing", "range test", "no signal", "baseline", "diverged baseline",
    "everything diverged", "unconfirmed", "no baseline", "half confirmed", "running", "plateau",
    "in the first looks", "in the second looks", "racing", "looks alone",
    "looks alone for the baseline", "quick", "no proof", "worse than the baseline", "comparison",
    "comparison of one so far", "comparison of three so far", "comparison with a loss",
)  # fmt: skip
VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects ids, references and what would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.fetched, self.headings = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in VOID else [tag]
        self._read(tag, dict(attrs))

    def handle_startendtag(self, tag, attrs):
        self._read(tag, dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def _read(self, tag, attrs):
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []
        self.references += attrs.get("aria-labelledby", "").split()
        for value in (attrs.get("src"), attrs.get("href"), attrs.get("xlink:href")):
            (self.references if value and value.startswith("#") else self.fetched).extend(
                [value.removeprefix("#")] if value else []
            )


@pytest.mark.parametrize(
    ("study", "name"),
    [("done", "markdown"), ("looked", "markdown-looks"), ("comparison", "markdown-comparison")],
)
def test_markdown_is_the_golden_file(request, study, name):
    document = compose(request.getfixturevalue(study))
    text = render_markdown(document, draw(document))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b\nc", r"a\|b c"),
        ("*x* <b> `y` $z$", r"\*x\* \<b\> \`y\` \$z\$"),
        ("[a](javascript:b)", r"[a\](javascript:b)"),
        ("every_epochs _x_", r"every_epochs \_x\_"),
        ("+0.5 [+0.2, +0.8]", "+0.5 [+0.2, +0.8]"),
    ],
)
def test_markdown_is_escaped(text, escaped):
    assert escape(text) == escaped


@pytest.mark.parametrize(
    ("code", "block"),
    [
        ("", ""),
        ("a\n\n\nb\n", "```sh\na\n\n\nb\n```"),
        ("echo '```'", "````sh\necho '```'\n````"),
        ("`````\n````", "``````sh\n`````\n````\n``````"),
        ("echo \x1b\u202e\udcff", "```sh\necho \\x1b\\u202e\\udcff\n```"),
    ],
)
def test_a_block_of_code_ends_where_the_code_ends(code, block):
    assert fenced(code, "sh") == block


def test_empty_lines_within_a_command_stay(done):
    command = "lrtune search -- python -c 'a\n\n\n```\n\n\n\n'"
    state = replace(done.state, config=replace(done.state.config, command=command))
    assert f"\n````\n{command}\n````\n" in render_markdown(compose(report_of(state)), ())


HIDDEN = "x\udce9\x1b[31m\u202e\x00`y"


def test_no_hidden_character_reaches_a_file_or_a_terminal(done, tmp_path):
    group = ParameterGroup(name=HIDDEN, lr_scale=0.5)
    config = replace(
        done.state.config,
        task={"file": HIDDEN}, space_name=HIDDEN, command=HIDDEN, data_facts={HIDDEN: HIDDEN},
        groups=(group, ParameterGroup(name="head")), environment={"CPU": HIDDEN},
    )  # fmt: skip
    records = tuple(replace(record, reason=HIDDEN) for record in done.state.records)
    report = report_of(replace(done.state, config=config, records=records), {HIDDEN: 0.7, "b": 0.3})
    files = write_report(report, tmp_path)
    texts = {
        name: path.read_text(encoding="utf-8")
        for name, path in files.items()
        if path.suffix != ".png"
    }
    for name, text in texts.items():
        assert printable(text) == text, name
        if name.endswith(".svg"):
            ET.fromstring(text)
        else:
            assert r"x\udce9\x1b" in text.replace(r"\\", "\\"), name
    json.loads(texts["report.json"])
    assert r"x\udce9\x1b[31m\u202e\x00`y" in texts["plots/importance.svg"]
    terminal = PlainConsole(file=io.StringIO(), force_terminal=True, width=80)
    print_recommendation(report, terminal)
    output = terminal.file.getvalue()
    assert r"x\udce9\x1b[31m\u202e\x00`y" in output
    assert "\x1b[1m" in output  # its own colours are no text
    assert "\x1b[31m" not in output


def test_json_is_plain_and_complete(done):
    values = json.loads(render_json(compose(done)), parse_constant=pytest.fail)
    assert list(values) == [
        "schema", "command", "environment", "study", "cost", "recommendation", "contenders",
        "looks", "left", "runs", "range_tests", "importances",
    ]  # fmt: skip
    assert values["schema"] == 4
    assert values["recommendation"]["trial"] == 1
    assert values["recommendation"]["recipe"]["decay"] == {"name": "linear"}
    assert values["contenders"][0]["convergence"]["horizon_epochs"] == 12
    assert len(values["runs"]) == len(done.state.records)
    diverged = next(run for run in values["runs"] if run["state"] == "diverged")
    assert diverged["measurements"][-1]["metrics"]["val_loss"] is None
    assert values["study"]["settings"]["clip_norm"] is None  # infinite: not clipped
    assert values["range_tests"][0]["interval"]["suggestion"] == 0.21


def test_json_of_a_study_with_looks(looked):
    values = json.loads(render_json(compose(looked)), parse_constant=pytest.fail)
    study = values["study"]
    assert study["looks"] == [
        {"epochs": 2, "seed": 0, "one_in": 1},
        {"epochs": 4, "seed": 0, "one_in": 6},
        {"epochs": 4, "seed": 10_000, "one_in": 12},
    ]
    assert [study[name] for name in ("rank_by", "lag", "confirm", "matters")] == [
        "val_loss:min", 8, "full", None,
    ]  # fmt: skip
    assert [(row["num_trials"], row["tau"]) for row in values["looks"]] == [
        (18, pytest.approx(1 / 3)), (3, None), (2, None),
    ]  # fmt: skip
    assert values["looks"][0]["look"] == study["looks"][0]
    assert values["looks"][1]["agreement"] == pytest.approx(0.8165, abs=1e-4)
    assert values["left"][0] == {
        "trial": 6, "look": 1, "value": pytest.approx(0.6531, abs=1e-4),
        "reason": "place 4 of 18 in look 1",
    }  # fmt: skip
    assert "rungs" not in values
    cost = values["cost"]
    assert (
        cost["epochs_asked"]
        == cost["epochs_trained"] + cost["epochs_reused"] + cost["epochs_avoided"]
    )
    assert (
        cost["epochs_reused"],
        cost["epochs_again"],
        cost["num_trials"],
        cost["num_finished"],
    ) == (1, 1, 18, 3)
    runs = {run["id"]: run for run in values["runs"]}
    first, second, *_ = runs["trial-0002-look-2"]["measurements"]
    assert (first["reused"], second["again_epochs"]) == (True, 1)
    assert runs["trial-0002-look-3"]["kind"] == "look"


def test_a_recipe_of_a_command_with_placeholders_is_of_the_schema(looked):
    recipes = (replace(r.run.recipe, command=(("size", 64),)) for r in looked.state.records)
    records = tuple(
        replace(record, run=replace(record.run, recipe=recipe))
        for record, recipe in zip(looked.state.records, recipes, strict=True)
    )
    values = json.loads(render_json(compose(report_of(replace(looked.state, records=records)))))
    assert values["runs"][1]["recipe"]["command"] == {"size": 64}
    jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize("study", ["done", "looked", "comparison"])
def test_page_is_well_formed_and_self_contained(request, study):
    document = compose(request.getfixturevalue(study))
    text = render_html(document, draw(document))
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    levels = [int(heading[1]) for heading in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert '<html lang="en">' in text
    assert text.count('role="region"') == text.count('class="scroll')
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "<script" not in text
    assert "@import" not in text


@pytest.mark.parametrize(
    ("study", "raw", "escaped"),
    [
        ("done", "<b>95 %", "&lt;b&gt;95 %"),
        ("done", "digits-<first>", "digits-&lt;first&gt;"),
        ("comparison", "adamw-<cosine>", "adamw-&lt;cosine&gt;"),
    ],
)
def test_page_is_escaped(request, study, raw, escaped):
    document = compose(request.getfixturevalue(study))
    text = render_html(document, draw(document))
    assert raw not in text
    assert escaped in text


@pytest.mark.parametrize("name", [r"sgd $\frac$", "_mine"])
def test_any_name_can_be_drawn(comparison, name):
    config = comparison.state.config
    recipes = tuple(replace(named, name=f"{name} {i}") for i, named in enumerate(config.recipes))
    state = replace(comparison.state, config=replace(config, recipes=recipes))
    lr_curve, learning_curves = draw(compose(report_of(state, {})))
    assert all(
        f">{name} {i}<" in plot.svg
        for plot in (lr_curve, learning_curves)
        for i in range(len(recipes))
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("study", ["done", "comparison"])
def test_plots_on_a_page_take_its_colours_and_speak(request, study, width):
    for plot in draw(compose(request.getfixturevalue(study))):
        svg = plot.inline_svg(width)
        assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) - {"#000000"}
        assert "var(--plot-ink)" in svg
        ET.fromstring(re.sub(r"xlink:href", "href", svg))
        assert re.search(
            r'<svg viewBox="[^"]+" class="\w+" role="img" aria-labelledby="[^"]+"><title[^>]*>\w',
            svg,
        )
        assert svg.count('class="says"><title>') == svg.count('class="says"') > 0


def test_plots_are_the_same_whatever_the_users_matplotlibrc(done):
    before = [plot.svg for plot in draw(compose(done))]
    with rc_context(
        {
            "lines.marker": "x",
            "figure.autolayout": True,
            "axes.xmargin": 0.3,
            "axes.formatter.limits": (0, 0),
        }
    ):
        assert [plot.svg for plot in draw(compose(done))] == before


def test_a_target_below_the_curves_leaves_them_their_room(done):
    found = replace(done.recommendation, target=2.0)
    plots = draw(compose(replace(done, recommendation=found)))
    assert not [plot.name for plot in plots if ">target 2.00 %<" in plot.svg]


def test_plots_in_files(done):
    for plot in draw(compose(done)):
        ET.fromstring(plot.svg)
        assert plot.png.startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("done", "trial 1: LR 0.338 after 1 epoch"),
        ("done", "baseline, epoch 12: 89.60 % [89.54, 89.66]"),
        ("done", "trial 7, completed: 91.22 %; sgd 0.15, linear"),
        ("done", "trial 9: diverged; sgd 2.4, constant"),
        ("done", "trial 8, pruned: 70.25 %; sgd 0.004, cosine"),
        ("done", "peak_lr: 61.0 %"),
        ("done", "sweep with seed 2, stopped by its loss"),
        ("looked", "trial 2: place 1, validation loss 0.3882 in 3 looks; sgd 0.35"),
        ("looked", "trial 3, completed: 79.74 %; sgd 0.28"),
        ("comparison", "adamw-&lt;cosine&gt;: LR 0.001 after 1 epoch"),
    ],
)
def test_marks_of_a_page_say_what_they_are(request, study, said):
    document = compose(request.getfixturevalue(study))
    assert f"<title>{said}" in render_html(document, draw(document))


def test_colours_are_defined_for_both_themes_and_for_every_decay():
    from lrtune.core.decays import DECAYS

    css = CSS.read_text()
    assert all(css.count(f"--plot-{name}:") == 2 for name in VARIABLES.values())
    assert list(decay_colours()) == list(DECAYS)
    assert len(set(decay_colours().values())) == len(DECAYS) < len(SERIES)


def luminance(colour):
    """Relative, of `#rrggbb` or `#rgb` (WCAG 2.2)."""
    digits = colour.removeprefix("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    channels = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast():
    assert contrast("#000", "#ffffff") == 21
    assert contrast("#777777", "#fff") == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_stand_out_from_the_paper(theme):
    light, dark, paper = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", CSS.read_text(), re.DOTALL)
    )
    colours = light | {"light": {}, "dark": dark, "print": paper}[theme]
    for text in ("ink", "muted", "accent", "plot-ink", "plot-muted"):
        for ground in ("paper", "shade"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for i in range(len(SERIES)):  # of graphics WCAG asks for 3
        assert contrast(colours[f"plot-{i}"], colours["paper"]) >= 3, i


def described(schema):
    """The places in a schema that say nothing of themselves."""
    if isinstance(schema, dict):
        if ("type" in schema or "$ref" in schema) and not isinstance(schema.get("type"), dict):
            yield "description" in schema or "$ref" in schema
        for part in schema.values():
            yield from described(part)


def test_schema_describes_every_key():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(described(SCHEMA))


@pytest.mark.parametrize("study", ["done", "looked", "comparison"])
def test_json_is_that_of_the_schema(request, study):
    jsonschema.validate(json.loads(render_json(compose(request.getfixturevalue(study)))), SCHEMA)


@pytest.mark.parametrize(
    "path", sorted(REPORTS.glob("*/report.json")), ids=lambda path: path.parent.name
)
def test_a_committed_report_is_that_of_the_schema(path):
    values = json.loads(path.read_text(), parse_constant=pytest.fail)
    if values["schema"] < SCHEMA["properties"]["schema"]["const"]:
        pytest.skip(f"it was written by schema {values['schema']}")
    jsonschema.validate(values, SCHEMA)


@pytest.mark.slow
def test_the_same_report_gives_the_same_files(done, tmp_path):
    first, second = (write_report(done, tmp_path / name) for name in "ab")
    assert first.keys() == second.keys()
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_report(config, tmp_path, stage):
    reports = stages(config)
    assert set(reports) == set(STAGES)
    files = write_report(reports[stage], tmp_path / "deep" / "folder")
    assert {"report.md", "report.html", "report.json"} <= set(files)
    page = Page(files["report.html"].read_text())
    assert page.open == []
    assert (
        "nan"
        not in re.sub(r"<svg.*?</svg>", "", files["report.html"].read_text(), flags=re.S)
        .lower()
        .split()
    )
    jsonschema.validate(
        json.loads(files["report.json"].read_text(), parse_constant=pytest.fail), SCHEMA
    )
    linked = set(re.findall(r"\]\((plots/[^)]+)\)", files["report.md"].read_text()))
    assert linked == {name for name in files if name.endswith(".png")}
    assert {
        path.relative_to(tmp_path / "deep" / "folder").as_posix() for path in tmp_path.rglob("*.*")
    } == set(files)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write_whole(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.md", "old")]


@pytest.mark.parametrize("signal", [True, False])
def test_range_test_on_its_own(tmp_path, signal):
    files = write_range_result(range_result(signal=signal), tmp_path / "find")
    header, *rows = files["range_test.csv"].read_text().splitlines()
    assert header == "seed,lr,loss"
    assert len(rows) == 3 * 81
    assert (json.loads(files["range_test.json"].read_text())["interval"] is not None) == signal
    assert ("no signal" in draw_range_test(range_result(signal=signal)).description) != signal


@pytest.mark.parametrize("offset", [-2.3, 1000.0])
def test_an_offset_of_the_loss_lifts_the_curves_of_a_range_test_and_no_more(offset):
    def limits(by):
        result = range_result()
        curves = (replace(c, losses=tuple(loss + by for loss in c.losses)) for c in result.curves)
        sheet = draw_range_test(replace(result, curves=tuple(curves))).paint(7.0)
        return sheet.panels[0].get_ylim()

    assert limits(offset) == pytest.approx([limit + offset for limit in limits(0.0)])


@pytest.mark.parametrize("num_curves", [0, 1, 3])
def test_a_range_test_whose_first_losses_were_not_finite_is_drawn(config, num_curves):
    result = range_result(signal=False)
    empty = tuple(
        replace(curve, lrs=(), losses=(), diverged=True) for curve in result.curves[:num_curves]
    )
    empty = replace(result, curves=empty)
    assert draw_range_test(empty).svg.count("SGD: no signal") == 1
    assert draw(compose(report_of(StudyState(config=config, range_results=(empty,)), {}))) == ()
    [plot] = draw(
        compose(
            report_of(StudyState(config=config, range_results=(empty, range_result("adamw"))), {})
        )
    )
    assert "AdamW: 0.012 to 0.94" in plot.svg
