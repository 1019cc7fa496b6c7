"""What README and docs say is so: commands parse or run, recipes validate, generated pages are fresh."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml

from pipelines.cli import app
from pipelines.recipe import check
from pipelines.reference import reference
from trainers.config import LossType

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
READ_ONLY = ("validate", "plan", "loss")


def commands() -> list[str]:
    found: list[str] = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            found += [
                line[2:].split("  #")[0].strip() for line in block.splitlines() if line.startswith("$ ")
            ]
    return list(dict.fromkeys(found))


HELIOGRAPH = [c for c in commands() if c.startswith("heliograph ")]
WRITTEN = {
    name
    for page in PAGES
    for name in re.findall(r'^```\w+ title="([\w.]+)"$', page.read_text(), re.MULTILINE)
}
"""Files that a reader writes; tests/test_site.py writes them and runs what is done with them."""


def test_every_loss_type_stands_on_the_page_of_settings():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert [name for name in get_args(LossType) if f"`{name}`" not in page] == []


def test_there_are_commands_to_test():
    assert len(HELIOGRAPH) >= 7
    assert {"make demo", "make test"} <= set(commands())


@pytest.mark.parametrize("command", HELIOGRAPH)
def test_a_documented_command_parses(command: str):
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(command)[1:]
    verb = group.commands[name]  # type: ignore[attr-defined]
    verb.make_context(name, arguments)


@pytest.mark.parametrize(
    "command", [c for c in HELIOGRAPH if c.split()[1] in READ_ONLY and not WRITTEN & set(c.split())]
)
def test_a_documented_command_that_only_reads_works(command: str):
    words = [sys.executable, "-m", "pipelines.cli", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_recipes_on_a_page_validate(page: Path, tmp_path: Path):
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        if not block.startswith("recipe:"):
            continue
        for file in re.findall(r"[\w/-]+\.jsonl", block):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("{}\n")
        (tmp_path / "page.yaml").write_text(block)
        checked = check(tmp_path / "page.yaml")
        assert [fault.render("page") for fault in checked.faults] == []


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_validates_and_says_what_it_is(recipe: Path):
    checked = check(recipe)
    assert list(checked.faults) == []
    assert list(checked.notices) == []
    text = recipe.read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["description"]


def test_the_list_of_settings_is_fresh():
    """`python -m pipelines.reference > docs/recipes.md` after a change of a setting."""
    assert (ROOT / "docs" / "recipes.md").read_text() == reference()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_no_page_names_this_machine():
    for page in PAGES:
        text = page.read_text()
        assert os.path.expanduser("~") + "/" not in text
        assert "/tmp/" not in text
