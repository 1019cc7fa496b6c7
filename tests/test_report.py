"""The report of a run: its figures are the files', nothing in them runs, and what is missing or damaged is told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data.errors import RunError
from pipelines import state
from pipelines.report.gather import gather
from pipelines.report.history import read_history, thinned
from pipelines.report.markup import asked, fixed, number, said
from pipelines.report.page import LIMIT, page, write
from pipelines.report.samples import difference
from pipelines.report.stated_loss import stated
from tests.handmade import cpu_seconds_of_children, environment, heliograph
from tests.report_runs import LOSSES, PAIR, RECIPE, jsonl, steps, write_run
from tests.test_light_start import HEAVY, SPY


class Parsed(HTMLParser):
    """Elements with their attributes, and the text outside styles and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def parsed(run: Path) -> Parsed:
    return Parsed(page(gather(run)))


# ---------------------------------------------------------------- what a whole run shows


def test_the_figures_of_the_files_are_on_the_page(run: Path) -> None:
    text = parsed(run).text
    assert "stages done 5 of 5" in text
    assert "time at work 3 min 19 s" in text  # 61 + 4.2 + 0.1 + 125 + 9
    assert "before 0.375 → after 0.875" in text
    assert "final model dpo" in text
    assert "1,234 rows read" in text
    assert "dropped 4: the answer is empty" in text
    assert "cut to max_length: 17 tokens lost" in text
    assert "dtype float32 no GPU is here" in text
    assert "heliograph run demo.yaml" in text
    assert "torch 2.13.0" in text
    assert "0123456789ab with changes that were not committed" in text
    assert "1 exact and 0 near copies" in text
    assert "What is missing" not in text


def test_the_first_loss_stands_beside_what_it_had_to_be(run: Path) -> None:
    text = parsed(run).text
    assert "The first loss was 0.693151 ; of a policy that is its own reference it is ln 2 = 0.6931" in text
    assert "expected at step 0: ln 2 = 0.6931" in text


def test_an_unfinished_stage_has_its_expected_loss_from_the_log(tmp_path: Path) -> None:
    run = write_run(tmp_path, until="dpo")
    jsonl(run / "dpo" / state.METRICS, steps(LOSSES[:2]))
    assert "expected at step 0: ln 2 = 0.6931" in parsed(run).text


def test_a_curve_has_every_step_that_was_logged(run: Path) -> None:
    curves = [
        element
        for name, element in parsed(run).elements
        if name == "g" and (element.get("class") or "").startswith("curve")
    ]
    points = {(c["data-label"], c["data-points"]) for c in curves}
    assert ("loss", "0,0.693151 5,0.6817 10,0.5523 15,0.4391 20,0.3012") in points
    assert ("chosen", "5,-41.5 10,-42.5 15,-43.5 20,-44.5") in points
    assert ("rejected", "5,-54.25 10,-58.25 15,-62.25 20,-66.25") in points


def test_each_pair_leads_to_what_decided_it(run: Path) -> None:
    text = parsed(run).text
    assert "1 pairs, learned by dpo" in text
    after = text[text.index("the pairs, one by one") :]
    assert "0.625 Say where the harbour is." in after
    assert "rejected 0.312 The harbour is, as everybody knows" in after
    assert "chosen 0.938" in after
    assert "check rejected chosen max_words" in after


def test_each_pair_leads_to_the_votes_of_people(run: Path) -> None:
    row = {key: value for key, value in PAIR.items() if not key.startswith("score")}
    row |= {"weight": 0.75, "agreement": 1.0, "n_votes": 2, "vote_ids": [4, 9], "source": "votes"}
    jsonl(run / "collect" / "rows.jsonl", [row])
    vote = {"kind": "best", "choice": 1, "strength": 2, "comment": None, "seconds": 12.5, "shown": [0, 1]}
    jsonl(
        run / "collect" / "votes.jsonl",
        [
            {
                "id": "p0",
                "prompt": "?",
                "candidates": [{"text": PAIR["rejected"], "index": 0}, {"text": PAIR["chosen"], "index": 1}],
                "votes": [
                    {"person": "Ada", **vote},
                    {"person": "Bob", **vote, "choice": 0, "comment": "tells more"},
                ],
            }
        ],
    )
    text = parsed(run).text
    assert "Ada the chosen one is best, strength 2" in text
    assert "Bob the rejected one is best, strength 2 tells more" in text


