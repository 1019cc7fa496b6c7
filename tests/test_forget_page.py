"""The forget report: its numbers are the files', it needs neither network nor scripts, and a browser shows it whole."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError, RunError
from pipelines import state
from pipelines.forgetting import page as forget_page
from pipelines.forgetting.page import number, page
from pipelines.forgetting.plots import Axis, Mark, Series, around, chart
from pipelines.forgetting.steps import points, unlearned, write_steps
from pipelines.stage import Job
from tests.browser import chromium, opened


def known(value: float) -> dict[str, float]:
    return {"value": value, "low": value * 0.9, "high": value * 1.1}


def model(quality: float, utility: float, probability: float) -> dict[str, Any]:
    part = {"probability": known(probability), "rouge": known(0.5), "truth_ratio": known(0.6), "questions": 4}
    return {
        "forget_quality": known(quality),
        "utility": known(utility),
        "utility_over": ["retain", "real_authors", "world_facts"],
        "sets": {name: copy.deepcopy(part) for name in ("forget", "retain", "real_authors", "world_facts")},
        "extraction_strength": known(0.2),
        "exact_memorisation": known(0.4),
        "min_k": known(-3.25),
        "auc": known(0.51),
        "privacy_leak": {"value": -12.5, "low": None, "high": None},
        "without": {},
    }


def curve(last: float) -> list[dict[str, Any]]:
    return [
        {"step": step, "taught": known(last * step / 4), "others": known(last * step / 8)}
        for step in (0, 2, 4)
    ]


FIGURES: dict[str, Any] = {
    "retrained": "never",
    "truth_ratio": "geometric",
    "start": "full",
    "questions": {"forget": 4, "retain": 6},
    "models": {
        "full": model(2.8e-9, 0.62, 0.99),
        "never": model(1.0, 0.64, 0.05),
        "npo <b>": model(0.4123, 0.6, 0.007),
        "ga": model(0.9, 0.00002, 0.0),
    },
    "attacks": {
        "npo <b>": {
            "relearn": {"taught": [0, 2], "curve": curve(0.8)},
            "requantised": {"code": "nf4", **model(0.3, 0.59, 0.0125)},
        },
        "ga": {"relearn": {"refused": "quantised weights cannot be taught"}},
    },
    "samples": [
        {
            "set": "forget",
            "question": "Who wrote <i>it</i>?",
            "answer": "Anna & Bo.",
            "said": {
                "full": "Anna & Bo.",
                "never": "Carl.",
                "npo <b>": "",
                "ga": "</script><script>alert(1)",
            },
            "rouge": {},
        }
    ],
}
STEPS: dict[str, Any] = {
    "npo <b>": {
        "stage": "npo", "method": "npo", "retain_loss_type": "nll", "collapsed": None, "utility_start": 0.9,
        "steps": [{"step": i, "logps/forget": -10.0 * i, "weights/forget": 1 / i} for i in range(1, 5)],
        "watched": [{"step": 2, "watch/utility": 0.8}, {"step": 4, "watch/utility": 0.7}],
    },
    "ga": {
        "stage": "ga", "method": "ga", "retain_loss_type": None, "collapsed": None, "utility_start": 0.9,
        "steps": [{"step": i, "logps/forget": -50.0 * i} for i in range(1, 5)],
        "watched": [{"step": 4, "watch/utility": 0.1}],
    },
}  # fmt: skip


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [
            v for k, v in attrs if k in ("href", "src") and v and not v.startswith(("#", "data:"))
        ]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th") and self.cells:
            self.cells[-1].append("")
        self.inside = tag in ("td", "th", "small", "span") or self.inside

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside and self.cells and self.cells[-1]:
            self.cells[-1][-1] += f" {data}" if self.cells[-1][-1] else data


def test_the_tables_show_the_figures_and_their_intervals():
    read = Reader(page(FIGURES, STEPS))
    row = next(cells for cells in read.cells if cells and cells[0] == "npo <b>" and len(cells) == 11)
    assert row[1] == "0.412 0.371 to 0.454"
    assert row[2] == "0.600 0.540 to 0.660"
    assert row[3] == "0.007 0.006 to 0.008"
    assert row[10] == "−12.5"  # without an interval
    rounded = next(cells for cells in read.cells if cells and cells[0] == "npo <b>" and len(cells) == 7)
    assert [cell.split()[0] for cell in rounded[1:]] == ["0.007", "0.013", "0.412", "0.300", "0.600", "0.590"]
    kept = next(cells for cells in read.cells if cells and cells[0] == "ga" and len(cells) == 10)
    assert [cell.split()[0] for cell in kept[1:4]] == ["0.000", "0.500", "0.600"]


def test_the_verdicts_name_what_is_left_of_utility():
    text = page(FIGURES, STEPS)
    said = re.findall(r'<li class="(\w*)"><b>(.*?)</b> (.*?)</li>', text)
    assert [(grade, label) for grade, label, _ in said] == [("good", "npo &lt;b&gt;"), ("bad", "ga")]
    assert "not told from never (forget quality 0.412); 97% of full’s utility is left" in said[0][2]
    assert "0% of full’s utility is left" in said[1][2]


def test_what_a_model_says_cannot_become_markup():
    text = page(FIGURES, STEPS)
    read = Reader(text)
    assert "script" not in read.tags
    assert "b" in read.tags  # of the page itself
    assert "</script><script>alert(1)" in read.text
    assert "Who wrote <i>it</i>?" in read.text
    assert read.outside == []
    assert "default-src 'none'" in text


def test_charts_put_values_where_they_belong():
    x, y = Axis("x", 0, 10), Axis("y", 1e-4, 1, log=True)
    drawn = chart(
        "c", [Series("one", 0, [Mark(5, 1e-2, (2.5, 7.5), (1e-3, 1e-9))])], x, y, "told", line=False
    )
    # The plot lies between 68 and 504 across, 12 and 282 down; what is below the axis is put on its edge.
    assert "translate(286.0 147.0)" in drawn
    assert '<line x1="177.0" x2="395.0" y1="147.0" y2="147.0"/>' in drawn
    assert '<line x1="286.0" x2="286.0" y1="214.5" y2="282.0"/>' in drawn
    assert [text for _, text in y.ticks()] == ["1", "10⁻¹", "10⁻²", "10⁻³", "10⁻⁴"]
    assert [text for _, text in Axis("", -200, 10).ticks()] == ["−200", "−150", "−100", "−50", "0"]
    assert around("q", [3e-9, 0.5], log=True).low == 1e-9
    # 0 has no logarithm: it stands at the bottom.
    assert Axis("", 1e-4, 1, log=True).share(0) == 0
    assert around("same", [2.0, 2.0]).share(2.0) == 0.5


def test_paths_go_through_the_means_between_measurements():
    drawn = page(FIGURES, STEPS)
    (path,) = re.findall(
        r'id="utility-steps".*?<title>npo &lt;b&gt;</title><path class="line" d="M(.*?)"', drawn
    )
    across = [float(pair.split()[0]) for pair in path.split("L")]
    assert across == [68.0, 286.0, 504.0]  # steps 0, 2 and 4 of 4
    ways = list(forget_page._way(STEPS["npo <b>"]))
    assert ways == [(0, -10.0, 0.9), (2, -15.0, 0.8), (4, -35.0, 0.7)]
    (weights,) = re.findall(r'<svg class="chart" id="weights".*?</svg>', drawn)
    assert weights.count('class="line"') == 1  # gradient ascent has none


def test_numbers():
    assert [number(v) for v in (0.0, 0.4123, 2.8e-9, -12.5, 100, -3.25)] == [
        "0.000", "0.412", "3e−9", "−12.5", "100.0", "−3.250",
    ]  # fmt: skip


def test_without_a_retrained_model_attacks_or_stages_it_is_a_page_too():
    found = copy.deepcopy(FIGURES) | {"retrained": None, "attacks": {}, "samples": []}
    for one in found["models"].values():
        one |= {"forget_quality": None, "privacy_leak": None, "auc": None}
        one["without"] = {"forget_quality": "no `retrained` model"}
    text = page(found, {})
    assert "Forget quality is not had: no `retrained` model." in text
    assert "Taught again" not in text
    assert "On the way there" not in text
    assert "97% of full’s utility is left" in text


def test_figures_that_are_gone_are_told(tmp_path: Path):
    with pytest.raises(RunError, match="the report cannot be made"):
        forget_page.write(tmp_path)


# ---------------------------------------------------------------- steps


def log(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / state.METRICS
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


LINES: list[dict[str, Any]] = [
    {"step": 1, "loss": 2.0, "logps/forget": -1.0, "weights/forget": 1.0, "epoch": 0.1},
    {"step": 2, "logps/forget": -2.0, "weights/forget": float("nan")},
    {"event": "watched", "step": 2, "watch/utility": 0.9},
    {"event": "resumed", "step": 1},
    {"step": 2, "logps/forget": -3.0, "weights/forget": 0.5},
]


def test_of_a_step_told_twice_the_last_counts(tmp_path: Path):
    assert points(log(tmp_path, LINES)) == {
        "steps": [
            {"step": 1, "logps/forget": -1.0, "weights/forget": 1.0},
            {"step": 2, "logps/forget": -3.0, "weights/forget": 0.5},
        ],
        "watched": [{"step": 2, "watch/utility": 0.9}],
    }
    with pytest.raises(DataError, match="log of an unlearn stage is gone"):
        points(tmp_path / "nowhere.jsonl")


def done(run: Path, name: str, kind: str, config: dict[str, Any]) -> None:
    log(run / name, LINES)
    config = {"kind": kind, "name": name, **config}
    record = state.Done(
        name=name, kind=kind, build="b", config=config, inputs={}, files={}, started=state.now(),
        finished=state.now(), seconds=1.0, metrics={"utility_start": 0.7}, resolved={}, versions={}, commit=None,
        device="cpu", command="", peak_memory={},
    )  # fmt: skip
    state.write(run / name / state.DONE, record)


def test_a_merged_model_leads_back_to_the_stage_that_unlearned(tmp_path: Path):
    done(tmp_path, "full", "sft", {"model": "authors"})
    done(
        tmp_path,
        "npo",
        "unlearn",
        {"model": "full", "method": "npo", "retain": "r", "retain_loss_type": "kl"},
    )
    done(tmp_path, "merged", "merge", {"model": "npo"})
    job = Job(out=tmp_path / "forgetting")
    job.inputs = {name: built for name in ("full", "merged") if (built := state.built(tmp_path, name))}
    assert unlearned(job.inputs["full"]) is None
    found = write_steps({"before": "full", "after": "merged", "hub": "owner/name"}, job)
    assert list(found) == ["after"]
    assert (found["after"]["stage"], found["after"]["retain_loss_type"]) == ("npo", "kl")
    assert found["after"]["utility_start"] == 0.7
    assert json.loads((job.out / "steps.json").read_text()) == found


# ---------------------------------------------------------------- a browser


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_network_scripts_or_sideways_scrolling(
    tmp_path: Path, width: int, scheme: str
):
    file = tmp_path / "forgetting.html"
    file.write_text(page(FIGURES, STEPS))
    context = {
        "viewport": {"width": width, "height": 900},
        "color_scheme": scheme,
        "java_script_enabled": True,
    }
    with chromium() as browser, opened(browser, file, **context) as watched:
        shown = watched.page
        assert watched.beyond_the_page == []
        assert watched.complaints == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        # Text in charts stays readable: at least 11 pixels on the screen.
        sizes = shown.evaluate(
            "[...document.querySelectorAll('.chart text')].map(t => parseFloat(getComputedStyle(t).fontSize) * "
            "t.ownerSVGElement.getBoundingClientRect().width / 520)"
        )
        assert min(sizes) >= 11
        back = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(251, 250, 247)" if scheme == "light" else "rgb(22, 24, 28)")
        clipped = shown.evaluate(
            "[...document.querySelectorAll('.chart text')].filter(t => { const a = t.getBoundingClientRect(), "
            "b = t.ownerSVGElement.getBoundingClientRect(); return a.left < b.left - 1 || a.right > b.right + 1 || "
            "a.bottom > b.bottom + 1 }).map(t => t.textContent)"
        )
        assert clipped == []
