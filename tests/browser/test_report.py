"""report.html in a real browser: light, dark, and as wide as a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sweep.report.page import write_report
from sweep.results.reading import read_sweep
from sweep.storage.patient import storage_url
from tests.sweep.report.test_page import fill, new_study

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")

MILLISECONDS = 120_000
"""The page may take on a busy machine."""
LOOKS = {"light": ("light", 1100), "dark": ("dark", 1100), "phone": ("light", 390)}
DIM = {"light": "rgb(92, 100, 112)", "dark": "rgb(154, 163, 175)"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "tiny"
    folder.mkdir()
    fill(new_study(storage_url(folder), "tiny"), 30)
    return write_report(read_sweep(folder))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, report: Path, look: str) -> Page:
    scheme: Any
    scheme, width = LOOKS[look]
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(MILLISECONDS)
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(report.as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.chart')].every(chart => chart.querySelector('.main-svg'))"
    )
    return page


@pytest.mark.parametrize("look", LOOKS)
def test_it_is_drawn_whole_and_can_be_read(browser: Browser, report: Path, look: str) -> None:
    page, (scheme, width) = opened(browser, report, look), LOOKS[look]
    pictures = Path(os.environ.get("SWEEP_PICTURES", report.parent))
    page.screenshot(path=pictures / f"report_{look}.png", full_page=True, timeout=MILLISECONDS)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.locator("figcaption").first).to_contain_text("winner")
    axis = "getComputedStyle(document.querySelector('.parcoords .axis .domain')).stroke"
    assert page.evaluate(axis) == DIM[scheme]
    hint = "getComputedStyle(document.querySelector('.wide:has(.chart)'), '::before').content"
    assert ("scrolls" in page.evaluate(hint)) == (look == "phone")
    page.close()