def test_the_loss_is_shown_as_a_sentence_with_its_table(run: Path) -> None:
    found = parsed(run)
    assert "sigmoid: DPO" in found.text
    assert "-log sigmoid(beta * rho)" in found.text
    assert "Truth table" in found.text
    assert found.named("math")
    # rho is the margin over beta: 0.5 / 0.1 at the first logged step, 2 / 0.1 at the last.
    flags = [
        e["data-step"] for n, e in found.elements if n == "g" and e.get("class") in ("flag start", "flag end")
    ]
    assert flags == ["5", "20"]


def test_losses_are_stated_as_the_recipe_has_them() -> None:
    shown, others = stated(
        {"loss_type": ["sigmoid", "sft", "aot"], "loss_weights": [1.0, 0.2, 1.0], "beta": 0.3}
    )
    assert [(one.title, one.beta) for one in shown] == [("sigmoid: DPO", 0.3), ("sft: CE", 1.0)]
    assert others == ["aot"]
    formula, none = stated(
        {"loss": {"formula": "Loser -> Winner", "given": "~(Winner & Loser)", "beta": 2.0}}
    )
    assert none == []
    assert (formula[0].named, formula[0].beta, formula[0].link) == (None, 2.0, "logistic")


def test_watchdogs_are_flags_on_the_curves(run: Path) -> None:
    firings = [
        {"watch": "chosen_drop", "step": 10, "value": 1.25, "limit": 0.5, "action": "warn", "since": 5},
        {
            "watch": "log_z",
            "step": 15,
            "value": None,
            "limit": 3.0,
            "action": "roll_back",
            "since": 15,
            "to": 10,
        },
    ]
    jsonl(run / "dpo" / state.METRICS, [*steps(), *({"event": "watchdog", **one} for one in firings)])
    found = parsed(run)
    lost = "step 10: chosen_drop; chosen answers have lost 1.25 nats per token, 0.5 are allowed; it went on"
    assert lost in found.text
    assert "step 15: log_z; not finite, 3 is the limit; it went back to step 10" in found.text
    flags = [e for n, e in found.elements if n == "g" and e.get("class") == "flag watchdog"]
    assert {flag["data-step"] for flag in flags} == {"10", "15"}


# ---------------------------------------------------------------- nothing of the data runs


HOSTILE = (
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(2)">',
    "\"'><svg onload=alert(3)>",
    "{{script}}",
)


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    evil = " ".join(HOSTILE)
    run = write_run(
        tmp_path,
        description=evil,
        prompt=evil,
        answers={"before": [(evil, 0.1)], "after": [(evil + " again", 0.2)]},
        pairs=[{**PAIR, "prompt": evil, "chosen": evil, "rejected": evil + "?", "id": evil}],
    )
    jsonl(run / state.COMMANDS, [{"command": evil, "cwd": evil, "time": evil}])
    jsonl(
        run / "dpo" / state.METRICS,
        [*steps(), {"event": "watchdog", "step": 5, "what": evil}, {"step": 5, evil: 1.0}],
    )
    state.write(
        run / "dpo" / state.FAILED, state.Failed(what=evil, where=evil, way_out=evil, time="", exit=2)
    )
    (run / "dpo" / state.DONE).unlink()
    found = parsed(run)
    assert len(found.named("script")) == 1
    assert not found.named("img")
    assert not [key for _, attributes in found.elements for key in attributes if key.startswith("on")]
    assert found.text.count("alert(1)") >= 6


def test_nothing_but_the_page_s_own_script_and_style_may_run(run: Path) -> None:
    text = page(gather(run))
    policy = next(m["content"] for m in Parsed(text).named("meta") if m.get("http-equiv"))
    assert policy is not None
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    for element in ("style", "script"):
        inside = re.search(rf"<{element}>(.*?)</{element}>", text, re.S)
        assert inside is not None
        found = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{found}'" in policy
    # A style in an attribute would be refused, and seen only as a complaint of the browser.
    assert not [attributes for _, attributes in Parsed(text).elements if "style" in attributes]


def test_the_page_refers_to_nothing_outside_itself(run: Path) -> None:
    found = parsed(run)
    for key in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
        for _, attributes in found.elements:
            assert (attributes.get(key) or "#").startswith(("#", "data:")), attributes
    style = (Path("pipelines/pages/report.css")).read_text() if Path("pipelines").is_dir() else ""
    assert "@import" not in style
    assert "url(" not in style


def test_every_link_leads_somewhere(run: Path) -> None:
    found = parsed(run)
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    wanted = {(a["href"] or "")[1:] for a in found.named("a")}
    assert wanted <= ids, wanted - ids
    every = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(every) == len(set(every))


