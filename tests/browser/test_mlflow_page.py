"""A sweep on MLflow's page, in a real browser: while it runs, and when it has ended."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import tiny

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")

N_TRIALS = 8
SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search:
  rank: [4, 8, 16]
  learning_rate: {{min: 1e-4, max: 3e-2, log: true}}
  effective_batch_size: 8
  epochs: [40, 60]
start_with:
  - {{rank: 16, alpha: 16, learning_rate: 3e-3, epochs: 60, effective_batch_size: 8}}
  - {{rank: 8, alpha: 8, learning_rate: 1e-3, epochs: 40, effective_batch_size: 8}}
budget: {{trials: {n_trials}}}
register: tiny-adapter
"""
MILLISECONDS = 30_000
"""The page may take on a busy machine."""
expect.set_options(timeout=MILLISECONDS)


@dataclass
class Watched:
    """A sweep that runs, MLflow's UI beside it, and a browser."""

    folder: Path
    process: subprocess.Popen[bytes]
    address: str
    browser: Browser
    pictures: Path
    """Where the pages' pictures go, for people to look at."""

    def open(self, address: str) -> Page:
        page = self.browser.new_page(viewport={"width": 1600, "height": 1300})
        # MLflow's assistant opens itself, once, beside what is to be seen.
        key = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
        page.add_init_script(f"localStorage.setItem('{key}', 'true')")
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: print(error))
        page.goto(address)
        return page

    def picture(self, page: Page, name: str) -> None:
        page.screenshot(path=self.pictures / f"{name}.png")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("browser")
    pictures = Path(os.environ.get("SWEEP_PICTURES", folder / "pictures"))
    pictures.mkdir(exist_ok=True)
    tiny.write_rows(folder / "train.jsonl", 48, seed=2)
    tiny.write_rows(folder / "eval.jsonl", 64, seed=3)
    space = folder / "tiny.yaml"
    base = tiny.make_base(folder / "base")
    space.write_text(SPACE.format(base=base, n_trials=N_TRIALS))
    command = [sys.executable, "-m", "sweep"]
    output = ["--output", str(folder / "sweeps")]
    with (folder / "sweep.log").open("wb") as log, (folder / "ui.log").open("wb") as ui_log:
        sweep = subprocess.Popen(
            [*command, "run", str(space), "--workers", "2", *output], stdout=log, stderr=log
        )
        try:
            wait_for(lambda: (folder / "sweeps/tiny/mlflow.json").exists())
            ui = subprocess.Popen(
                [*command, "ui", "tiny", "--port", str(free_port()), *output],
                stdout=ui_log,
                stderr=ui_log,
            )
            try:
                said = folder / "ui.log"
                wait_for(lambda: "(Ctrl-C stops it)" in said.read_text())
                found = re.search(r"at (http://127\.0\.0\.1:(\d+)/\S+)", said.read_text())
                assert found is not None
                wait_for(lambda: answers(int(found[2])))
                with sync_playwright() as playwright:
                    browser = playwright.chromium.launch(
                        executable_path=BROWSER, args=["--no-sandbox"]
                    )
                    yield Watched(folder, sweep, found[1], browser, pictures)
                    browser.close()
            finally:
                ui.terminate()
                ui.wait()
        finally:
            sweep.terminate()
            sweep.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.2)


@pytest.fixture
def ended(watched: Watched) -> Watched:
    """The same sweep when it has ended."""
    assert watched.process.wait(timeout=300) == 0
    return watched


def column(page: Page, name: str) -> list[str]:
    """The cells of a column of MLflow's table of runs, from the top; empty ones are left out."""
    cells = page.locator(f"[role=gridcell][col-id='{name}']")
    by_row = {
        float(cell.evaluate("cell => cell.closest('[role=row]').getAttribute('row-index')")): text
        for cell in cells.all()
        if (text := cell.inner_text().strip()) not in ("", "-")
    }
    return [by_row[row] for row in sorted(by_row)]


def losses(page: Page) -> list[float]:
    return [float(text) for text in column(page, "metrics.`eval_loss_best`")]


def open_sweep(page: Page) -> None:
    """From the table of runs to the sweep's own."""
    run = page.locator("[role=row]").get_by_role("link", name="tiny", exact=True)
    expect(run).to_be_visible()
    run.click()


def test_while_it_runs_the_page_shows_its_trials_and_says_so(watched: Watched) -> None:
    page = watched.open(watched.address)
    expect(page.get_by_role("link", name=re.compile("^000 r16"))).to_be_visible()
    assert watched.process.poll() is None, "it has ended too early for this test"
    watched.picture(page, "running_table")
    open_sweep(page)
    expect(page.get_by_text(re.compile("Still running|is running")).first).to_be_visible()
    watched.picture(page, "running_sweep")
    page.close()


