"""docs/losses.md: its tables are fresh, its formulas and losses can be read, its commands print what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from data.errors import DataError
from pipelines import loss_reference
from pipelines.losses.cli import loss_app
from trainers.config import SymbolicLoss
from trainers.logic import tables
from trainers.logic.language import parse
from trainers.logic.measure import measure
from trainers.logic.named import LATTICE, registry
from trainers.logic.stated import state
from trainers.logic.structure import from_core, reference_form

PAGE = Path(__file__).parent.parent / "docs" / "losses.md"
TEXT = PAGE.read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def _commands() -> list[tuple[str, str]]:
    """Each command and what the page shows below it, "" where it shows nothing."""
    found: list[tuple[str, str]] = []
    for block in _blocks("console"):
        for part in block.split("$ ")[1:]:
            line, _, output = part.partition("\n")
            found.append((line.split("  #")[0].strip(), output))
    return found


def _rows(part: str) -> list[list[str]]:
    table = re.search(rf"<!-- generated: {part} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert table
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[1].splitlines()[2:]]
    return [[cell.strip().replace("\\|", "|").strip("`*") for cell in line] for line in lines]


def test_the_generated_parts_are_fresh():
    """`python -m pipelines.loss_reference docs/losses.md` after a change of a loss."""
    assert loss_reference.filled(TEXT) == TEXT


def test_a_page_that_lacks_a_part_is_refused():
    with pytest.raises(DataError, match="others"):
        loss_reference.filled(TEXT.replace("<!-- generated: others -->", ""))


@pytest.mark.parametrize(("command", "output"), _commands(), ids=lambda x: x.partition("\n")[0][:50])
def test_a_command_prints_what_the_page_shows(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    heliograph, loss, *words = shlex.split(command)
    assert (heliograph, loss) == ("heliograph", "loss")
    done = CliRunner().invoke(loss_app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()
    if output:
        assert done.stdout == output


def test_there_are_commands_of_every_verb():
    verbs = {command.split()[2] for command, _ in _commands()}
    assert verbs == {"list", "show", "explore", "compare", "decompile", "neighbours", "search", "value"}
    assert sum(bool(output) for _, output in _commands()) >= 4


def test_the_spellings_are_one_formula():
    (block,) = _blocks("formula")
    found = {
        tables.table(parse(line), ("Winner", "Loser", "Ref.Winner", "Ref.Loser"))
        for line in block.splitlines()
    }
    assert len(block.splitlines()) == 4
    assert len(found) == 1


def test_the_table_of_connectives_is_the_language():
    """In the order of how tightly they bind: each line but the last two takes up the next without parentheses."""
    rows = re.findall(
        r"^\| `(.+?)` \| (.+?) \|", TEXT.split("## How to write one")[1].split("Words and")[0], re.MULTILINE
    )
    atoms = ("Winner", "Loser")
    found = {text.replace("\\|", "|"): meaning for text, meaning in rows}
    expected = {
        "~Loser": 0b0011,
        "Winner & ~Loser": 0b0010,
        "Winner ^ Loser": 0b0110,
        "Winner | Loser": 0b1110,
    }
    expected |= {"Loser -> Winner": 0b1011, "Winner <-> Loser": 0b1001}
    for text, rows_of in expected.items():
        assert text in found
        assert tables.table(parse(text), atoms) == rows_of
    assert parse("W | L ^ W & ~L") == parse("W | (L ^ (W & (~L)))")
    assert parse("W <-> L -> W | L") == parse("W <-> (L -> (W | L))")
    for words in (
        "not W",
        "W and L",
        "W xor L",
        "W or L",
        "W implies L",
        "W iff L",
        "¬W",
        "W ∧ L",
        "W ⊕ L",
        "W ∨ L",
        "W → L",
        "W ↔ L",
    ):
        parse(words)


def test_losses_for_recipes_are_accepted_and_mean_what_the_page_says():
    written, named = (SymbolicLoss.model_validate(yaml.safe_load(block)["loss"]) for block in _blocks("yaml"))
    dpo = state(written)
    assert dpo.structure == registry()["DPO"].structure
    assert (dpo.link, dpo.beta, dpo.sft_weight, dpo.averages) == ("logistic", 0.1, 0.01, False)
    assert state(named).structure == registry()["cCPO"].structure


def test_every_named_loss_is_in_one_table():
    told = [row[0] for part in ("lattice", "references", "others") for row in _rows(part)]
    assert sorted(told) == sorted(registry())


def test_the_tables_give_back_the_structures():
    for name, formula, given, also, *_ in _rows("lattice"):
        assert from_core(formula, given, also) == registry()[name].structure
    for name, of, *_ in _rows("references"):
        assert reference_form(from_core(*LATTICE[of])) == registry()[name].structure


def test_the_groups_are_what_the_specification_says():
    groups = {what: names.split(", ") for what, names in _rows("groups")}
    assert groups["satisfied by making every answer improbable"] == [
        *("fUnl", "l14", "cfUnl", "unCPO", "ref-fUnl", "ref-l14", "ref-cfUnl", "ref-unCPO", "NPO"),
    ]
    assert groups["works with summed log-probs"] == [
        "CPO",
        "DPO",
        "SLiC",
        "IPO",
        "R-DPO",
        "ODPO",
        "DPOP",
        "NPO",
    ]
    assert groups["the rejected answer has no gradient"] == ["CE", "ref-CE"]
    assert groups["the chosen answer has no gradient"] == ["fUnl", "ref-fUnl"]
    assert {"CPO", "DPO", "IPO", "SimPO"} <= set(
        groups["unchanged when both answers become improbable alike"]
    )
    assert set(LATTICE) <= set(groups["needs no reference model"])
    assert not any(name.startswith("ref-") for name in groups["needs no reference model"])


def test_pulls_by_differences():
    """The printed gradients against central differences of the loss at beta 1."""
    at = {"Winner": -1.3, "Loser": -1.5, "Ref.Winner": -1.3, "Ref.Loser": -1.5}
    for part, column in (("lattice", 5), ("references", 4)):
        for row in _rows(part):
            structure = registry()[row[0]].structure
            for atom, printed in zip(("Winner", "Loser"), row[column].split(", "), strict=True):
                up, down = (measure(structure, at | {atom: at[atom] + h}).loss for h in (1e-5, -1e-5))
                assert float(printed) == pytest.approx((up - down) / 2e-5, abs=6e-4)


def test_what_the_prose_says_of_numbers():
    pulls = {row[0]: abs(float(row[5].split(", ")[0])) for row in _rows("lattice")}
    some = [pull for pull in pulls.values() if pull]
    assert 69 <= max(some) / min(some) <= 75, "a factor of 70"
    for name in ("cCPO", "bCPO", "CE"):
        both = measure(registry()[name].structure, {"Winner": -1.3, "Loser": -1.5}).rho
        assert measure(registry()[name].structure, {"Winner": -2.3, "Loser": -2.5}).rho < both
