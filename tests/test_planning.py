"""What a plan counts: parameters, bytes, positions, steps and lengths, each against arithmetic or the real thing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.errors import ModelError
from data.sources import Mixture
from pipelines.planning import cost, show
from pipelines.planning.changes import changes, cheapest, cut_rows
from pipelines.planning.estimate import REFERENCE_FREE, Estimator, Here
from pipelines.planning.gpus import propose
from pipelines.planning.layouts import Batch, Row, Stretch, heaviest, lay_out
from pipelines.planning.memory import HOLES, HOLES_RECOMPUTED, activations, head, peak
from pipelines.planning.models import Models
from pipelines.planning.rows import Asked, lengths
from pipelines.planning.setup import Setup
from pipelines.planning.shapes import Shape, lora_parameters, nf4_bytes, shape_of
from pipelines.planning.tokens import Guessed, tokenizer_of
from pipelines.recipe import load
from tests.handmade import heliograph
from tests.training import pair_rows, run_prefer, sft_rows, write_rows
from trainers import aliases

SMALL = Shape(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=100,
    tie_word_embeddings=True,
)
CPU = Here("cpu", "", 25e9, 20e9, 2, ("avx2",))


def test_the_parameters_of_a_llama_by_hand():
    # Of a block: q and o 8 x 8, k and v 8 x 4, three matrices of the MLP 8 x 12, two norms of 8.
    block = 2 * 64 + 2 * 32 + 3 * 96 + 2 * 8
    assert SMALL.block_parameters == block == 496
    assert SMALL.parameters == 2 * block + 100 * 8 + 8 == 1800
    untied = Shape(**{**vars(SMALL), "tie_word_embeddings": False})
    assert untied.parameters == 1800 + 800


@pytest.mark.parametrize("name", ["tiny", "authors", "smollm2-135m"])
def test_the_parameters_of_an_alias_are_those_it_states(name: str):
    assert Models(Path(), {}).start(name).shape.parameters == aliases.ALIASES[name].parameters


UNLIKE = {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "head_dim": 6}


@pytest.mark.parametrize("more", [{}, UNLIKE])
def test_the_parameters_are_those_of_the_real_model(more: dict[str, Any]):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    given = {**vars(SMALL), **more}
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "vocab_size", "tie_word_embeddings", *more)  # fmt: skip
    settings: Any = {name: given[name] for name in names}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**settings))
    read = shape_of({"model_type": "llama", **settings}, "here")
    assert read.parameters == sum(p.numel() for p in model.parameters())


def test_the_parameters_of_lora_by_hand_and_as_peft_makes_them():
    # Rank 2: q and o 8 + 8, k and v 8 + 4, gate, up and down 8 + 12.
    assert lora_parameters(SMALL, 2, "all-linear") == 2 * 2 * (2 * 16 + 2 * 12 + 3 * 20) == 464
    assert lora_parameters(SMALL, 2, ("q_proj", "v_proj")) == 2 * 2 * (16 + 12)
    assert lora_parameters(SMALL, 2, r".*self_attn\.[qk]_proj") == 2 * 2 * (16 + 12)
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    made: Any = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in vars(SMALL).items() if k.startswith(
        ("hidden", "inter", "num_", "vocab", "tie"))}))  # fmt: skip
    wrapped = get_peft_model(made, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    assert wrapped.get_nb_trainable_parameters()[0] == 464


def test_bytes_of_adamw_and_of_weights_in_four_bits():
    found = peak(Setup(SMALL), Batch(4, 2, (Stretch(4, 0),)))
    assert found.parts["weights"] == 4 * 1800
    assert found.parts["optimiser"] == 2 * 4 * 1800  # two averages, float32
    # Half a byte a weight and a float32 for 64 of them; nested: a byte, and for 256 of these a float32.
    assert nf4_bytes(2**20) == 2**19 + 4 * 2**14
    assert nf4_bytes(2**20, nested=True) == 2**19 + 2**14 + 4 * 2**6
    lora = peak(Setup(SMALL, use_peft=True, rank=2), Batch(4, 2, (Stretch(4, 0),)))
    assert (lora.parts["adapters"], lora.parts["optimiser"]) == (4 * 464, 2 * 4 * 464)
    packed = Setup(SMALL, use_peft=True, quantised="nf4")
    assert packed.weights == 4 * (1800 - 2 * 480) + nf4_bytes(2 * 480)


def test_activations_of_a_block_by_hand():
    """Full training of one row of 10 positions, attention with as many keys as queries."""
    shape = Shape(**{**vars(SMALL), "num_key_value_heads": 4, "num_hidden_layers": 3})
    batch = Batch(10, 5, (Stretch(10, 0),))
    # Norms: input, normed and output, twice: 6 x 8. Attention: q, k, v, what it gives, and that put together: 5 x 8.
    # The MLP: gate, its silu, up and their product: 4 x 12. Float32; and for each position 2 scales and 4 sums.
    block = 10 * 4 * (48 + 40 + 48) + 10 * 4 * (2 + 4)
    assert activations(Setup(shape, engine="tree"), batch) == 3 * block + 10 * 4 * 2 * 8
    checkpointed = activations(Setup(shape, engine="tree", checkpointing=True), batch)
    assert checkpointed == block + 3 * 10 * 4 * 8 + 10 * 4 * 2 * 8


def test_the_heads_memory_by_hand():
    wide = Shape(**{**vars(SMALL), "vocab_size": 2**16})
    batch = Batch(2000, 1000, (Stretch(2000, 0),))
    frozen = Setup(wide, use_peft=True, engine="tree")
    # 2**24 logits at once are 256 rows; twice; and two states of each scored position.
    assert head(frozen, batch) == 2 * 256 * 2**16 * 4 + 2 * 1000 * 8 * 4
    trl = Setup(wide, use_peft=True, trl_head=True)
    assert head(trl, batch) == 8.25 * 1000 * 32768 * 4 + 2 * 1000 * 8 * 4
    found = peak(trl, batch)
    transient = sum(found.parts.get(name, 0.0) for name in ("activations", "head", "working"))
    assert found.parts["holes"] == pytest.approx(HOLES * transient)
    again = peak(Setup(wide, use_peft=True, trl_head=True, checkpointing=True), batch)
    layers = again.parts["activations"] + again.parts.get("working", 0.0)
    assert again.parts["holes"] == HOLES * again.parts["head"] + HOLES_RECOMPUTED * layers


@pytest.mark.parametrize("engine", ["tree", "packed", "padded"])
def test_positions_are_those_of_the_engine(engine: Any):
    from trainers.engine import groups

    draw = random.Random(3)
    for _ in range(30):
        rows = [
            Row(draw.randrange(0, 6), tuple(draw.randrange(1, 5) for _ in range(draw.randrange(1, 4))))
            for _ in range(draw.randrange(1, 5))
        ]
        made = groups.lay_out([([1] * p, [[2] * n for n in answers]) for p, answers in rows], engine)
        counted = lay_out(rows, engine)
        assert counted.positions == made.input_ids.numel()
        assert counted.scored == len(made.targets)
        if engine == "tree":
            assert [(one.own, one.before) for one in counted.stretches] == [
                (segment.length, segment.prefix_length) for segment in made.segments
            ]


def test_the_heaviest_batch_goes_by_what_the_engine_pays_for():
    rows = [Row(10, (90, 2)), Row(40, (30, 50)), Row(1, (1, 1))]
    assert heaviest(rows, 1, "padded") == (rows[0],)
    assert heaviest(rows, 1, "tree") == (rows[1],)


def test_steps_as_transformers_counts_them():
    # 103 rows in batches of 8 are 13 batches, by 4 four steps (the last of one batch); 2.5 epochs are 10 steps.
    found = cost.steps(103, 8, 4, 2.5, -1)
    assert (found.per_epoch, found.total, found.rows_per_step) == (4, 10, 32)
    assert cost.steps(103, 8, 4, 2.5, 6).epochs == 1.5


def test_operations_by_hand():
    """LoRA of rank 2 over 10 positions, 4 of them scored, in float32."""
    setup = Setup(SMALL, use_peft=True, rank=2, engine="tree")
    batch = Batch(10, 4, (Stretch(10, 0),))
    trunk, attention = 2 * (2 * 480) * 10, 4 * 55 * 8 * 2
    head_once = 2 * 8 * 100 * 4
    assert cost.forward(setup, batch) == trunk + attention
    # Forward, the states' gradient; attention's backward is twice its forward; the adapter's three products.
    assert cost.operations(setup, batch) == 2 * trunk + 3 * attention + 6 * 464 * 10 + 2 * head_once


def test_lengths_histogram_and_ledger_by_hand(tmp_path: Path):
    rows = [
        {"prompt": "a b c ", "completion": "d e"},
        {"prompt": "a b c ", "completion": "d e"},
        {"prompt": "one two three four five six seven eight ", "completion": "x"},
        {"prompt": "a ", "completion": "b c d e f g h i"},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    from data.chat import TokeniseOptions

    asked = Asked(("prompt_completion",), TokeniseOptions(max_length=8, append_eos=False))
    found = lengths(Mixture.model_validate("rows.jsonl"), tmp_path, asked, Guessed())
    # A token a word; the blank before the answer is the answer's. The third row's prompt fills all 8.
    assert found.rows == (Row(3, (2,)), Row(3, (2,)), Row(1, (7,)))
    assert found.histogram() == {8: 3}
    assert found.repeated == 1
    assert [entry.count for entry in found.ledger.dropped.values()] == [1]
    assert (found.ledger.cut.rows, found.ledger.cut.tokens) == (1, 1)
    assert (found.count, found.tokens, found.exact) == (3, 18, True)


def test_a_large_file_is_sampled_with_its_longest_rows(tmp_path: Path):
    rows = [{"prompt": "a ", "completion": "b " * (1 + i % 5) + "c"} for i in range(1000)]
    rows[777]["completion"] = "b " * 200 + "c"
    write_rows(tmp_path / "rows.jsonl", rows)
    from data.chat import TokeniseOptions

    asked = Asked(("prompt_completion",), TokeniseOptions(append_eos=False))
    found = lengths(Mixture.model_validate("rows.jsonl"), tmp_path, asked, Guessed())
    assert (found.of, found.exact) == (1000, False)
    assert found.count == pytest.approx(1000)
    assert max(row.longest for row in found.rows) == 202
    true = sum(1 + row["completion"].count(" ") + 1 for row in rows)
    assert found.tokens == pytest.approx(true, rel=0.05)


def test_rows_are_counted_as_the_stage_counts_them(tmp_path: Path):
    """The same tokens that transformers' tokenizer gives, through the same templates."""
    run_prefer(tmp_path, "tiny", max_steps=1)
    ledger = json.loads((tmp_path / "ledger.json").read_text())["train"]
    from data.chat import TokeniseOptions

    write_rows(tmp_path / "pairs.jsonl", pair_rows())
    asked = Asked(("preference",), TokeniseOptions(max_length=1024))
    tokenizer = tokenizer_of(aliases.resolve("tiny"))
    found = lengths(Mixture.model_validate("pairs.jsonl"), tmp_path, asked, tokenizer)
    assert found.ledger.model_dump(mode="json")["lengths"] == ledger["lengths"]
    assert (found.tokens, found.ledger.loss_tokens, found.ledger.kept) == (
        ledger["tokens"], ledger["loss_tokens"], ledger["kept"],
    )  # fmt: skip


