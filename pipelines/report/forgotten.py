"""Forget against utility: the chart of the forget report, its main figures, and what the models say."""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import Any

from pipelines.forgetting.plots import Axis, Mark, Series, around, chart, legend
from pipelines.report.gather import Recorded, RunRecord, listing, mapping, values
from pipelines.report.history import number_of
from pipelines.report.markup import code, number, part, table
from pipelines.report.samples import card

COLUMNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("forget quality", ("forget_quality",)),
    ("utility", ("utility",)),
    ("forget: probability", ("sets", "forget", "probability")),
    ("forget: ROUGE-L", ("sets", "forget", "rouge")),
    ("extraction strength", ("extraction_strength",)),
    ("AUC", ("auc",)),
)
UNTOLD = 0.05
SHOWN = 4


def forgotten(run: RunRecord, faults: list[str]) -> str:
    return "".join(
        _suite(stage, faults)
        for stage in run.of("evaluate")
        if stage.config.get("suite") == "forgetting" and stage.done
    )


def _suite(stage: Recorded, faults: list[str]) -> str:
    found = values(stage.folder / "forgetting.json", faults)
    models = mapping(found.get("models"))
    if not models:
        return ""
    lines = [
        [escape(label), *(_value(_at(one, path)) for _, path in COLUMNS)] for label, one in models.items()
    ]
    said = [mapping(one) for one in listing(found.get("samples"))]
    cards = [
        card(
            one.get("question", ""),
            {label: (str(text), None) for label, text in mapping(one.get("said")).items()},
            tag="to be forgotten" if one.get("set") == "forget" else "to be kept",
            compare=False,
            right=str(one.get("answer", "")),
        )
        for one in islice(said, SHOWN)
    ]
    samples = f'<h4>What they say</h4><div class="samples">{"".join(cards)}</div>' if cards else ""
    page = stage.folder / "forgetting.html"
    more = (
        f"<p>{code(f'{stage.name}/forgetting.html')} in the run folder has the way there, the attacks and all "
        "measures.</p>"
        if page.is_file()
        else ""
    )
    return part(
        stage.name,
        _trade_off(found)
        + table(["", *(name for name, _ in COLUMNS)], lines, kind="figures")
        + more
        + samples,
    )


def _at(one: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        one = mapping(one).get(key)
    return one


def _value(given: Any) -> str:
    one = mapping(given)
    value, low, high = (number_of(one.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return "–"
    between = (
        f"<small>{number(low, 3)} to {number(high, 3)}</small>"
        if low is not None and high is not None
        else ""
    )
    return number(value, 3) + between


def _span(given: Any) -> tuple[float, float] | None:
    low, high = (number_of(mapping(given).get(key)) for key in ("low", "high"))
    return (low, high) if low is not None and high is not None else None


def _trade_off(found: Any) -> str:
    models = mapping(found.get("models"))
    series: list[Series] = []
    for i, (label, one) in enumerate(models.items()):
        x = number_of(mapping(_at(one, ("utility",))).get("value"))
        y = number_of(mapping(_at(one, ("forget_quality",))).get("value"))
        if x is not None and y is not None:
            marks = [Mark(x, y, _span(_at(one, ("utility",))), _span(_at(one, ("forget_quality",))))]
            series.append(Series(label, i, marks))
    if not series:
        return '<p class="missing">Forget quality needs a retrained model, and the recipe names none.</p>'
    far = max(max(m.x, m.across[1] if m.across else m.x) for one in series for m in one.marks)
    x = Axis("model utility", 0, far * 1.06 or 1)
    y = around("forget quality", [*(max(m.y, 1e-12) for one in series for m in one.marks), 0.01], log=True)
    drawn = chart(
        "trade-off",
        series,
        x,
        y,
        "Forget quality over model utility, a point for each model",
        line=False,
        guide=UNTOLD,
    )
    retrained = escape(str(found.get("retrained")))
    return (
        '<p class="hint">Up and to the right is better: forgotten as if never learned, and all else still known. '
        f"Above the dashed line, {UNTOLD}, a model is not told from <b>{retrained}</b>, which never saw what was "
        "forgotten; on the left that means nothing, for a broken model stands there too.</p>"
        f'<figure class="chart trade">{drawn}{legend(series, line=False)}</figure>'
    )
