"""The documentation as a site: every page is in it, it is built without a warning, and the tutorial works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli_reference import cli_reference

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_commands_are_fresh():
    """`python -m pipelines.cli_reference > docs/cli.md` after a change of a command."""
    assert (DOCS / "cli.md").read_text() == cli_reference()


def test_every_command_stands_on_its_page_with_its_options():
    page = cli_reference()
    for verb in ("run", "plan", "label serve", "loss show", "submit", "doctor"):
        assert f"\n## heliograph {verb}\n" in page
    part = page.partition("## heliograph submit\n")[2].partition("\n## ")[0]
    assert "| `--cluster` `FILE` | The cluster file, as slurm/example.yaml. Must be given. |" in part
    assert "| `--runs-dir` `DIR` | Where the runs are. Default: `runs`. |" in part


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / ".mkdocs.yml").read_text())
    assert sorted(listed) == PAGES


def test_the_site_is_built_without_a_warning(tmp_path: Path):
    """Strict: a link or anchor that leads nowhere fails it. It loads nothing from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", ".mkdocs.yml"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    home = (tmp_path / "site" / "index.html").read_text()
    assert re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?|png)"', home) == []
    assert (tmp_path / "site" / "images" / "architecture.svg").is_file()


def walk(page: str) -> list[tuple[str, str, str]]:
    """What the reader does, from top to bottom: (`write`, file, text), (`run`, command, ""), or, with YAML that has no
    file's name, (`append`, "", text) to the file written last.
    """
    files = re.finditer(r'```\w+ title="([\w.]+)"\n(.*?)```', page, re.DOTALL)
    steps = [(found.start(), ("write", found[1], found[2])) for found in files]
    more = re.finditer(r"```yaml\n(.*?)```", page, re.DOTALL)
    steps += [(found.start(), ("append", "", found[1])) for found in more]
    for found in re.finditer(r"```console\n(.*?)```", page, re.DOTALL):
        lines = re.findall(r"^\$ (.*)$", found[1], re.MULTILINE)
        steps += [(found.start(), ("run", line.split("  #")[0].strip(), "")) for line in lines]
    return [step for _, step in sorted(steps, key=lambda one: one[0])]


def test_the_walk_reads_a_page_from_top_to_bottom():
    page = '```yaml title="a.yaml"\nx: 1\n```\n```console\n$ one  # why\n$ two\n```\n```json title="b.jsonl"\n{}\n```\n'
    page += "```yaml\ny: 2\n```\n"
    assert walk(page) == [
        ("write", "a.yaml", "x: 1\n"),
        ("run", "one", ""),
        ("run", "two", ""),
        ("write", "b.jsonl", "{}\n"),
        ("append", "", "y: 2\n"),
    ]


@pytest.mark.slow
def test_the_tutorial_works_word_by_word(tmp_path: Path):
    """Two minutes: the files of docs/sft-to-dpo.md are written, its commands run, one after the other."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    page = (DOCS / "sft-to-dpo.md").read_text()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    ran, written = 0, tmp_path
    for what, name, text in walk(page):
        if what == "write":
            written = tmp_path / name
            written.write_text(text)
            continue
        if what == "append":
            written.write_text(written.read_text() + text)
            continue
        assert name.startswith("heliograph ")
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *name.split()[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            env=environment,
        )
        assert done.returncode == 0, f"{name}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 9
    assert (tmp_path / "runs" / "telegram" / "merged" / "done.json").is_file()
    assert (tmp_path / "runs" / "telegram" / "dpo" / "done.json").is_file()
    assert (tmp_path / "runs" / "telegram-beta" / "dpo" / "done.json").is_file()
    refused = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", "telegram.yaml", "stages.dpo.beta=0.3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert refused.returncode == 2
    assert "stages.dpo.beta: 0.1 -> 0.3" in refused.stderr  # as the page says