def recipe(folder: Path, more: str = "", model: str = "tiny") -> Path:
    write_rows(folder / "rows.jsonl", sft_rows())
    write_rows(folder / "pairs.jsonl", pair_rows())
    path = folder / "plan.yaml"
    path.write_text(
        f"recipe: plan\nstages:\n  - {{name: sft, kind: sft, model: {model}, data: rows.jsonl, "
        f"per_device_train_batch_size: 8{more}}}\n"
        "  - {name: dpo, kind: prefer, model: sft, pairs: pairs.jsonl, use_peft: true, lora_r: 4}\n"
    )
    return path


def test_a_chain_of_stages_starts_from_what_the_first_will_leave(tmp_path: Path):
    loaded = load(recipe(tmp_path, ", use_peft: true, load_in_4bit: true, lora_r: 2"))
    models = Models(tmp_path, {stage.name: stage for stage in loaded.stages})
    left = models.start("sft")
    assert left.below == lora_parameters(left.shape, 2, "all-linear")
    assert left.quantised == {"kind": "nf4", "nested": False}
    found = Estimator(tmp_path, loaded.stages, {}).estimate(loaded.stages[1], CPU)
    assert found.setup is not None
    assert (found.setup.quantised, found.setup.below) == ("nf4", left.below)
    assert found.choices["quantisation"] == "nf4, as the stage it starts from"


