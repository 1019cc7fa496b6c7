"""The registry: every name and spelling, the defaults, suggestions for what is misspelt."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainers.logic import describe
from trainers.logic.errors import FormulaError, UnknownLossError
from trainers.logic.lookup import find, named, resolve
from trainers.logic.named import LATTICE, names_of, registry
from trainers.logic.structure import from_core, reference_form


def test_every_loss_of_the_specification_has_a_name() -> None:
    lattice = ("CE", "CEUnl", "sCE", "l3", "cUNL", "l20", "fUnl", "ORPO", "CPO", "l14", "l5", "qfUnl", "bCPO")
    lattice += ("cfUnl", "cCPO", "unCPO")
    others = ("DPO", "SLiC", "RRHF", "IPO", "SimPO", "R-DPO", "ODPO", "DPOP", "NPO")
    for name in (*lattice, *others, *(f"ref-{n}" for n in lattice)):
        assert find(name) is not None, name
    assert len(registry()) == 16 + 16 + 8


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("dpo", "DPO"),
        ("ref-CPO", "DPO"),
        ("Ref_cpo", "DPO"),
        ("qfUNL", "qfUnl"),
        ("fUNL", "fUnl"),
        ("uncCPO", "unCPO"),
        ("unlikelihood", "fUnl"),
        ("unl", "CEUnl"),
        ("rdpo", "R-DPO"),
        ("SIMPO", "SimPO"),
        ("ref-unccpo", "ref-unCPO"),
        ("slic_hf", "SLiC"),
        (" L14 ", "l14"),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert named(spelling).name == name
    assert resolve(spelling)[1] is named(name)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("dop", "DPO"), ("simp0", "SimPO"), ("uncpoo", "unCPO"), ("ref-orp", "ref-ORPO")]
)
def test_misspelt_names_are_answered_with_the_nearest(wrong: str, meant: str) -> None:
    with pytest.raises(UnknownLossError, match=meant):
        resolve(wrong)


def test_a_formula_or_a_name() -> None:
    assert resolve("W") == (from_core("W"), None)
    assert resolve("l -> w")[0] == from_core("L -> W")
    structure, loss = resolve("L -> W", "W | L", "W & L")
    assert loss is None
    assert names_of(structure) == ["CPO", "SLiC", "RRHF"]
    with pytest.raises(FormulaError):
        resolve("L -> ")
    with pytest.raises(UnknownLossError, match="own conditions"):
        resolve("CPO", "W | L")


def test_defaults() -> None:
    for name, entry in registry().items():
        base = name.removeprefix("ref-")
        assert (entry.sft_weight > 0) == (base in ("fUnl", "cfUnl", "unCPO", "l14")), name
        assert entry.scale(0.1) == (20.0 if name == "NPO" else 1.0)
    assert {n for n, e in registry().items() if e.link != "logistic"} == {"SLiC", "RRHF", "IPO"}
    assert (named("IPO").link, named("SLiC").link, named("RRHF").link) == ("squared", "hinge", "margin")
    assert named("IPO").structure == named("DPO").structure == named("SimPO").structure
    assert not named("SimPO").needs_reference
    assert named("DPO").needs_reference
    needs_averages = {n for n, e in registry().items() if e.needs_length_normalisation}
    assert needs_averages == set(registry()) - {"CPO", "DPO", "SLiC", "IPO", "R-DPO", "ODPO", "DPOP", "NPO"}
    for name in LATTICE:
        ref = named(f"ref-{name}")
        assert ref.structure == reference_form(named(name).structure)
        assert ref.needs_reference


def test_descriptions_warn() -> None:
    def told(name: str) -> str:
        return " ".join(describe.description(named(name).structure, named(name))["warnings"])

    assert "both answers improbable" in told("unCPO")
    assert "chosen answer has no gradient" in told("fUnl")
    assert "rejected answer has no gradient" in told("CE")
    assert "squared link" in told("IPO")
    assert "retain" in told("NPO")
    assert told("DPO") == ""


def test_logic_imports_nothing_heavy_but_where_it_computes_or_reads_settings() -> None:
    program = (
        "import sys, pkgutil, importlib, trainers.logic as package\n"
        "for room in pkgutil.iter_modules(package.__path__):\n"
        "    if room.name not in ('compiled', 'stated'): importlib.import_module(f'trainers.logic.{room.name}')\n"
        "import pipelines.losses.cli\n"
        "print([m for m in ('torch', 'numpy', 'mpmath', 'rich', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