def test_the_table_has_the_columns_that_matter_and_sorts(ended: Watched) -> None:
    page = ended.open(ended.address)
    expect(page.get_by_role("link", name=re.compile("^000 r16"))).to_be_visible()
    for name in ("outcome", "rank", "learning_rate", "epochs", "effective_batch_size"):
        expect(page.get_by_role("columnheader", name=name).first).to_be_visible()
    ascending = losses(page)
    assert len(ascending) == N_TRIALS
    assert ascending == sorted(ascending)
    ended.picture(page, "table")
    heading = page.locator(".ag-header-cell[col-id='metrics.`eval_loss_best`']")
    heading.get_by_role("columnheader").click()
    page.wait_for_function("location.hash.includes('orderByAsc=false')")
    page.wait_for_timeout(2000)
    assert losses(page) == ascending[::-1]
    page.close()


def test_it_filters_by_outcome(ended: Watched) -> None:
    page = ended.open(ended.address)
    expect(page.get_by_role("link", name=re.compile("^000 r16"))).to_be_visible()
    outcomes = column(page, "tags.`outcome`")
    assert len(outcomes) == N_TRIALS
    wanted = outcomes[0]
    box = page.get_by_placeholder(re.compile("metrics.rmse"))
    box.fill(f'tags.outcome = "{wanted}"')
    box.press("Enter")
    expect(page.get_by_text(f"{outcomes.count(wanted)} matching run")).to_be_visible()
    assert set(column(page, "tags.`outcome`")) == {wanted}
    page.close()


def test_one_chart_has_the_curves_of_all_trials(ended: Watched) -> None:
    page = ended.open(f"{ended.address}&compareRunsMode=CHART")
    page.wait_for_function(
        "n => new Set(document.querySelector('.js-plotly-plot')?.data"
        ".filter(curve => curve.x.length > 0).map(curve => curve.name)).size === n",
        arg=N_TRIALS,
    )
    expect(page.get_by_text("All trials", exact=True)).to_be_visible()
    # In the second, train and eval loss on one axis: twice as many.
    page.wait_for_function(
        "() => { const [one, both] = [...document.querySelectorAll('.js-plotly-plot')]"
        ".map(chart => chart.data.filter(curve => curve.x?.length > 0).length);"
        " return one > 0 && both === 2 * one; }"
    )
    ended.picture(page, "charts")
    page.close()


def test_the_sweeps_own_page_says_who_won_and_shows_the_plots(ended: Watched) -> None:
    page = ended.open(ended.address)
    open_sweep(page)
    expect(page.get_by_text(re.compile("is the winner")).first).to_be_visible()
    page.get_by_text("Show more").first.click()
    plots = page.locator("img[src*='path=plots/']")
    page.wait_for_function(
        "[...document.querySelectorAll(\"img[src*='path=plots/']\")]"
        ".filter(image => image.naturalWidth > 0).length >= 3"
    )
    assert plots.count() >= 3
    expect(page.get_by_text(re.compile(r"train\.jsonl")).first).to_be_visible()
    page.set_viewport_size({"width": 1600, "height": 2000})
    ended.picture(page, "sweep")
    page.close()


def test_the_winners_name_leads_to_its_run_whose_adapter_can_be_downloaded(ended: Watched) -> None:
    sweep = ended.open(ended.address)
    open_sweep(sweep)
    winner = sweep.get_by_role("link", name=re.compile(r"^Trial \d+$")).first
    with sweep.expect_popup() as opened:
        winner.click()
    page, number = opened.value, winner.inner_text().split()[1]
    expect(page.get_by_text(re.compile(f"^{number} r")).first).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("adapter", exact=True).first.click()
    page.get_by_text("adapter_model.safetensors").first.click()
    ended.picture(page, "artifacts")
    with page.expect_download() as download:
        # The button is a picture without a name.
        page.locator("button[data-component-id*='artifactview']").first.click()
    there = ended.folder / "sweeps/tiny/best/adapter/adapter_model.safetensors"
    assert Path(download.value.path()).read_bytes() == there.read_bytes()
    page.close()
    sweep.close()


def test_the_winner_is_a_registered_model_with_the_alias_champion(ended: Watched) -> None:
    page = ended.open(ended.address.partition("#")[0] + "#/models/tiny-adapter/versions/1")
    expect(page.get_by_text("champion").first).to_be_visible()
    expect(page.get_by_text(re.compile("is the winner")).first).to_be_visible()
    ended.picture(page, "registered_model")
    page.close()
