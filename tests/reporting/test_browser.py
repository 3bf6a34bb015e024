"""The page in a real browser: light, dark, on a phone and on paper."""

import io
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

from lrtune.core.recipe import NamedRecipe
from lrtune.core.study import StudyState
from lrtune.reporting.document import compose
from lrtune.reporting.html import render_html
from lrtune.reporting.plots import draw
from tests.reporting.conftest import (
    COMPARED,
    compared_records,
    looked_at,
    report_of,
)

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

DESKTOP, PHONE, A4 = (
    (1280, 800),
    (360, 740),
    (718, 1040),
)  # CSS pixels; of paper what its margins leave
LOOKS = {
    "light": (DESKTOP, "light", "screen"),
    "dark": (DESKTOP, "dark", "screen"),
    "phone": (PHONE, "light", "screen"),
    "dark phone": (PHONE, "dark", "screen"),
    "paper": (A4, "dark", "print"),
}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a report, and fails where the page says something or wants more than its file."""

    @contextmanager
    def open_(report, look="light"):
        document, path = compose(report), tmp_path / "report.html"
        path.write_text(render_html(document, draw(document)))
        page, said, requests = browser.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        show(page, look)
        page.goto(path.as_uri())
        yield page
        assert said == []
        assert requests == [path.as_uri()]
        page.close()

    return open_


def show(page, look):
    (width, height), scheme, media = LOOKS[look]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(media=media, color_scheme=scheme)


@pytest.fixture
def unfinished(looked_config):
    return report_of(looked_at(looked_config, "trial-0002-look-3"), {})


@pytest.fixture
def long_names(comparison_config):
    """What a user may call his recipes."""
    recipes = tuple(
        NamedRecipe(name=f"{named.name}-{'with_a_very_long_name' * 3}", recipe=named.recipe)
        for named, _ in COMPARED
    )
    return report_of(
        StudyState(config=replace(comparison_config, recipes=recipes), records=compared_records()),
        {},
    )


REPORTS = ("done", "looked", "unfinished", "comparison", "long_names")


def pixels(page):
    from matplotlib.image import imread

    return imread(io.BytesIO(page.screenshot(full_page=True)))[..., :3]


@pytest.mark.parametrize("study", REPORTS)
def test_nothing_is_cut_off(request, opened, study):
    with opened(request.getfixturevalue(study)) as page:
        for look in LOOKS:
            show(page, look)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.viewport_size["width"], look
            boxes = "[...document.querySelectorAll('.scroll')]"
            if look == "paper":  # it does not scroll
                assert page.evaluate(
                    f"{boxes}.every(box => box.scrollWidth <= box.clientWidth + 1)"
                )
            else:
                assert page.evaluate(
                    f"{boxes}.every(box => getComputedStyle(box).overflowX === 'auto')"
                )


@pytest.mark.parametrize("study", ["done", "comparison"])
def test_looks_differ_and_none_is_blank(request, opened, study):
    means = {}
    with opened(request.getfixturevalue(study)) as page:
        for look in LOOKS:
            show(page, look)
            shot = pixels(page)
            inked = (abs(shot - shot[2, 2]).max(axis=2) > 0.3).mean()
            assert 0.02 < inked < 0.5, look  # neither empty nor a block of colour
            means[look] = shot.mean()
    assert means["dark"] < 0.3 < 0.8 < means["light"]
    assert means["dark phone"] < 0.3 < 0.8 < means["phone"]
    assert means["paper"] > 0.8


@pytest.mark.parametrize(
    ("look", "width"), [("light", "wide"), ("phone", "narrow"), ("paper", "wide")]
)
def test_plots_fit_the_screen(done, opened, look, width):
    with opened(done, look) as page:
        assert (
            page.locator("figure svg").count()
            == 2 * page.locator(f"figure svg.{width}:visible").count()
            > 0
        )
        sizes = page.locator(f"figure svg.{width} text").evaluate_all(
            "texts => texts.map(text => "
            "[parseFloat(getComputedStyle(text).fontSize), text.getScreenCTM()])"
            ".map(([size, matrix]) => size * Math.hypot(matrix.a, matrix.b))"
        )
        assert min(sizes) >= 8


@pytest.mark.parametrize("look", ["light", "phone"])
def test_first_screen_says_what_to_use_and_how_sure_that_is(done, opened, look):
    with opened(done, look) as page:
        for place in ("h1", ".verdict", ".facts", "header figure svg:visible"):
            box = page.locator(place).first.bounding_box()
            assert box["y"] + box["height"] <= page.viewport_size["height"], place
        said = page.locator("header").inner_text()
        for words in (
            "peak learning rate of 0.35",
            "91.60 ± 0.36",
            "baseline 89.60 ± 0.06",
            "95 % interval",
            "ties with",
        ):
            assert words in said


@pytest.mark.parametrize("look", ["light", "phone"])
def test_marks_answer_the_pointer(done, opened, look):
    with opened(done, look) as page:
        marks = page.locator("header figure svg:visible .says")
        assert marks.count() == 2 * 12
        box = marks.nth(3).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        marks.nth(3).scroll_into_view_if_needed()
        page.mouse.move(x, y)
        hit = page.evaluate(
            "([x, y]) => document.elementFromPoint(x, y).closest('.says')?.firstChild.textContent",
            [x, y],
        )
        assert hit == marks.nth(3).locator("title").text_content()
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.says:hover use')).opacity")
            == "0.35"
        )


def test_wide_tables_can_be_scrolled_by_keyboard(done, opened):
    with opened(done, "phone") as page:
        page.locator(".scroll").first.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")


def test_paper_has_what_the_screen_folds_away(done, opened):
    with opened(done, "paper") as page:
        assert page.get_by_role("cell", name="out of memory").bounding_box()["height"] > 0
