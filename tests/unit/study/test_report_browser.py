"""The page in a headless Chromium: nothing complains, every picture loads, the slider works."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Page, browser
from fabricated import make_runs, plan
from report_runs import FIELDS, LEADS, png, write_run

from hpc_bnn.study.report.page import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")

MAPS = {f"map_z500_{hours:g}h.png": png(int(hours)) for hours in LEADS}
SHOWN = "[...document.querySelectorAll('.slider img')].map(i => i.checkVisibility())"
TEXT = "document.querySelector('.slider output').textContent"
LUMINANCE = """
(() => {
  const light = (text) => {
    const rgb = text.match(/[0-9.]+/g).slice(0, 3).map((c) => {
      const share = c / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return ["body", "td", "th", "figcaption", "a", "td.best", "svg text.title", "svg text"]
    .filter((name) => document.querySelector(name))
    .map((name) => {
      const style = getComputedStyle(document.querySelector(name));
      const ink = light(name.startsWith("svg") ? style.fill : style.color);
      return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    });
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of two runs of fields."""
    folder = tmp_path_factory.mktemp("runs")
    better = {**FIELDS["scores"]["z500"], "rmse": [90.0, 190.0, 290.0]}
    evaluations = {"a": FIELDS, "b": {**FIELDS, "scores": {"z500": better}}}
    written = [
        write_run(folder / name, evaluation=evaluation, pictures={**MAPS, "other.png": png(0)})
        for name, evaluation in evaluations.items()
    ]
    write_report(written, folder / "page.html")
    return folder / "page.html"


def test_nothing_complains_and_every_picture_loads(page: Page, runs: Path) -> None:
    page.open(runs)
    assert page.complaints == []
    assert page.value("document.images.length") == 8
    assert page.value("[...document.images].every(i => i.complete && i.naturalWidth === 40)")
    assert page.value("document.querySelectorAll('.charts > svg').length") > 5
    outside = [url for url in page.requests if not url.startswith("data:")]
    assert outside == [runs.resolve().as_uri()]


def test_the_complaint_of_a_page_would_be_seen(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='data:image/png;base64,aGVsbG8='><script>nothing()</script>")
    page.open(bad)
    assert page.complaints
    assert not page.value("[...document.images].every(i => i.naturalWidth > 0)")


def test_the_slider_shows_one_lead_time_after_the_other(page: Page, runs: Path) -> None:
    page.open(runs)
    assert page.value(SHOWN) == [True, False, False] * 2
    assert page.value(TEXT) == "24 h"
    page.value("document.querySelector('.slider input').focus()")
    page.press("ArrowRight")
    assert page.value(SHOWN) == [False, True, False, True, False, False], "the other stays"
    assert page.value(TEXT) == "48 h"
    page.press("End")
    assert page.value(SHOWN)[:3] == [False, False, True]
    assert page.value(TEXT) == "72 h"
    page.press("ArrowLeft")
    assert page.value(TEXT) == "48 h"
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_is_readable_on_light_and_dark_ground_and_in_print(
    page: Page, runs: Path, scheme: str
) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "light" if scheme == "light" else "dark"}]
    page.call("Emulation.setEmulatedMedia", media="print" if scheme == "print" else "",
              features=dark)  # fmt: skip
    page.open(runs)
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    contrasts = page.value(LUMINANCE)
    page.call("Emulation.setEmulatedMedia", media="", features=[])
    assert (ground == "rgb(255, 255, 255)") == (scheme != "dark")
    assert len(contrasts) == 8
    assert min(contrasts) > 4.5, "WCAG 2.1, 1.4.3"


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_is_no_wider_than_the_window(page: Page, runs: Path, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
              mobile=False)  # fmt: skip
    page.open(runs)
    wide = page.value("document.documentElement.scrollWidth")
    page.call("Emulation.clearDeviceMetricsOverride")
    assert wide <= width


def test_a_study_complains_of_nothing(page: Page, tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made)
    write_report([made.folder], tmp_path / "page.html")
    page.open(tmp_path / "page.html")
    assert page.complaints == []
    assert page.value("document.querySelectorAll('.charts > svg').length") == 8
