"""report.html in a real browser: quiet, alone, readable in light and dark on a desk and on a phone.

Where there is no browser these tests are skipped, but never in CI.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from harness.commands.validate.statement_files import write_statement
from harness.reports.html import write_reports
from suites.conftest import REPOSITORY
from suites.meta.builders.made_up_run import HOSTILE, LOST, made_up
from suites.meta.builders.statements import every

SCREENS = {"desk": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
LEGIBLE = 4.5
"""Contrast of text that WCAG 2.2 asks for at level AA: https://www.w3.org/TR/WCAG22/#contrast-minimum"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RUN = "HARNESS_TEST_RUN"
GIVEN = os.environ.get(RUN, "")
"""Folder of a run whose page is tried too."""
INSTALL = "apt-get install chromium chromium-driver, and pip install selenium"

PALE = """
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const opaque = colour => { const n = numbers(colour); return n.length < 4 || n[3] > 0; };
const behind = node => {
  for (let at = node; at; at = at.parentElement)
    if (opaque(getComputedStyle(at).backgroundColor)) return numbers(getComputedStyle(at).backgroundColor);
  return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const said = [...node.childNodes].filter(c => c.nodeType === 3).map(c => c.data).join("").trim();
  if (!said || !node.getClientRects().length || ["STYLE", "SCRIPT"].includes(node.tagName)) continue;
  const style = getComputedStyle(node), front = node.closest("svg") ? style.fill : style.color;
  const [a, b] = [luminance(numbers(front)), luminance(behind(node))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < arguments[0]) found.push(`${said.slice(0, 40)}: ${contrast.toFixed(2)}`);
}
return found;
"""
"""Texts whose contrast with what lies behind them is less than asked for; of pictures too."""
FLAT = """
for (const details of document.querySelectorAll("details")) details.open = true;
return [...document.querySelectorAll("details")].flatMap(details => {
  const inside = [...details.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  const body = details.getBoundingClientRect().height - details.querySelector("summary").getBoundingClientRect().height;
  return body <= 0 || inside.some(r => r.width * r.height <= 0) ? [details.innerText.slice(0, 60)] : [];
});
"""
"""Opens all that can be opened, and tells what of it shows nothing, or a picture without a size."""
INVISIBLE = """
return [...document.querySelectorAll("svg :is(path, use)")].filter(node => {
  const style = getComputedStyle(node), page = getComputedStyle(document.body).backgroundColor;
  return !node.closest("defs") && [style.fill, style.stroke].every(paint => paint === "none" || paint === page);
}).map(node => node.outerHTML.slice(0, 90));
"""
"""Lines and marks of pictures that have no other colour than the page."""


def refuse(why):
    """End a test that needs a browser: as failed in CI, where one must be, else as skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"no browser, but CI should have one: {why} ({INSTALL})")
    pytest.skip(f"{why} ({INSTALL})")


def start():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        refuse(f"{'chromedriver' if program else 'chromium'} is not installed")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        refuse("selenium is not installed")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="module")
def browser():
    driver = start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_reports(folder, made_up(folder))
    return folder / "report.html"


def show(browser, path, *, screen="desk", scheme="light"):
    """Open a page; what was logged before is forgotten."""
    width, height = SCREENS[screen]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())


def requests(browser, path):
    """Addresses other than the page's own that it asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if url != path.as_uri() and not url.startswith("data:")]


def complaints(browser, path):
    """What is wrong with the page that is shown, by check."""
    found = {
        "requests": requests(browser, path),
        "console": [entry["message"] for entry in browser.get_log("browser")],
        "flat": browser.execute_script(FLAT),
        "wide": browser.execute_script(
            "const d = document.documentElement; return d.scrollWidth > d.clientWidth ? [d.scrollWidth] : []"
        ),
        "pale": browser.execute_script(PALE, LEGIBLE),
        "invisible": browser.execute_script(INVISIBLE),
    }
    return {check: told for check, told in found.items() if told}


def colours(browser, path):
    """Background and text of the page, by scheme."""
    found = []
    for scheme in SCHEMES:
        show(browser, path, scheme=scheme)
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        found.append(browser.execute_script(script))
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("screen", SCREENS)
def test_page_is_quiet_alone_and_readable(browser, page, screen, scheme):
    """With every case opened: no console entry, no request, no scrolling sideways, no pale text, no empty picture."""
    show(browser, page, screen=screen, scheme=scheme)
    assert complaints(browser, page) == {}
    assert browser.execute_script("return document.querySelectorAll('details svg').length") > 4


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("screen", SCREENS)
def test_statement_is_quiet_alone_and_readable(browser, tmp_path, screen, scheme):
    """Of each kind; its first words are those of its line."""
    for made in every():
        path = write_statement(tmp_path, made)[1]
        show(browser, path, screen=screen, scheme=scheme)
        assert complaints(browser, path) == {}
        title = browser.execute_script("return document.querySelector('h1').innerText")
        assert " ".join(title.split())[2:] == made.line


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("screen", SCREENS)
def test_page_of_a_given_run_is_readable(browser, screen, scheme):
    """As the made-up one, with all cases of a real session: `.ci/run` gives the main job's."""
    if not GIVEN:
        pytest.skip(f"no run is given: {RUN}=runs/latest names one")
    path = REPOSITORY / GIVEN / "report.html"
    assert path.exists()
    show(browser, path, screen=screen, scheme=scheme)
    assert complaints(browser, path) == {}
    assert browser.execute_script("return document.querySelectorAll('details').length") > 0