# ---------------------------------------------------------------- what is not there


def test_a_failed_run_says_why_and_what_to_do(tmp_path: Path) -> None:
    run = write_run(tmp_path, until="dpo")
    (run / "dpo").mkdir()
    begun = state.Started(name="dpo", kind="prefer", build="b", config={}, started=state.now())
    state.write(run / "dpo" / state.STARTED, begun)
    failed = state.Failed(
        what="the loss is nan at step 7",
        where="stages.dpo",
        way_out="Lower learning_rate.",
        time=state.now(),
        exit=2,
    )
    state.write(run / "dpo" / state.FAILED, failed)
    text = parsed(run).text
    assert text.index("What is missing") < text.index("The stages", text.index("demo ✗ failed"))
    assert "stages.dpo: the loss is nan at step 7 Lower learning_rate." in text
    assert "not yet evaluate" in text
    assert "stages done 3 of 5" in text


def test_a_run_that_waits_says_for_what(tmp_path: Path) -> None:
    run = write_run(tmp_path, until="collect")
    (run / "collect").mkdir()
    state.write(
        run / "collect" / state.STARTED,
        state.Started(name="collect", kind="judge", build="b", config={}, started=""),
    )
    waiting = state.WaitingFor(
        what="6 votes are missing", how="heliograph label serve runs/demo/collect", time=""
    )
    state.write(run / "collect" / state.WAITING, waiting)
    text = parsed(run).text
    assert "waits for people 6 votes are missing heliograph label serve runs/demo/collect" in text


def test_damaged_files_are_told_and_the_rest_is_shown(run: Path) -> None:
    (run / "sft" / state.DONE).write_text('{"name": "sft", ')
    (run / "sft" / state.LEDGER).write_text('{"train": {"kept": "many"}}')
    with (run / "dpo" / state.METRICS).open("a") as file:
        file.write('{"step": 25, "loss": 0.2}\n{"step": 30, "lo')
    (run / "collect" / "rows.jsonl").write_text("[1, 2]\n" + json.dumps(PAIR) + "\n\x00\n")
    (run / "evaluate" / "answers-after.jsonl").unlink()
    text = parsed(run).text
    assert "sft/done.json: the state file is corrupt or half-written" in text
    assert "sft/ledger.json: this is no ledger" in text
    assert "dpo/metrics.jsonl: 1 line is not JSON (line 7)" in text
    assert "collect/rows.jsonl: 2 lines are no JSON objects" in text
    assert "The answers are not in the stage’s folder" in text
    assert "before 0.375 → after 0.875" in text
    assert "25,0.2" in page(gather(run))


@pytest.mark.parametrize(
    "metrics",
    [
        {"before": [1], "after": {"score": "high"}, "differences": 3, "overlap": {"sft": None}},
        {
            "before": {"score": None, "parts": [], "cut": {}},
            "after": {"score": 1e400},
            "differences": {"x": {}},
        },
    ],
)
def test_figures_of_another_shape_cost_no_more_than_their_part(
    tmp_path: Path, metrics: dict[str, Any]
) -> None:
    run = write_run(tmp_path, metrics={"evaluate": metrics, "dpo": {"train_loss": 0.4936}})
    text = parsed(run).text
    assert "0.4936" in text
    assert "1,234 rows read" in text


def test_a_run_whose_recipe_is_lost_shows_its_folders(run: Path) -> None:
    (run / state.RECIPE).write_text("{")
    (run / "recipe.yaml").unlink()
    text = parsed(run).text
    assert "recipe.json is missing or empty: the stages are those whose folders are there" in text
    assert "recipe.yaml is not in the run folder" in text
    assert "stages done 5 of 5" in text
    assert "final model dpo" in text


def test_no_run_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run here"):
        write(tmp_path)


def test_a_file_that_is_something_else_is_left_alone(run: Path) -> None:
    (run / "report.html").write_text("my notes")
    with pytest.raises(RunError, match="no page of this command"):
        write(run)
    assert (run / "report.html").read_text() == "my notes"
    (run / "report.html").unlink()
    assert write(run) == write(run)  # its own page is replaced


