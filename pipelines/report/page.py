"""The report of one run: all parts put into the page, within its size, and written beside the run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from data.errors import DataError, RunError
from data.jsonl import replacing
from pipelines.progress import duration
from pipelines.report.again import again, chosen
from pipelines.report.collected import collected
from pipelines.report.curves import curves
from pipelines.report.forgotten import forgotten
from pipelines.report.gather import Recorded, RunRecord, gather
from pipelines.report.ledgers import ledgers
from pipelines.report.lineage import final_model, lineage
from pipelines.report.markup import number, section, state_tag, table, tiles
from pipelines.report.missing import missing
from pipelines.report.picture import anchor, picture
from pipelines.report.reranked import reranked
from pipelines.report.results import results
from pipelines.report.stated_loss import losses
from pipelines.summary import headline

PAGE = "report.html"
GENERATOR = '<meta name="generator" content="heliograph report">'
"""Looked for before a file is replaced."""
LIMIT = 5_000_000
"""Bytes; a page above it is made again with less in it."""
SIZES = ((200, False), (50, False), (12, True), (0, True))
"""How many pairs a stage shows, and whether only the curves are drawn that people look for."""
NOT_AS_EXPECTED = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    ZeroDivisionError,
    OverflowError,
)
"""What a file that is JSON, but not what its stage writes, does to the part that reads it."""
Build = Callable[[list[str]], str]


def write(run_dir: Path, out: Path | None = None) -> Path:
    """The page of the run, in its folder unless said otherwise."""
    return put(page(gather(run_dir)), out or run_dir / PAGE)


def put(text: str, path: Path) -> Path:
    """Into a file, but never over one that is something else."""
    if path.is_dir():
        raise RunError("this is a folder", where=str(path), way_out=f"name a file: --out {path / PAGE}")
    try:
        if path.exists() and GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:4000]:
            raise RunError(
                "it exists and is no page of this command", where=str(path), way_out="choose another --out"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as fault:
        raise RunError(
            f"cannot be written: {fault.strerror}", where=str(path), way_out="name another --out"
        ) from fault
    except DataError as fault:
        raise RunError(fault.what, where=fault.where, way_out=fault.way_out) from fault
    return path


def page(run: RunRecord) -> str:
    """The whole page; the same text for the same files."""
    text = ""
    for most, brief in SIZES:
        text = _page(run, most, brief)
        if len(text.encode()) <= LIMIT:
            break
    return text


def _page(run: RunRecord, most: int, brief: bool) -> str:
    faults: list[str] = []

    def guarded(name: str, build: Build) -> str:
        try:
            return build(faults)
        except NOT_AS_EXPECTED as fault:
            faults.append(f"{name}: the files are not as expected ({type(fault).__name__}: {fault})")
            return ""

    parts: Sequence[tuple[str, str, str, Build]] = (
        ("results", "Results", "", lambda told: results(run, told)),
        ("forgetting", "Forgetting", "", lambda told: forgotten(run, told)),
        (
            "training",
            "Training",
            '<span class="needs-script">Point at a chart to read values, drag to zoom, double-click to see all, press '
            "a name to hide its line.</span> A flag is what a watchdog said, or where an attempt went on.",
            lambda told: curves(run, brief=brief),
        ),
        ("loss", "The loss", "", lambda told: losses(run, told)),
        ("preferences", "Preferences", "", lambda told: collected(run, told)),
        ("radio", "RADIO", "", lambda told: reranked(run, told)),
        ("data", "Data", "What became of every row that was read.", lambda told: ledgers(run, told)),
        ("lineage", "Lineage", "", lambda told: lineage(run, most, told)),
        ("auto", "Chosen by auto", "", lambda told: chosen(run)),
        ("again", "To do it again", "", lambda told: again(run)),
    )
    made = [
        (key, title, section(key, title, guarded(title, build), hint)) for key, title, hint, build in parts
    ]
    stages = section(
        "stages", "The stages", guarded("The stages", lambda told: picture(run) + stage_table(run))
    )
    open_ends = section("missing", "What is missing", missing(run, faults))
    bodies = [("missing", "What is missing", open_ends), ("stages", "The stages", stages), *made]
    return filled(
        title=run.name,
        header=header(run),
        sections=[(key, title, body) for key, title, body in bodies if body],
    )


def filled(*, title: str, header: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The frame with its slots filled. Scripts and styles run by their sums, and nothing else does."""
    folder = resources.files("pipelines") / "pages"
    frame, style, script = (
        (folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in sections)
    slots = {
        "generator": GENERATOR,
        "policy": f"default-src 'none'; style-src '{_sum(style)}'; script-src '{_sum(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "title": escape(title),
        "style": style,
        "script": script,
        "header": header,
        "links": links,
        "sections": "\n".join(body for _, _, body in sections),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], frame)


