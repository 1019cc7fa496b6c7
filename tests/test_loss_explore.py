"""The lattice page: its numbers are the logic's, it needs no network, and a browser shows what Python computes."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from data.errors import RunError
from pipelines.losses import explore as loss_explore
from pipelines.losses import mathml as loss_mathml
from pipelines.losses import panels as loss_panels
from pipelines.losses.cli import loss_app
from tests.browser import chromium, opened
from trainers.logic import describe, lattice, links
from trainers.logic.decompile import decompile
from trainers.logic.english import clause, reading
from trainers.logic.language import parse
from trainers.logic.measure import measure
from trainers.logic.named import LATTICE, registry
from trainers.logic.render import closed_form
from trainers.logic.structure import from_core

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
FORMS = loss_explore.FORMS


@pytest.fixture(scope="module")
def text() -> str:
    return loss_explore.page()


@pytest.fixture(scope="module")
def data(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


class _Reader(HTMLParser):
    """The text of each panel by its id, all ids, and where links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.panels: dict[str, str] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.panel = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if tag == "article":
            self.panel = (given["id"] or "").removeprefix("loss-")
            self.panels[self.panel] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self.panel = ""

    def handle_data(self, data: str) -> None:
        if self.panel:
            self.panels[self.panel] += data


@pytest.fixture(scope="module")
def html(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


# What is in the file.


def test_the_page_is_the_same_every_time(text: str) -> None:
    loss_explore.covers.cache_clear()
    assert loss_explore.page() == text


def test_it_is_one_small_file_that_asks_for_nothing(text: str, html: _Reader) -> None:
    assert len(text.encode()) < 400_000
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(
        r"@import|url\((?!#)|<iframe|<link rel=\"stylesheet|<script src|<img|fetch\(|XMLHttp", text
    )
    assert [link for link in html.links if not link.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in text
    assert "{{" not in text


def test_no_number_is_missing(text: str) -> None:
    assert not re.search(
        r"\bNaN\b|\bInfinity\b|\bundefined\b", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    )


def test_every_link_leads_to_a_place_and_no_id_comes_twice(html: _Reader) -> None:
    assert len(set(html.ids)) == len(html.ids)
    assert {link[1:] for link in html.links if link.startswith("#")} <= set(html.ids)


def test_edges_are_the_covers(text: str, data: dict[str, Any]) -> None:
    structures = {name: from_core(*core) for name, core in LATTICE.items()}
    expected = {tuple(pair) for pair in lattice.covers(structures)}
    assert {tuple(pair) for pair in data["covers"]} == expected
    drawn = re.findall(r'<line class="edge [a-z ]+" data-a="(\w+)" data-b="(\w+)"', text)
    assert len(drawn) == 32
    assert set(drawn) == expected
    # The reference forms have the same order, so that one drawing serves both.
    ref = {name: loss.structure for name, loss in loss_explore.named_in("ref").items()}
    assert set(lattice.covers(ref)) == expected


def test_weaker_losses_stand_above_and_no_two_nodes_touch() -> None:
    edges = loss_explore.covers()
    at = loss_panels.positions(edges, loss_explore.named_in("plain"))
    assert set(at) == set(LATTICE)
    assert all(at[a][1] > at[b][1] for a, b in edges)
    assert sorted(at, key=lambda name: at[name][1])[0] == "unCPO"
    width, height = 92, 48
    for a in at:
        x, y = at[a]
        assert width / 2 <= x <= 600 - width / 2
        assert height / 2 <= y <= 560 - height / 2
        for b in at:
            assert a == b or abs(x - at[b][0]) > width or abs(y - at[b][1]) > height


def test_parallel_edges_say_the_same_thing(text: str) -> None:
    """Each of four changes is 8 of the 32 edges of a four-dimensional cube."""
    for row in ("both", "none"):
        for change in ("gain", "drop"):
            assert len(re.findall(rf'class="edge {row} {change}" data-a', text)) == 8


@pytest.mark.parametrize("form", FORMS)
def test_relations_are_those_of_the_lattice(data: dict[str, Any], form: Any) -> None:
    losses = loss_explore.named_in(form)
    told = data["forms"][form]["relations"]
    for a, x in losses.items():
        for b, y in losses.items():
            kind, *rows = told[a][b]
            assert kind == lattice.compare(x.structure, y.structure).relation
            assert bool(rows) == (a != b)
            for witness in rows:
                assert witness["a"] != witness["b"]
    assert told["CPO"]["ORPO"][0] == "incomparable"
    assert told["CEUnl"]["unCPO"][0] == "entails"


@pytest.mark.parametrize("form", FORMS)
def test_every_panel_says_what_show_says(html: _Reader, form: Any) -> None:
    for loss in loss_explore.named_in(form).values():
        told = describe.description(loss.structure, loss)
        panel = html.panels[loss.name]
        sentences = [*told["warnings"], *told["notes"], *reading(loss.structure)]
        for words in (
            told["formula"],
            told["given"],
            told["also"],
            told["stable"],
            told["latex"]["rho"],
            *sentences,
        ):
            assert words in panel, f"{loss.name}: {words}"
        assert f"{told['step0']['value']:.6g}" in panel
    assert len(html.panels) == 32
    assert "satisfied by making both answers improbable" in html.panels["unCPO"]
    assert "satisfied by making both answers improbable" not in html.panels["ORPO"]
    assert "0.693147, whatever the model" in html.panels["DPO"]
    assert "a reference model" in html.panels["DPO"]
    assert "rises with w; ρ falls with l" in html.panels["CPO"]


def test_neighbours_are_links_both_ways(text: str) -> None:
    panels = dict(re.findall(r'<article class="panel plain" id="loss-(\w+)"(.*?)</article>', text, re.DOTALL))
    for a, b in loss_explore.covers():
        assert f'href="#loss-{b}"' in panels[a].split("<dt>Weaker")[1].split("<dt>More")[0]
        assert f'href="#loss-{a}"' in panels[b].split("<dt>More constrained")[1]


def _rows_of(formula: str) -> str:
    return clause(parse(formula))


def test_english_is_the_truth_table_not_the_spelling() -> None:
    assert _rows_of("L -> W") == _rows_of("~L | W") == _rows_of("~(L & ~W)")
    assert (
        _rows_of("L -> W")
        == "the model deems the chosen answer valid whenever it deems the rejected one valid"
    )
    assert _rows_of("W ^ L") == "the model deems exactly one of the answers valid"
    assert _rows_of("Ref.W & L") == (
        "the reference deems the chosen answer valid and the model deems the rejected answer valid"
    )
    assert _rows_of("W & Ref.L & ~L") == (
        "the model deems the chosen answer valid and the rejected one not "
        "and the reference deems the rejected answer valid"
    )
    assert reading(registry()["ORPO"].structure) == [
        "The loss asks that the model deems the chosen answer valid whenever it deems the rejected one valid.",
        "Only those cases count in which the model deems exactly one of the answers valid.",
    ]


def test_english_has_another_clause_for_every_other_table_of_one_model() -> None:
    rows = ("~W & ~L", "W & ~L", "~W & L", "W & L")
    told = {
        clause(parse(" | ".join(f"({row})" for k, row in enumerate(rows) if mask >> k & 1)))
        for mask in range(1, 15)
    }
    assert len(told) == 14
    assert all(words.startswith("the model ") for words in told)


_VALUE = {"w": 0.3, "l": 0.6, "rw": 0.7, "rl": 0.45}


def _evaluate(node: ElementTree.Element) -> float:
    """What a reader makes of the MathML: an interpreter of its own, over tokens with a product by juxtaposition."""
    return _sum(list(node))


def _sum(nodes: list[ElementTree.Element]) -> float:
    total, sign, term = 0.0, 1.0, []
    for node in [*nodes, None]:
        if node is None or (node.tag == "mo" and node.text in ("+", "−")):
            total += sign * math.prod(term)
            sign, term = (-1.0 if node is not None and node.text == "−" else 1.0), []
        elif node.tag == "mrow":
            term.append(_evaluate(node))
        elif node.tag == "mi":
            term.append(_VALUE[node.text or ""])
        elif node.tag == "msub":
            term.append(_VALUE["".join(part.text or "" for part in node)])
        elif node.tag == "mn":
            term.append(float(node.text or ""))
        else:
            assert node.tag == "mspace" or node.text in ("\u2062", "(", ")"), ElementTree.tostring(node)
    return total


@pytest.mark.parametrize("form", FORMS)
def test_mathml_reads_as_the_closed_form(form: Any) -> None:
    logps = {
        name: math.log(_VALUE[key])
        for name, key in (("Winner", "w"), ("Loser", "l"), ("Ref.Winner", "rw"), ("Ref.Loser", "rl"))
    }
    for loss in loss_explore.named_in(form).values():
        tree = ElementTree.fromstring(loss_mathml.rho(loss.structure))
        (fraction,) = tree.iter("mfrac")
        top, bottom = (_evaluate(side) for side in fraction)
        assert math.log(top / bottom) == pytest.approx(measure(loss.structure, logps).rho, abs=1e-12)
        assert decompile(tree.attrib["alttext"]) == decompile(closed_form(loss.structure))


def test_curves_are_the_links_at_beta_one(text: str) -> None:
    """Read back from the drawn paths: 240 steps of 0.05 from rho = -6, one unit of loss on 42 units of height."""
    for quantity, of in (("loss", links.value), ("slope", links.derivative)):
        svg = text.split(f'id="curve-{quantity}"')[1].split("</svg>")[0]
        low, high = loss_panels.CURVES[quantity]
        for link in links.LINKS:
            (path,) = re.findall(rf'data-link="{link}" d="M([^"]+)"', svg)
            places = [tuple(map(float, pair.split())) for pair in path.split("L")]
            assert len(places) == 241
            for k in range(0, 241, 7):
                expected = of(link, -6 + k * 0.05, 1.0)
                drawn = high - (places[k][1] - 14) / 252 * (high - low)
                if low - 10 < expected < high + 10:
                    assert drawn == pytest.approx(expected, abs=0.001)


# The command.


def test_the_command_writes_the_page(tmp_path: Path, text: str) -> None:
    out = tmp_path / "new folder" / "page.html"
    done = CliRunner().invoke(loss_app, ["explore", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == text
    assert CliRunner().invoke(loss_app, ["explore", "--out", str(out)]).exit_code == 0, (
        "its own page is replaced"
    )
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def _heliograph(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", *words],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_open_hands_the_page_to_the_browser(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > opened.txt\n')
    browser.chmod(0o755)
    done = _heliograph("loss", "explore", "--open", cwd=tmp_path, BROWSER=str(browser))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "written: losses.html\n"
    assert (tmp_path / "opened.txt").read_text() == (tmp_path / "losses.html").as_uri()


def test_where_there_is_no_browser_it_says_what_to_do(tmp_path: Path) -> None:
    done = _heliograph("loss", "explore", "--open", cwd=tmp_path, BROWSER="", PATH=str(tmp_path), DISPLAY="")
    assert done.returncode == 2
    assert "open losses.html yourself" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "losses.html").exists()


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from pipelines.losses import explore; explore.page(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"torch", "transformers", "numpy", "trl", "pandas", "pyarrow"} == set()


def test_it_replaces_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "notes.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(RunError, match="not a page of this command"):
        loss_explore.write(mine)
    assert mine.read_text() == "<p>mine</p>"
    with pytest.raises(RunError, match="is a folder"):
        loss_explore.write(tmp_path)


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "losses.html"
    loss_explore.write(path)
    return path


def _values(page: Page, side: str = "chosen") -> dict[str, list[float]]:
    return page.evaluate(
        """side => Object.fromEntries([...document.querySelectorAll(`figure[data-side="${side}"] tr`)].map(
            row => [row.dataset.key, [...row.querySelectorAll("data")].map(cell => Number(cell.value))]))""",
        side,
    )


def _check(found: dict[str, list[float]], name: str, logps: dict[str, float], link: Any, beta: float) -> None:
    expected = measure(registry()[name].structure, logps, link=link, beta=beta)
    assert found["logs"] == pytest.approx([logps["Winner"], logps["Loser"]], abs=1e-12)
    assert found["rho"] == pytest.approx([expected.rho], abs=1e-9)
    assert found["loss"] == pytest.approx([expected.loss], abs=1e-9)
    assert found["dw"] == pytest.approx([expected.grad.get("Winner", 0.0)], abs=1e-9)
    assert found["dl"] == pytest.approx([expected.grad.get("Loser", 0.0)], abs=1e-9)


@pytest.mark.browser
@pytest.mark.parametrize("form", FORMS)
def test_click_through_all_sixteen(browser: Browser, file: Path, form: Any) -> None:
    with opened(browser, file, viewport={"width": 1280, "height": 900}) as seen:
        page = seen.page
        if form == "ref":
            page.check("#reference")
        for place, loss in loss_explore.named_in(form).items():
            page.click(f'#lattice .node.{form}[data-loss="{place}"]')
            assert page.locator(".panel:visible h3").inner_text().split()[0] == loss.name
            assert page.locator(".panel:visible").count() == 1
            assert page.url.endswith(f"#{loss.name}")
            logps = {"Winner": -1.3, "Loser": -1.5, "Ref.Winner": -1.3, "Ref.Loser": -1.5}
            _check(_values(page), loss.name, logps, "logistic", 1.0)
            near = page.locator("#lattice .edge.near").count()
            assert near == sum(place in edge for edge in loss_explore.covers())
        assert seen.complaints == []
        assert seen.beyond_the_page == []


@pytest.mark.browser
def test_the_script_computes_what_python_computes(browser: Browser, file: Path) -> None:
    """All 32 losses, four links, 60 random points each, from improbable answers to nearly certain ones."""
    draw = random.Random(20)
    points = [[-math.exp(draw.uniform(-9, 3)) for _ in range(4)] for _ in range(60)]
    points += [
        [-1e-7, -1e-7, -1.0, -1.0],
        [-30.0, -1e-3, -2.0, -0.5],
    ]  # beyond the floor; far from each other
    betas = [draw.uniform(0.05, 5) for _ in points]
    with opened(browser, file) as seen:
        found = seen.page.evaluate(
            """([points, betas]) => Object.fromEntries(Object.entries(PAGE.forms).flatMap(([form, {losses}]) =>
                Object.values(losses).map(loss => [loss.name, Object.keys(PAGE.links).map(link =>
                    points.map((x, i) => measure(loss, x, link, betas[i])))])))""",
            [points, betas],
        )
    compared = 0
    for form in FORMS:
        for loss in loss_explore.named_in(form).values():
            for link, row in zip(links.LINKS, found[loss.name], strict=True):
                for x, beta, got in zip(points, betas, row, strict=True):
                    logps = dict(zip(loss_explore.ATOMS, x, strict=True))
                    expected = measure(loss.structure, logps, link=link, beta=beta)
                    assert got["rho"] == pytest.approx(expected.rho, rel=1e-9, abs=1e-9)
                    assert got["loss"] == pytest.approx(expected.loss, rel=1e-9, abs=1e-9)
                    slopes = [expected.grad.get(name, 0.0) for name in loss_explore.ATOMS]
                    assert got["grad"] == pytest.approx(slopes, rel=1e-9, abs=1e-9)
                    compared += 1
    assert compared == 32 * 4 * 62


@pytest.mark.browser
def test_pointing_reads_the_place_and_a_click_keeps_it(browser: Browser, file: Path) -> None:
    with opened(browser, file, viewport={"width": 1280, "height": 900}) as seen:
        page = seen.page
        page.select_option("#link", "squared")
        page.fill("#beta", "0.5")
        canvas = page.locator('figure[data-side="chosen"] canvas')
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box
        x, y = 0.4 * box["width"], 0.3 * box["height"]
        page.mouse.move(box["x"] + x, box["y"] + y)
        pointed = _values(page)
        # The frame of the picture: 46 and 10 pixels beside it, 8 and 40 above and below, from -5 to -0.02.
        w = -5 + (x - 46) / (box["width"] - 56) * 4.98
        l = -5 + (1 - (y - 8) / (box["height"] - 48)) * 4.98  # noqa: E741
        assert pointed["logs"] == pytest.approx([w, l], abs=0.02)
        logps = dict(zip(("Winner", "Loser"), pointed["logs"], strict=True))
        _check(pointed, "CPO", logps, "squared", 0.5)
        page.mouse.move(5, 5)
        assert _values(page)["logs"] == [-1.3, -1.5]
        canvas.click(position={"x": x, "y": y})
        page.mouse.move(5, 5)
        assert _values(page)["logs"] == pytest.approx([w, l], abs=0.02)
        assert seen.complaints == []


@pytest.mark.browser
def test_two_losses_side_by_side(browser: Browser, file: Path) -> None:
    with opened(browser, file) as seen:
        page = seen.page
        page.click('#lattice .node.plain[data-loss="CPO"]')
        page.select_option("#other", "ORPO")
        page.fill("#w", "-0.4")
        page.fill("#l", "-2.25")
        logps = {"Winner": -0.4, "Loser": -2.25}
        _check(_values(page, "chosen"), "CPO", logps, "logistic", 1.0)
        _check(_values(page, "other"), "ORPO", logps, "logistic", 1.0)
        assert page.get_attribute("#relation p", "data-relation") == "incomparable"
        assert page.locator("#relation .witness").inner_text() == (
            "Witness, the case w true, l true: counts on both sides in CPO, not at all in ORPO."
        )
        page.click('#lattice .node.plain[data-loss="l3"]')
        assert page.get_attribute("#relation p", "data-relation") == "entails"
        page.check("#reference")
        assert page.locator('figure[data-side="other"] figcaption').inner_text() == "ref-ORPO"
        assert seen.complaints == []


@pytest.mark.browser
def test_beta_and_defaults_move_the_curves(browser: Browser, file: Path) -> None:
    with opened(browser, file) as seen:
        page = seen.page

        def height(link: str, k: int) -> float:
            path = page.get_attribute(f'#curve-loss [data-link="{link}"]', "d") or ""
            return 6 - (float(path[1:].split("L")[k].split()[1]) - 14) / 252 * 6

        page.fill("#beta", "2")
        assert height("hinge", 120) == pytest.approx(2, abs=0.001)  # max(0, beta - 0)
        assert height("squared", 120) == pytest.approx(1 / 16, abs=0.001)  # (1 / (2 * 2))^2
        page.click("#defaults")
        assert page.input_value("#beta") == "0.1"  # CPO's own
        assert height("logistic", 120) == pytest.approx(math.log(2), abs=0.001)


@pytest.mark.browser
def test_the_keyboard_reaches_everything(browser: Browser, file: Path) -> None:
    with opened(browser, file) as seen:
        page = seen.page
        page.focus('#lattice .node.plain[data-loss="CEUnl"]')
        page.keyboard.press("Enter")
        assert page.url.endswith("#CEUnl")
        visited = ["CEUnl"]
        for _ in range(4):
            page.keyboard.press("ArrowUp")
            visited.append(page.evaluate("document.activeElement.dataset.loss"))
        assert visited[-1] == "unCPO"
        assert set(pairwise(visited)) <= set(loss_explore.covers())
        assert page.url.endswith("#unCPO")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.loss") not in ("unCPO", visited[3])
        # Tab reaches every node, in reading order, and every control after them.
        page.focus("#reference")
        reached: list[str] = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.dataset.loss || document.activeElement.id"))
        assert set(LATTICE) <= set(reached)
        assert {"beta-slider", "beta", "link", "defaults", "other", "w", "l"} <= set(reached)
        unnamed = page.evaluate(
            """[...document.querySelectorAll("a, button, input, select, canvas, svg[role]")].filter(e =>
                e.checkVisibility() && !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
                .map(e => e.outerHTML.slice(0, 80))"""
        )
        assert unnamed == []


@pytest.mark.browser
def test_back_and_links_from_outside(browser: Browser, file: Path) -> None:
    with opened(browser, file.resolve().as_uri() + "#ref-cCPO") as seen:
        page = seen.page
        assert page.locator(".panel:visible h3").inner_text().startswith("ref-cCPO")
        page.click(".panel:visible dd a >> nth=0")
        first = page.locator(".panel:visible h3").inner_text()
        assert not first.startswith("ref-cCPO")
        page.go_back()
        assert page.locator(".panel:visible h3").inner_text().startswith("ref-cCPO")
        assert seen.complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(browser: Browser, file: Path, width: int, scheme: Any) -> None:
    with opened(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme) as seen:
        page = seen.page
        for form in FORMS:
            page.set_checked("#reference", form == "ref")
            for place in LATTICE:
                page.locator(f'#lattice .node.{form}[data-loss="{place}"]').dispatch_event("click")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            labels = page.evaluate(
                """form => [...document.querySelectorAll(`#lattice .node.${form}`)].map(n => {
                    const box = n.querySelector("rect").getBoundingClientRect();
                    return [...n.querySelectorAll("text:not(.warn)")].filter(t => t.checkVisibility()).every(t => {
                        const b = t.getBoundingClientRect();
                        return b.left >= box.left && b.right <= box.right &&
                            b.top >= box.top - 1 && b.bottom <= box.bottom + 1;
                    }) || n.textContent;
                })""",
                form,
            )
            assert [label for label in labels if label is not True] == []
        for part in ("body", ".hint", "dt", ".remarks .warning", ".curves text"):
            assert _contrast(page, part) >= 4.5, part
        page.click("#theme")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (_luminance(dark) < 0.2) == (scheme == "light")
        assert _contrast(page, "dt") >= 4.5
        assert seen.complaints == []


def _contrast(page: Page, selector: str) -> float:
    """WCAG's ratio of the text to the card that it stands on."""
    ink, card = page.evaluate(
        """selector => {
            const found = document.querySelector(selector);
            const style = getComputedStyle(found);
            return [found.closest("svg") ? style.fill : style.color,
                    getComputedStyle(document.querySelector("section")).backgroundColor];
        }""",
        selector,
    )
    light, dark = sorted((_luminance(ink), _luminance(card)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [float(c) / 255 for c in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.browser
def test_without_scripts_everything_is_there_to_read(browser: Browser, file: Path) -> None:
    with opened(browser, file, java_script_enabled=False) as seen:
        page = seen.page
        assert page.locator(".panel:visible").count() == 32
        assert page.locator("#lattice .node.plain:visible").count() == 16
        assert page.locator("#surfaces").is_hidden()
        page.click('#lattice .node.plain[data-loss="ORPO"]')
        assert page.url.endswith("#loss-ORPO")
        assert page.locator("#loss-ORPO").is_visible()


@pytest.mark.browser
def test_it_prints_on_few_pages(browser: Browser, file: Path) -> None:
    with opened(browser, file, color_scheme="dark") as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert _luminance(seen.page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.8
        assert seen.page.locator("#theme").is_hidden()
        pdf = seen.page.pdf(format="A4")
        assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 5
