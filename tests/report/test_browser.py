"""The page in a real browser, Debian's chromium: it draws, it fetches nothing, it works by mouse and by keyboard, and
hostile text stays text. Skipped where there is no browser."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report.records import HOSTILE, record, results, run_folder, unprinted

from betastar.report.folders import write_comparison, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with chromedriver here: apt-get install chromium chromium-driver"
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_folder(folder, HOSTILE, {**record(), "name": "hand", "warnings": list(HOSTILE.values())})
    with unprinted():
        return write_report(folder)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with names full of markup, and a difference."""
    folder = tmp_path_factory.mktemp("runs")
    slower = results(lambda beta: 0.5 * beta**0.5, root_seed=0)
    run_folder(folder / "a", HOSTILE, {**record(), "root_seed": 0})
    run_folder(folder / "b", HOSTILE, {**slower, "warnings": list(HOSTILE.values())})
    names = [f"{HOSTILE['script']}={folder / 'a'}".replace("window.hacked = 1", "hacked(1)"), str(folder / "b")]
    with unprinted():
        return write_comparison(names, folder / "comparison.html").page


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = selenium.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


def load(driver: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open the page in this width and colour scheme, and wait until everything is drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(page.as_uri())
    deadline = time.time() + 60
    while driver.execute_script("return document.documentElement.dataset.charts") != "done":
        assert time.time() < deadline, driver.get_log("browser")
        time.sleep(0.1)


def text(driver: Any, place: str) -> str:
    return driver.execute_script(f"return document.querySelector('[data-place=\"{place}\"]').textContent")


@pytest.mark.parametrize("which", ["page", "comparison"])
@pytest.mark.thorough
def test_it_draws_everything_without_an_error_or_a_request(
    driver: Any, which: str, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(which)
    load(driver, page)
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    panels, drawn = driver.execute_script(
        "return ['[data-panel]', '[data-panel] svg'].map(which => document.querySelectorAll(which).length)"
    )
    assert panels == drawn > 20
    marks = (
        "return [...document.querySelectorAll('[data-panel]')].map(p => p.querySelectorAll('.mark-symbol path').length)"
    )
    assert min(driver.execute_script(marks)) > 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("which", ["page", "comparison"])
@pytest.mark.thorough
def test_it_fits_and_is_accessible(
    driver: Any, which: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    load(driver, request.getfixturevalue(which), width, scheme)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    wide = "return [...document.querySelectorAll('[data-panel]')].filter(p => p.scrollWidth > p.clientWidth + 1).length"
    assert driver.execute_script(wide) == 0
    levels = driver.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    driver.execute_script((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    # Charts are images with a name to it; their thousands of marks would take a minute.
    charts = "return [...document.querySelectorAll('.chart svg')].map(s => [s.getAttribute('role'), s.ariaLabel])"
    assert all(role == "img" and name for role, name in driver.execute_script(charts))
    driver.set_script_timeout(120)
    found = driver.execute_async_script("axe.run({exclude: ['.chart']}).then(arguments[arguments.length - 1])")
    faults = [(v["id"], [n["html"][:120] for n in v["nodes"]][:3]) for v in found["violations"]]
    assert faults == []
    assert "color-contrast" in [rule["id"] for rule in found["passes"]]


def test_a_click_on_a_beta_filters_every_chart(driver: Any, page: Path) -> None:
    load(driver, page)
    faint = (
        "return [...document.querySelectorAll('[data-panel]')].filter("
        "p => p.querySelector('.mark-line path[opacity=\"0.04\"]')).length"
    )
    assert driver.execute_script(faint) == 0
    button = driver.find_element("css selector", '.legend button[data-beta="1"]')
    button.click()
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script(faint) > 5
    pressed = driver.execute_script(
        "return [...document.querySelectorAll('.legend button')].map(b => [b.dataset.beta, b.ariaPressed])"
    )
    assert {beta for beta, on in pressed if on == "true"} == {"1"}
    button.click()
    driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert driver.execute_script(faint) == 0


def test_every_run_of_a_comparison_has_its_own_responses(driver: Any, comparison: Path) -> None:
    load(driver, comparison)
    roots = driver.find_elements("css selector", ".browser[data-browser]")
    assert [root.get_attribute("data-browser") for root in roots] == ["0", "1"]
    assert all(root.find_element("css selector", "[data-place=after]").text for root in roots)
    assert "<script>hacked(1)" in driver.find_element("css selector", "h1").text
    button = driver.find_element("css selector", '.legend button[data-beta="1"]')
    button.click()
    pressed = driver.execute_script(
        "return new Set([...document.querySelectorAll('.legend button')].filter("
        "b => b.ariaPressed === 'true').map(b => b.dataset.beta)).size"
    )
    assert pressed == 1  # in every legend of the page


def test_pointing_at_a_mark_shows_its_values(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    load(driver, page)
    mark = driver.find_element("css selector", "[data-panel] .mark-symbol path")
    ActionChains(driver).move_to_element(mark).perform()
    driver.execute_async_script("setTimeout(arguments[0], 200)")
    shown = driver.find_element("css selector", "#vg-tooltip-element.visible").text
    assert "step" in shown
    assert "seeds" in shown


def test_responses_are_browsed_by_mouse(driver: Any, page: Path) -> None:
    from selenium.webdriver.support.ui import Select

    load(driver, page)
    # The first one shown went from right to wrong.
    assert "strictright" in text(driver, "facts-before")
    assert "strictwrong" in text(driver, "facts-after")
    seen = set()
    for number in range(len(HOSTILE)):
        Select(driver.find_element("css selector", '[data-choice="problem"]')).select_by_index(number)
        seen.add(text(driver, "after"))
        assert text(driver, "before") == "2 + 2 = 4 . #### 4"
    assert len(seen) == len(HOSTILE)
    Select(driver.find_element("css selector", '[data-choice="problem"]')).select_by_index(0)
    marked = driver.execute_script("return [...document.querySelectorAll('ins')].map(e => e.textContent)")
    assert marked == ["5", "<script>window.hacked", "=", "1</script>"]
    gone = driver.execute_script("return [...document.querySelectorAll('del')].map(e => e.textContent)")
    assert gone == ["4", "####", "4"]
    driver.find_element("css selector", "[data-action=hack]").click()
    assert "strictwrong" in text(driver, "facts-after")


def test_responses_are_browsed_by_keyboard(driver: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    load(driver, page)
    driver.execute_script("document.querySelector('[data-choice=variant]').focus()")
    visited = []
    for _ in range(6):
        active = driver.switch_to.active_element
        visited.append(active.get_attribute("data-choice") or active.get_attribute("data-action"))
        active.send_keys(Keys.TAB)
    assert visited == ["variant", "beta", "seed", "problem", "step", "hack"]
    step = driver.find_element("css selector", "[data-choice=step]")
    step.send_keys(Keys.HOME)
    assert text(driver, "step-title") == "0"
    assert text(driver, "status") == "The same words as at t = 0."
    step.send_keys(Keys.ARROW_RIGHT)
    assert text(driver, "step-title") == "2"
    problem = driver.find_element("css selector", "[data-choice=problem]")
    before = text(driver, "question")
    problem.send_keys(Keys.ARROW_DOWN)
    assert text(driver, "question") != before


@pytest.mark.thorough
def test_hostile_text_is_shown_and_does_nothing(driver: Any, page: Path) -> None:
    load(driver, page)
    driver.execute_script("document.querySelector('[data-choice=step]').value = 2")
    for number, name in enumerate(HOSTILE):
        driver.execute_script(
            "const s = document.querySelector('[data-choice=problem]'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            str(number),
        )
        shown = text(driver, "after")
        assert shown.startswith("2 + 2 = 5 . "), name
        if name in ("script", "closing", "comment", "template"):
            assert shown == f"2 + 2 = 5 . {HOSTILE[name]}"
    assert driver.execute_script("return window.hacked") is None
    assert driver.execute_script("return document.querySelectorAll('.text *:not(ins):not(del)').length") == 0
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0
    assert driver.get_log("browser") == []