def test_a_stage_on_pairs_is_estimated_whole(tmp_path: Path):
    loaded = load(recipe(tmp_path))
    found = Estimator(tmp_path, loaded.stages, {}).estimate(loaded.stages[1], CPU)
    assert found.steps is not None
    assert found.steps.total == 3  # 24 pairs in batches of 8
    assert found.choices["engine"].startswith("tree")
    assert found.choices["dtype"] == "float32 (as the stage it starts from)"
    assert found.seconds is not None
    assert found.seconds > found.reference_seconds > 0
    assert all(len(row.answers) == 2 for row in found.heaviest)


def test_an_unknown_model_is_said_and_not_guessed(tmp_path: Path):
    loaded = load(recipe(tmp_path, model="nobody/nothing"))
    found = Estimator(tmp_path, loaded.stages, {}).estimate(loaded.stages[0], CPU)
    assert found.memory is None
    assert found.unknown is not None
    assert "the hub's cache; `heliograph fetch RECIPE` brings it" in found.unknown
    assert "hf download nobody/nothing config.json" in found.unknown
    with pytest.raises(ModelError, match="are not counted here"):
        shape_of({"model_type": "mamba"}, "config.json")


def test_what_would_make_it_fit_comes_with_its_figure(tmp_path: Path):
    loaded = load(recipe(tmp_path, ", use_peft: true", model="smollm2-135m"))
    found = Estimator(tmp_path, loaded.stages, {}).estimate(loaded.stages[0], CPU)
    made = changes(found)
    assert [change.settings for change in made[:3]] == [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    ]
    assert all(change.total < found.total for change in made)
    assert cheapest(found, found.total) is None
    best = cheapest(found, made[-1].total)
    assert best is not None
    assert best.total <= made[-1].total
    assert cut_rows(found, max(row.longest for row in found.rows.rows)) == 0