@pytest.mark.parametrize("screen", SCREENS)
def test_tables_stay_tables_for_those_who_hear_them(browser, page, screen):
    """Also where a phone shows them as lists, which else takes their meaning away."""
    show(browser, page, screen=screen)
    script = "return [...document.querySelectorAll(arguments[0])].filter(node => !node.matches(arguments[1])).length"
    for node, role in (("table", "table"), ("tr", "row"), ("td", "cell"), ("th", "columnheader")):
        assert browser.execute_script(script, node, f"[role={role}]") == 0
    assert browser.execute_script(script, "table th", "thead th[scope=col]") == 0


def test_page_follows_the_viewers_scheme(browser, page):
    (light, ink), (dark, chalk) = colours(browser, page)
    assert light != dark
    assert ink != chalk


def test_pictures_and_failures_stand_before_the_tables(browser, page):
    """Below the headline, which names what failed."""
    show(browser, page)
    titles = browser.execute_script("return [...document.querySelectorAll('h2')].map(h => h.innerText)")
    assert titles == [
        "Speed: how many times as fast as eager", "Memory: peak over eager's", "Map of outcomes: paths by properties",
        "Failed", "The optimization overview, measured here", "Claims", "Paths by properties", "Cases", "Roofline",
        "Not judged", "Environment",
    ]  # fmt: skip


def test_link_to_a_case_opens_it(browser, page):
    """Without a script: a browser opens what holds the target."""
    show(browser, page)
    browser.execute_script("document.querySelector('.failed a').click()")
    opened = browser.execute_script(
        "return [...document.querySelectorAll('details[open] summary')].map(s => s.innerText)"
    )
    assert len(opened) == 1
    assert "attention.sdpa-single" in opened[0]


def test_hostile_message_is_text(browser, page):
    """It opens and closes no element, and what no page can hold is replaced."""
    show(browser, page)
    said = browser.execute_script("return [...document.querySelectorAll('.failed .message')].map(p => p.innerText)")
    shown = HOSTILE.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\x00", "\ufffd").replace("\udcff", "\ufffd")
    assert shown in said
    assert browser.execute_script("return document.scripts.length") == 0
    browser.execute_script(FLAT)
    case = f"case-{LOST.id}"
    inside = browser.execute_script("return document.getElementById(arguments[0]).innerText", case)
    assert shown in inside


def written(tmp_path, body, *, head=""):
    path = tmp_path / "page.html"
    path.write_text(f"<!DOCTYPE html><html><head><link rel=icon href=data:,>{head}</head><body>{body}</body></html>")
    return path


@pytest.mark.parametrize(
    ("body", "check", "told"),
    [
        ("<img src='http://127.0.0.1:9/picture.png'>", "requests", "picture.png"),
        ("<link rel=stylesheet href=style.css>", "requests", "style.css"),
        ("<script>console.error('no')</script>", "console", "no"),
        ("<script>null.x</script>", "console", "TypeError"),
        ("<div style='width: 3000px'>wide</div>", "wide", "30"),
        ("<p style='color: #999; background: #fff'>pale words</p>", "pale", "pale words: 2.85"),
        ("<svg width=99 height=99><text y=50 fill='#fff'>gone</text></svg>", "pale", "gone: 1.00"),
        ("<details><summary>a case</summary><svg width=0 height=0></svg></details>", "flat", "a case"),
        ("<details><summary>an empty case</summary></details>", "flat", "an empty case"),
        ("<svg width=9 height=9><path d='M0 0L9 9' fill=none stroke='#fff' /></svg>", "invisible", "M0 0L9 9"),
    ],
)
def test_check_finds_what_it_is_for(browser, tmp_path, body, check, told):
    """On a phone in light, in a page that is made to fail it."""
    path = written(tmp_path, body, head="<style>body { background: #fff; }</style>")
    show(browser, path, screen="phone")
    found = complaints(browser, path)
    assert told in str(found[check])


def test_good_page_has_no_complaints(browser, tmp_path):
    path = written(tmp_path, "<p>words</p>", head="<meta name=viewport content='width=device-width'>")
    show(browser, path, screen="phone")
    assert complaints(browser, path) == {}


def test_black_picture_in_the_dark_is_found(browser, tmp_path):
    path = written(
        tmp_path, "<svg width=99 height=99><text y=50>black</text></svg>", head="<meta name=color-scheme content=dark>"
    )
    show(browser, path, scheme="dark")
    assert "black" in str(complaints(browser, path)["pale"])


def test_page_of_one_scheme_is_found(browser, tmp_path):
    light, dark = colours(browser, written(tmp_path, "<p>words</p>"))
    assert light == dark


@pytest.mark.parametrize(("ci", "ends"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_missing_browser_fails_in_ci_and_is_told_elsewhere(monkeypatch, ci, ends):
    """With how to install one."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ends, match=r"chromium is not installed \(apt-get install chromium chromium-driver"):
        start()
