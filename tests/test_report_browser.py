"""The report in a real browser: whole at two widths, with and without scripts, and quiet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.report.page import LIMIT, write
from tests.browser import chromium, opened
from tests.report_runs import write_run

pytestmark = pytest.mark.browser
WIDTHS = (390, 1400)
OVERFLOWING = """() => [...document.querySelectorAll('main *')].filter((e) =>
  e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest('.wide, .picture, nav ol, pre, .pairs, details:not([open])')
).map((e) => e.tagName + '.' + e.getAttribute('class'))"""


def shown(page: Any, selector: str) -> list[str]:
    return [one.text_content() for one in page.query_selector_all(selector) if one.is_visible()]


def test_the_page_is_whole_quiet_and_readable(tmp_path: Path) -> None:
    path = write(write_run(tmp_path))
    assert path.stat().st_size < LIMIT
    with chromium() as browser:
        for width in WIDTHS:
            for scripts in (True, False):
                for scheme in ("light", "dark"):
                    context: dict[str, Any] = {
                        "viewport": {"width": width, "height": 900},
                        "java_script_enabled": scripts,
                        "color_scheme": scheme,
                    }
                    with opened(browser, path, **context) as watched:
                        page = watched.page
                        assert watched.complaints == []
                        assert watched.beyond_the_page == []
                        assert page.evaluate("document.documentElement.scrollWidth") <= width
                        assert page.evaluate(OVERFLOWING) == []
                        assert shown(page, "h2") == [
                            "The stages", "Results", "Training", "The loss", "Preferences", "Data", "Lineage",
                            "Chosen by auto", "To do it again",
                        ]  # fmt: skip
                        picture = ".lanes .name" if width < 760 else ".layers .name"
                        assert len(shown(page, picture)) == 5
                        assert len(shown(page, ".layers .name") + shown(page, ".lanes .name")) == 5
                        assert any("0.693151" in line for line in shown(page, ".step0"))


def test_values_zoom_hidden_lines_and_theme(tmp_path: Path) -> None:
    path = write(write_run(tmp_path))
    with chromium() as browser, opened(browser, path, viewport={"width": 1400, "height": 900}) as watched:
        page = watched.page
        chart = page.locator("#train-dpo figure", has_text="Log-probability of the answers")
        svg = chart.locator("svg").first
        svg.scroll_into_view_if_needed()
        box = svg.bounding_box()
        assert box is not None

        def at(share: float) -> tuple[float, float]:
            """A place in the chart, from the left axis to the right one."""
            inside = 62 + share * (520 - 14 - 62)
            return box["x"] + box["width"] * inside / 520, box["y"] + box["height"] / 2

        page.mouse.move(*at(0.5))  # The axis goes from 0 to 20, so this is step 10.
        tip = chart.locator(".tip").inner_text().split("\n")
        assert tip == ["step 10", "chosen", "−42.5", "rejected", "−58.25"]
        page.mouse.move(*at(0.45))
        page.mouse.down()
        page.mouse.move(*at(0.8), steps=4)
        page.mouse.up()
        assert chart.locator(".reset").is_visible()
        # Steps 9 to 16 hold -42.5, -43.5, -58.25 and -62.25.
        ticks = [float(t.replace("−", "-")) for t in chart.locator(".grid text.y").all_text_contents()]
        assert min(ticks) > -66
        assert max(ticks) < -40
        chart.locator(".reset").click()
        assert chart.locator(".reset").count() == 0
        chart.locator(".legend button", has_text="rejected").click()
        assert chart.locator(".curve.off").count() == 1
        svg.focus()
        page.keyboard.press("Home")
        assert chart.locator(".tip").inner_text().split("\n") == ["step 5", "chosen", "−41.5"]
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != back
        assert watched.complaints == []


def test_it_prints(tmp_path: Path) -> None:
    path = write(write_run(tmp_path))
    with chromium() as browser, opened(browser, path) as watched:
        pdf = watched.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        watched.page.emulate_media(media="print")
        assert not watched.page.locator("nav").is_visible()
        assert watched.complaints == []