def test_a_huge_run_makes_a_page_within_its_size(tmp_path: Path) -> None:
    long = "<&>" * 3000
    many = [
        {**PAIR, "id": f"p{i}", "prompt": f"{i} {long}", "chosen": long, "rejected": "&" * 5000}
        for i in range(900)
    ]
    run = write_run(tmp_path, pairs=many, losses=[1.0 / (1 + i) for i in range(20_000)])
    text = page(gather(run))
    assert len(text.encode()) <= LIMIT
    left = re.search(r"([\d,]+) more pairs are in", text)
    assert left is not None
    assert 700 <= int(left[1].replace(",", "")) <= 900


def test_what_nobody_waits_for_goes_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"watch/figure_{i}" for i in range(30)]
    jsonl(
        run / "sft" / state.METRICS,
        [{"step": step, "loss": 0.5, **dict.fromkeys(keys, step / 3)} for step in (1, 2)],
    )
    whole = page(gather(run))
    assert "watch/figure_29" in whole
    monkeypatch.setattr("pipelines.report.page.LIMIT", len(whole.encode()) - 1)
    text = Parsed(page(gather(run))).text
    assert "watch/figure_29" not in text
    assert "30 more figures are in sft/metrics.jsonl" in text
    assert "Log-probability of the answers" in text


# ---------------------------------------------------------------- its pieces


def test_steps_that_were_made_twice_count_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    jsonl(
        file,
        [
            {"step": 5, "loss": 1.0},
            {"step": 10, "loss": 0.9},
            {"step": 15, "loss": 0.8},
            {"event": "resumed", "step": 10},
            {"step": 10, "loss": 0.91},
            {"step": 15, "loss": 0.81},
            {"step": 20, "loss": None},
        ],
    )
    history = read_history(file)
    assert history.curves["loss"] == [(5, 1.0), (10, 0.91), (15, 0.81)]
    assert (history.redone, history.not_finite) == (2, {"loss": 1})
    assert [(event.kind, event.step) for event in history.events] == [("resumed", 10)]


def test_thinning_keeps_both_ends_and_every_extreme() -> None:
    points = [(float(i), float((i * 7919) % 1013)) for i in range(10_000)]
    kept = thinned(points, 200)
    assert len(kept) <= 200
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(y for _, y in points), max(y for _, y in points)} <= {y for _, y in kept}


def test_differences_mark_what_came_and_what_went() -> None:
    shown = difference("It is a long way to the harbour", "It is a short way to the harbour")
    assert shown == "It is a <del>long</del><ins>short</ins> way to the harbour"
    assert difference("same", "same") == "same"
    assert difference("entirely other words", "nothing alike here") == "<ins>nothing alike here</ins>"
    assert "<script>" not in difference("a b c", "<script> a b c")


def test_texts_and_numbers_as_people_read_them() -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    assert asked(turns) == "system: Be short.\nuser: Hi"
    assert asked(turns[1:]) == "Hi"
    assert said([{"role": "assistant", "content": "Yes."}]) == "Yes."
    shown = [number(v) for v in (None, 1234567, 0.123456, -0.5, 2.5e-7, float("nan"), True)]
    assert shown == ["–", "1,234,567", "0.1235", "−0.5", "2.50e−7", "not finite", "True"]
    assert [fixed(v) for v in (1, 0.97, -2.34567)] == ["1.000", "0.970", "−2.346"]


# ---------------------------------------------------------------- the command


def test_the_verb_writes_the_page_and_imports_nothing_heavy(run: Path) -> None:
    best = 9.0
    for _ in range(4):
        clock = cpu_seconds_of_children()
        done = subprocess.run(
            [sys.executable, "-c", SPY % (HEAVY,), "report", "demo"],
            cwd=run.parent.parent, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        best = min(best, cpu_seconds_of_children() - clock)
        assert done.stderr.splitlines()[-1] == "HEAVY []", done.stderr
        if best < 1:
            break
    assert done.stdout == "runs/demo/report.html\n"
    assert best < 1
    assert (run / "report.html").read_text(encoding="utf-8") == page(gather(run))


def test_a_run_leaves_its_report_and_its_command(tmp_path: Path) -> None:
    from tests.handmade import give_answers, write_recipe

    recipe = write_recipe(tmp_path)
    folder = give_answers(recipe, tmp_path / "runs")
    done = heliograph("run", "demo.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report: runs/demo/report.html"
    text = Parsed((folder / "report.html").read_text(encoding="utf-8")).text
    assert "run demo.yaml" in text
    assert "demo ✓ done" in text
    assert str(tmp_path) in text


def test_the_recipe_is_on_the_page_as_it_was_written(run: Path) -> None:
    assert RECIPE.splitlines()[-1].strip() in parsed(run).text