def _sum(text: str) -> str:
    """As a content security policy names it; the element holds the text between two line ends."""
    return "sha256-" + base64.b64encode(hashlib.sha256(f"\n{text}\n".encode()).digest()).decode()


def header(run: RunRecord) -> str:
    done = [stage for stage in run.stages if stage.done]
    seconds = sum(stage.done.seconds for stage in done if stage.done)
    last = final_model(run)
    ends = [stage.done.finished for stage in done if stage.done]
    shown = {
        "stages done": f"{len(done)} of {len(run.stages)}",
        "time at work": duration(seconds) if done else "",
        "final model": last.name if last and last.done else "",
        "finished": max(ends)[:16].replace("T", " ") + " UTC"
        if ends and len(done) == len(run.stages)
        else "",
    }
    scores = [
        f"<li><span>{escape(stage.name)}</span><b>{escape(str(stage.metrics['score']).replace('->', '→'))}</b></li>"
        for stage in done
        if isinstance(stage.metrics.get("score"), str)
    ]
    told = f"<p>{escape(run.description)}</p>" if run.description else ""
    result = f'<ul class="tiles wide-tiles">{"".join(scores)}</ul>' if scores else ""
    return f"<h1>{escape(run.name)} {state_tag(stand(run))}</h1>{told}{tiles(shown)}{result}"


def stand(run: RunRecord) -> str:
    """Of the run as a whole: what is worst, or how far it is."""
    found = {stage.stand for stage in run.stages}
    for one in ("damaged", "failed", "running", "waiting", "interrupted"):
        if one in found:
            return one
    return "done" if found == {"done"} else "interrupted" if "done" in found else "pending"


def stage_table(run: RunRecord) -> str:
    """Each stage with its time and its first figures."""
    total = sum(stage.done.seconds for stage in run.stages if stage.done) or 1.0
    lines = [
        [
            f'<span id="{escape(anchor(stage.name))}">{_name(stage)}</span>',
            escape(stage.kind),
            state_tag(stage.stand),
            _time(stage, total),
            escape(_memory(stage)),
            escape(headline(stage.metrics)) if stage.done else escape(_note(stage)),
        ]
        for stage in run.stages
    ]
    return table(["stage", "kind", "state", "time", "memory", "figures"], lines, kind="stack stages")


def _name(stage: Recorded) -> str:
    name = f"<b>{escape(stage.name)}</b>"
    return f'<a href="#train-{escape(stage.name)}">{name}</a>' if stage.history.curves else name


def _time(stage: Recorded, total: float) -> str:
    if not stage.done:
        return ""
    share = 100 * stage.done.seconds / total
    return (
        f"{duration(stage.done.seconds)}"
        f'<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{share:.0f} % of '
        f'the run"><rect width="100" height="6"/><rect class="of" width="{max(share, 0.8):.1f}" height="6"/></svg>'
    )


def _memory(stage: Recorded) -> str:
    if not stage.done:
        return ""
    found = stage.done.peak_memory
    return ", ".join(f"{number(v / 1e9, 2)} GB{' GPU' if k == 'gpu' else ''}" for k, v in found.items())


def _note(stage: Recorded) -> str:
    if stage.failed and stage.stand == "failed":
        return stage.failed.what[:300]
    if stage.waiting and stage.stand == "waiting":
        return stage.waiting.what[:300]
    return ""