def test_the_cluster_is_asked_for_one_card_that_holds_it(tmp_path: Path):
    loaded = load(recipe(tmp_path))
    found = propose(Estimator(tmp_path, loaded.stages, {}), loaded.stages[0])
    assert found is not None
    assert found.resources == {"gpus": 1, "hours": 0.25}
    assert found.card == 16e9
    assert found.estimate.choices["mixed precision"] == "bfloat16"


def test_losses_without_a_reference_are_those_that_say_so():
    from trainers.losses.known import PAIRED

    assert {name for name, loss in PAIRED.items() if not loss.needs_reference} == REFERENCE_FREE


def test_the_command_tells_the_costs(tmp_path: Path):
    path = recipe(tmp_path)
    done = heliograph("plan", path.name, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["stages"]
    costs = first["costs"]
    assert costs["rows"]["exact"] is True
    assert (costs["rows"]["count"], costs["steps"]) == (24, 3)
    assert costs["peak"] == pytest.approx(sum(costs["memory"].values()) + costs["program"], abs=9)
    assert costs["gpu"]["note"].startswith("a prediction that was never measured")
    assert second["costs"]["choices"]["engine"].startswith("tree")
    shown = heliograph("plan", path.name, cwd=tmp_path).stdout
    assert "3 steps of 8 rows" in shown
    assert "never measured on a GPU" in shown


def test_a_plan_with_costs_imports_nothing_heavy(tmp_path: Path):
    path = recipe(tmp_path)
    heavy = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "pyarrow", "pandas")
    code = (
        "import sys; from pathlib import Path; from pipelines.verbs import show_plan; "
        f"show_plan(Path({str(path)!r}), [], None, Path({str(tmp_path / 'runs')!r}), True); "
        f"print(sorted(set(sys.modules) & set({heavy!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_measure_runs_real_steps(tmp_path: Path):
    done = heliograph("plan", recipe(tmp_path).name, "--measure", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for stage in json.loads(done.stdout)["stages"]:
        measured = stage["costs"]["measured"]
        assert measured["failed"] is None
        assert measured["peak"] > 0
        assert measured["step_seconds"] > 0


def test_what_does_not_fit_is_said_with_the_cheapest_change_marked(tmp_path: Path):
    loaded = load(recipe(tmp_path, ", use_peft: true", model="smollm2-135m"))
    small = Here("cpu", "", 1.6e9, 1.5e9, 2)
    found = Estimator(tmp_path, loaded.stages, {}).estimate(loaded.stages[0], small)
    shown = list(show.lines(found, small, None, None, alone=True))
    assert any("DOES NOT FIT into this machine's 1.60 GB" in line for line in shown)
    marked = [line for line in shown if line.endswith("<- the cheapest that fits")]
    best = cheapest(found, 1.5e9)
    assert best is not None
    assert len(marked) == 1
    assert best.text() in marked[0]
    assert best.total <= 1.5e9 < found.total
