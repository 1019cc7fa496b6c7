"""To do it again: what `auto` became, the commands, the recipe, and the versions and machine it ran on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.report.gather import RunRecord, mapping
from pipelines.report.markup import code, facts, folded, part, table
from pipelines.summary import figure, size


def chosen(run: RunRecord) -> str:
    """What every `auto` became, by stage; stages of one mind share a line."""
    by_choice: dict[tuple[str, str, str], list[str]] = {}
    for stage in run.stages:
        found: Mapping[str, Any] = stage.done.resolved if stage.done else {}
        for key, given in found.items():
            one = mapping(given)
            value = one.get("value", given)
            words = figure(value) if isinstance(value, int | float | str) else str(value)
            by_choice.setdefault((key, words, str(one.get("why", ""))), []).append(stage.name)
    lines = [
        [code(key), f"<b>{escape(value)}</b>", escape(why), ", ".join(escape(name) for name in names)]
        for (key, value, why), names in sorted(by_choice.items())
    ]
    return table(["setting", "became", "because", "in"], lines, kind="stack")


def again(run: RunRecord) -> str:
    versions: dict[str, dict[str, list[str]]] = {}
    devices: dict[str, list[str]] = {}
    commits: dict[str, list[str]] = {}
    peak = 0
    for stage in run.stages:
        if stage.done is None:
            continue
        for package, version in stage.done.versions.items():
            versions.setdefault(package, {}).setdefault(version, []).append(stage.name)
        if stage.done.device:
            devices.setdefault(stage.done.device, []).append(stage.name)
        commit = stage.done.commit or {}
        if commit.get("id"):
            words = str(commit["id"])[:12] + (
                " with changes that were not committed" if commit.get("dirty") else ""
            )
            commits.setdefault(words, []).append(stage.name)
        peak = max(peak, *(stage.done.peak_memory.values() or (0,)))
    return (
        part("Commands", _commands(run))
        + part(
            "Made with",
            facts(
                {
                    "machine": _each(devices),
                    "most memory": size(peak) if peak else "",
                    "commit of the recipe’s folder": _each(commits),
                    "recipe": code(run.recipe_path) if run.recipe_path else "",
                    "run folder": code(run.folder.resolve()),
                }
            )
            + _versions(versions),
        )
        + part("The recipe as it was written", _recipe(run))
    )


def _commands(run: RunRecord) -> str:
    """As they were typed, oldest first; a run of before they were kept has what its recipe says."""
    if run.commands:
        lines = [
            [
                escape(str(one.get("time", ""))[:19].replace("T", " ")),
                f'<pre class="line">{escape(str(one.get("command", "")))}</pre>',
                code(one.get("cwd", "")),
            ]
            for one in run.commands
        ]
        return table(["", "command", "in"], lines, kind="stack")
    recipe = run.recipe_path or "RECIPE"
    command = f"heliograph run {shlex.quote(recipe)} --name {shlex.quote(run.name)}"
    told = (
        "The command itself was not recorded. Values changed on the command line are in the resolved recipe."
    )
    return f'<pre class="line">{escape(command)}</pre><p class="missing">{told}</p>'


def _each(found: Mapping[str, list[str]]) -> str:
    """One value, or each with the stages it belongs to."""
    if len(found) == 1:
        return escape(next(iter(found)))
    return "<br>".join(
        f"{escape(value)} <small>{escape(', '.join(names))}</small>" for value, names in found.items()
    )


def _versions(found: Mapping[str, Mapping[str, list[str]]]) -> str:
    lines = "".join(
        f"<li>{escape(package)} <b>{_each(each)}</b></li>" for package, each in found.items() if each
    )
    return f'<ul class="versions">{lines}</ul>' if lines else ""


def _recipe(run: RunRecord) -> str:
    if not run.recipe_text:
        return '<p class="missing">recipe.yaml is not in the run folder.</p>'
    return folded("recipe.yaml", f'<pre class="file">{escape(run.recipe_text[:200_000])}</pre>')
