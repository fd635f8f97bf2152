"""The report in a real browser: silent, quick, accessible, usable by keyboard and on a phone.

Two pages: the one that `make demo` leaves (CI runs it first), and that of a corpus whose annotations are
hostile.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from hostile_corpus import build_hostile_corpus
from playwright.sync_api import Browser
from visiting import Visit

from infra.storage import open_storage
from jobs.reporting import PAGE
from pipelines.commit import load_manifest
from pipelines.report.page import gather_report, render_page

DEMO = Path(__file__).resolve().parents[2] / "onetoken-demo/corpus"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1200, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 900}},
    "phone": {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}, "has_touch": True},
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"
LOAD_MS = "performance.getEntriesByType('navigation')[0].loadEventEnd"
WIDTH_PX = "document.documentElement.scrollWidth"
MAX_LOAD_MS = 1000
NUM_LOADS = 5


def write_report(corpus: Path, file: Path) -> Path:
    storage = open_storage(corpus)
    file.write_bytes(render_page(gather_report(storage, load_manifest(storage))))
    return file


@pytest.fixture(scope="session")
def hostile_page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("browser"))
    return write_report(build_hostile_corpus(folder), folder / "report.html")


@pytest.fixture(scope="session")
def demo_page(browser: Browser) -> Path:
    page = DEMO / PAGE
    if not page.exists():
        pytest.skip(f"no page at {page}; `make demo` makes one")
    return page


@pytest.fixture(params=[*(("hostile_page", look) for look in LOOKS), ("demo_page", "phone")], ids="-".join)
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    name, look = request.param
    context = browser.new_context(**LOOKS[look])
    yield Visit(context.new_page(), request.getfixturevalue(name))
    context.close()


def test_the_page_is_silent_and_asks_nobody(visit: Visit):
    visit.page.evaluate(OPEN_ALL)
    assert visit.complaints == []
    assert visit.outside == []
    assert visit.page.title().startswith("Corpus ")


def test_the_page_is_accessible(visit: Visit):
    visit.page.evaluate(OPEN_ALL)
    found = Axe().run(visit.page, options={"runOnly": {"type": "tag", "values": RULES}}).response
    assert len(found["passes"]) > 15
    assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found["violations"]] == []


def test_the_page_fits_its_window(visit: Visit):
    visit.page.evaluate(OPEN_ALL)
    size = visit.page.viewport_size
    assert size is not None
    assert visit.page.evaluate(WIDTH_PX) <= size["width"]


def test_everything_is_reached_by_keyboard(browser: Browser, hostile_page: Path):
    page = Visit(browser.new_page(), hostile_page).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached: set[str] = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        name = str(page.evaluate("document.activeElement.tagName"))
        if name == "BODY":
            break
        if name == "SUMMARY" and not page.evaluate("document.activeElement.parentElement.open"):
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open")
        reached.add(str(page.evaluate("document.activeElement.textContent.trim()")))
    num_closed = page.locator("details:not([open])").count()
    assert num_closed == 0
    assert {"Sources", "Rejects", "Items"} <= reached
    page.close()


def test_a_hostile_page_runs_nothing(browser: Browser, hostile_page: Path):
    page = Visit(browser.new_page(), hostile_page).page
    page.evaluate(OPEN_ALL)
    page.wait_for_timeout(200)
    assert page.title() == "Corpus hostile"
    assert page.locator("script").count() == 0
    page.close()


def test_the_page_of_the_demo_loads_within_a_second(browser: Browser, demo_page: Path):
    """By the browser's clock, from a fresh start; the least of a few, for others use the machine too."""
    times_ms: list[float] = []
    while len(times_ms) < NUM_LOADS and not any(0 < one < MAX_LOAD_MS for one in times_ms):
        context = browser.new_context()
        page = Visit(context.new_page(), demo_page).page
        page.wait_for_function(f"{LOAD_MS} > 0")
        times_ms.append(float(page.evaluate(LOAD_MS)))
        context.close()
    assert min(times_ms) < MAX_LOAD_MS


def test_the_page_of_the_demo_shows_the_planted_rejects_by_code(browser: Browser, demo_page: Path):
    planted = json.loads((DEMO.parent / "data/planted.json").read_bytes())
    page = Visit(browser.new_page(), demo_page).page
    page.evaluate(OPEN_ALL)
    shown = " ".join(page.locator("body").inner_text().split())
    told = [
        f"{count} {code} of {source}" for source, codes in planted.items() for code, count in codes.items()
    ]
    page.close()
    assert len(told) >= 10
    assert [one for one in told if one not in shown] == []
