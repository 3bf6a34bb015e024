"""The files of a report: golden Markdown, plain JSON, one self-contained page, at every stage of a study."""

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lrtune.report.document import compose
from lrtune.report.files import write_report, write_whole
from lrtune.report.html import render_html
from lrtune.report.json import render_json
from lrtune.report.markdown import escape, render_markdown
from lrtune.report.plots import DECAY_COLOURS, SERIES, VARIABLES, draw, draw_range_test
from lrtune.report.range_test import write_range_result
from tests.report.conftest import range_result, stages

GOLDEN = Path(__file__).parent / "golden"
STAGES = (
    "nothing", "range test", "no signal", "baseline", "diverged baseline", "unconfirmed", "no baseline",
    "half confirmed", "running", "plateau", "on the lowest rung", "going up", "left on rungs",
    "worse than the baseline",
)  # fmt: skip
VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects ids, references and what would be fetched."""

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


@pytest.mark.parametrize(("study", "name"), [("done", "markdown"), ("climbed", "markdown-rungs")])
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


def test_json_is_plain_and_complete(done):
    values = json.loads(render_json(compose(done)), parse_constant=pytest.fail)
    assert list(values) == [
        "schema", "command", "environment", "study", "cost", "recommendation", "contenders", "rungs", "left", "runs",
        "range_tests", "importances",
    ]  # fmt: skip
    assert values["schema"] == 2
    assert values["recommendation"]["trial"] == 1
    assert values["recommendation"]["recipe"]["decay"] == {"name": "linear"}
    assert values["contenders"][0]["convergence"]["horizon_epochs"] == 12
    assert len(values["runs"]) == len(done.state.records)
    diverged = next(run for run in values["runs"] if run["state"] == "diverged")
    assert diverged["measurements"][-1]["val_loss"] is None
    assert values["study"]["settings"]["clip_norm"] is None  # infinite: not clipped
    assert values["range_tests"][0]["interval"]["suggestion"] == 0.21


def test_json_of_a_study_on_rungs(climbed):
    values = json.loads(render_json(compose(climbed)), parse_constant=pytest.fail)
    assert (values["study"]["rungs"], values["study"]["reduction_factor"]) == (["c2", "4"], 3)
    assert values["study"]["signal"] == "averaged"
    assert values["rungs"][1] == {"rung": "4", "num_trials": 5, "num_promoted": 1, "num_regardless": 1, "tau": None}
    assert values["left"][3] == {
        "trial": 7, "rung": "c2", "score": 84.85,
        "reason": "place 5 of 12 on rung c2",
    }  # fmt: skip
    cost = values["cost"]
    assert cost["epochs_asked"] == cost["epochs_trained"] + cost["epochs_reused"] + cost["epochs_avoided"]
    assert (cost["epochs_reused"], cost["epochs_again"], cost["num_trials"], cost["num_finished"]) == (3, 4, 12, 2)
    reused = next(run for run in values["runs"] if run["id"] == "trial-0001")["measurements"][3]
    assert (reused["reused"], reused["again_epochs"], reused["averaged_top1"]) == (True, 0, 87.55)


def test_page_is_well_formed_self_contained_and_escaped(done):
    document = compose(done)
    text = render_html(document, draw(document))
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.references) <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "<script" not in text
    assert "@import" not in text
    assert "<b>95 %" not in text
    assert "&lt;b&gt;95 %" in text
    assert "digits-&lt;first&gt;" in text


def test_plots_on_a_page_take_its_colours(done):
    for plot in draw(compose(done)):
        assert not set(re.findall(r"#[0-9a-f]{6}\b", plot.inline_svg)) - {"#000000"}
        assert "<title" in plot.inline_svg
        assert "var(--plot-ink)" in plot.inline_svg
        ET.fromstring(plot.svg)
        assert plot.png.startswith(b"\x89PNG")


def test_colours_are_defined_for_both_themes_and_for_every_decay():
    from lrtune.core.recipe import DECAYS

    css = (Path(render_html.__code__.co_filename).parent / "templates" / "report.css").read_text()
    assert all(css.count(f"--plot-{name}:") == 2 for name in VARIABLES.values())
    assert set(DECAY_COLOURS) == set(DECAYS)
    assert len(set(DECAY_COLOURS.values())) == len(SERIES)


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
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", files["report.html"].read_text(), flags=re.S).lower().split()
    json.loads(files["report.json"].read_text(), parse_constant=pytest.fail)
    linked = set(re.findall(r"\]\((plots/[^)]+)\)", files["report.md"].read_text()))
    assert linked == {name for name in files if name.endswith(".png")}
    assert {path.relative_to(tmp_path / "deep" / "folder").as_posix() for path in tmp_path.rglob("*.*")} == set(files)


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


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1200])
def test_browser_renders_the_page(done, tmp_path, width):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium")
    page = write_report(done, tmp_path)["report.html"]
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--window-size={width},900",        f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip

    def run(*arguments):
        return subprocess.run(
            [chromium, *flags, *arguments, page.as_uri()], capture_output=True, check=True, timeout=120
        )

    dom = run("--dump-dom").stdout.decode()
    assert dom.count("<svg") == 5
    assert "Train 12 epochs with SGD at a peak learning rate of 0.35" in dom
    shot = tmp_path / "shot.png"
    run(f"--screenshot={shot}")
    from matplotlib.image import imread

    pixels = imread(shot)[..., :3]
    assert pixels.shape[1] == width
    assert 0.02 < (pixels.min(axis=2) < 0.7).mean() < 0.5  # neither blank nor a block of colour
