"""The page in a real browser: no request leaves it, its policy refuses nothing of its own, and everybody can read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from harness.journal import Run
from harness.reports.page import render_page
from harness.suites.meta.reports import invented
from harness.suites.meta.reports.test_page import HOSTILE, hostile_run
from harness.types import Status

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium")

PATIENCE_MS = 240_000
"""A busy machine is no fault of the page."""

WIDE, PHONE = (1280, 900), (390, 844)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
Scheme = Literal["light", "dark"]


@dataclass
class Opened:
    """A page that was opened from disk with the network off, and what it did."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser: Any, file: Path, *, size: tuple[int, int] = WIDE, scheme: Scheme = "light", script: bool = True) -> Opened:
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=script, offline=True
    )
    context.set_default_timeout(PATIENCE_MS)
    seen = Opened(context.new_page())
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("dialog", lambda dialog: (seen.complaints.append(dialog.message), dialog.dismiss()))
    seen.page.goto(file.as_uri(), wait_until="load")
    return seen


@pytest.fixture(scope="module")
def run() -> Run:
    return invented.run()


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render_page(run), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_requested_and_nothing_refused(browser: Any, file: Path, scheme: Scheme) -> None:
    seen = opened(browser, file, scheme=scheme)
    assert [url for url in seen.requests if not url.startswith("data:image/")] == [file.as_uri()]
    assert seen.complaints == []


def test_the_policy_is_in_force(browser: Any, file: Path) -> None:
    seen = opened(browser, file)
    fetched = "fetch('https://example.org/').then(() => 'fetched', () => 'refused')"
    assert seen.page.evaluate(fetched) == "refused"
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)


@pytest.fixture(scope="module")
def short_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that the default one has, of fewer models: axe looks at every element several times."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render_page(invented.run(("d2_maskrcnn_tiny", "tv_maskrcnn_tiny", "tv_retinanet_tiny"))), encoding="utf-8")
    return path


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light")])
def test_axe_finds_no_barrier(browser: Any, short_file: Path, size: tuple[int, int], scheme: Scheme) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    seen = opened(browser, short_file, size=size, scheme=scheme)
    seen.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = axe.Axe().run(seen.page, options={"runOnly": RULES})
    told = [f"{v['id']}: {node['html'][:160]}" for v in found.response["violations"] for node in v["nodes"][:3]]
    assert told == []
    assert len(found.response["passes"]) > 20


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_page_itself_never_scrolls_sideways(browser: Any, file: Path, size: tuple[int, int]) -> None:
    page = opened(browser, file, size=size).page
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_reason_of_pages_is_begun_at_the_head_and_told_in_full_below(
    browser: Any, run: Run, tmp_path: Path, size: tuple[int, int]
) -> None:
    pages = "It raised https://example.org/" + "an_address_without_an_end/" * 40 + " and " + "more words " * 200 + "to the last."
    told = tuple(replace(record, reason=pages) if record.status is Status.ERRORED else record for record in run.records)
    file = tmp_path / "page.html"
    file.write_text(render_page(replace(run, records=told)), encoding="utf-8")
    page = opened(browser, file, size=size).page
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    widest = "Math.max(...[...document.querySelectorAll('#verdict p')].map(part => part.getBoundingClientRect().right))"
    assert page.evaluate(widest) <= size[0]
    assert "to the last" not in page.locator("#verdict").inner_text()
    assert "to the last" in page.locator(".finding.errored").first.inner_text()


def test_without_a_script_everything_is_there_and_links_open_what_they_lead_to(browser: Any, file: Path, run: Run) -> None:
    page = opened(browser, file, script=False).page
    assert page.locator("h1").inner_text().startswith("Of 408 verdicts")
    assert page.locator(".matrix td a").count() == len(run.header.planned)
    assert page.locator(".sentences li").count() == 3
    page.goto(f"{file.as_uri()}#v0-0")
    assert page.locator("#v0-0").is_visible()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_square_leads_to_its_detail(browser: Any, file: Path, script: bool) -> None:
    page = opened(browser, file, script=script).page
    page.locator(".matrix td a.failed").first.click()
    assert page.locator("article.finding.failed").first.is_visible()
    target = page.locator(".matrix td a.passed").first
    target.click()
    detail = page.locator(target.get_attribute("href"))
    assert detail.is_visible()
    assert detail.bounding_box()["y"] < WIDE[1]


def test_the_head_of_the_matrix_stays_in_sight(browser: Any, file: Path) -> None:
    page = opened(browser, file).page
    page.locator(".matrix tbody tr").last.scroll_into_view_if_needed()
    page.evaluate("scrollBy(0, 300)")
    row = page.locator(".matrix tbody tr").last.bounding_box()
    head = page.locator(".matrix thead tr.checks th").nth(1).bounding_box()
    assert 0 <= head["y"] <= 60
    assert row["y"] > head["y"]


def test_light_dark_and_print_differ_as_they_should(browser: Any, file: Path) -> None:
    look = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('.figures .stroke-series0')).stroke"
    light, dark = (opened(browser, file, scheme=scheme).page for scheme in ("light", "dark"))
    assert light.evaluate(look) != dark.evaluate(look)
    assert light.evaluate(line) != dark.evaluate(line)
    dark.emulate_media(media="print")
    assert dark.evaluate(look) == "rgb(255, 255, 255)"
    assert dark.locator(".toc").is_hidden()
    assert dark.locator("#findings").is_visible()
    assert dark.get_by_text("An IR keeps no Python object").first.is_visible()


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_names_do_nothing_in_a_browser(browser: Any, tmp_path: Path, words: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(render_page(hostile_run(words)), encoding="utf-8")
    seen = opened(browser, file)
    assert [url for url in seen.requests if not url.startswith("data:")] == [file.as_uri()]
    assert seen.complaints == []
    assert seen.page.locator("script").count() == 1
    assert seen.page.locator("h1").is_visible()
