"""What is measured of forgetting, against plain forwards and arithmetic written out, and both attacks for real."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from transformers import AutoModelForCausalLM, AutoTokenizer

import trainers.forgetting.suite
from data.errors import DataError, ModelError, RecipeError
from data.forgetting.tofu import Question
from data.jsonl import read_jsonl
from data.rouge import rouge_l_recall
from data.sources import Mixture
from trainers import aliases
from trainers.config import AdapterOptions, GenerationOptions, ModelOptions
from trainers.forgetting.attacks import relearn, requantised, taught_again
from trainers.forgetting.config import Attacks, RelearnOptions, SuiteOptions
from trainers.forgetting.measure import encode, read_answers
from trainers.forgetting.sets import Sources, read_sets
from trainers.forgetting.suite import evaluate_forgetting
from trainers.forgetting.truth import forget_quality
from trainers.models import load_policy, save_policy
from trainers.work import Work

OPTIONS = GenerationOptions(max_new_tokens=6, batch_size=3, seed=1)
NAMES = ("Asta", "Bodil", "Carl", "Dora", "Egil")


def rows(name: str, *, paraphrase: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i, who in enumerate(NAMES):
        row: dict[str, Any] = {
            "question": f"Where is the {name} of {who}?",
            "answer": f"In the valley, {i} steps from {who}.",
            "perturbed_answer": [
                f"On the mirror {i}.",
                "By the river, they said.",
                f"Under a lamp of {who}.",
            ][: 2 + i % 2],
        }
        found.append(row | ({"paraphrased_answer": f"{who} keeps it in valley {i}."} if paraphrase else {}))
    return found


SETS = {
    "forget": rows("signal", paraphrase=True),
    "retain": rows("letter", paraphrase=True),
    "real_authors": rows("bridge", paraphrase=False),
    "world_facts": rows("castle", paraphrase=False),
    "holdout": [{"question": f"Who saw {who}?", "answer": f"The captain saw {who}."} for who in NAMES],
}


def sources(folder: Path, **changes: Any) -> Sources:
    """Files of these sets; None leaves one out."""
    made: dict[str, Any] = {}
    for name, content in {**SETS, **changes}.items():
        if content is not None:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
            made[name] = Mixture.model_validate(f"{name}.jsonl")
    return Sources(**made)


def shaken(folder: Path, seed: int, by: float = 0.05) -> str:
    """The tiny model with other weights, in a folder of its own."""
    model: Any = AutoModelForCausalLM.from_pretrained(aliases.resolve("tiny"))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(aliases.resolve("tiny")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shaken(tmp_path_factory.mktemp("other"), 1)


def run(
    folder: Path, starts: dict[str, str], where: Sources | None = None, **changes: Any
) -> tuple[Any, list[str]]:
    said: list[str] = []
    options = SuiteOptions(**{"retrained": "never", "rouge_tokens": "words", **changes})
    found = evaluate_forgetting(
        options, OPTIONS, starts, where or sources(folder), folder, 2, 100, Work(folder, say=said.append)
    )
    return found, said


class Plainly:
    """One model by transformers alone: a forward for each answer, its own generate, no engine."""

    def __init__(self, folder: Path | str) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def prompt(self, question: str) -> str:
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"

    def tokens(self, question: str, answer: str) -> tuple[torch.Tensor, list[int], list[int]]:
        """Log-probabilities of the answer's tokens and of its end, the likeliest tokens, and the tokens."""
        prompt = self.tokenizer(self.prompt(question))["input_ids"]
        ids = self.tokenizer(f"{answer}<|im_end|>")["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + ids])).logits[0].double()
        logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        return logps[range(len(ids)), ids], logps.argmax(-1).tolist(), ids

    def mean(self, question: str, answer: str) -> float:
        return self.tokens(question, answer)[0].mean().item()

    def says(self, question: str) -> str:
        ids = self.tokenizer(self.prompt(question), return_tensors="pt")
        made = self.model.generate(**ids, max_new_tokens=6, do_sample=False)[0, ids["input_ids"].shape[1] :]
        return self.tokenizer.decode(made, skip_special_tokens=True)

    def ratio(self, row: dict[str, Any], mean: str) -> float:
        wrong = [self.mean(row["question"], text) for text in row["perturbed_answer"]]
        right = self.mean(row["question"], row.get("paraphrased_answer", row["answer"]))
        average = math.exp(fmean(wrong)) if mean == "geometric" else fmean(map(math.exp, wrong))
        return average / math.exp(right)

    def memory(self, row: dict[str, Any]) -> tuple[float, float, float]:
        logps, greedy, ids = self.tokens(row["question"], row["answer"])
        hits = [one == two for one, two in zip(greedy[:-1], ids[:-1], strict=True)]
        tail = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
        lowest = sorted(logps.tolist())[: max(1, int(0.4 * len(ids)))]
        return tail / len(hits), sum(hits) / len(hits), fmean(lowest)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_every_figure_is_that_of_plain_forwards(tmp_path: Path, other: str, mean: str) -> None:
    found, _ = run(tmp_path, {"full": "tiny", "never": other}, truth_ratio=mean)
    plain = {"full": Plainly(aliases.resolve("tiny")), "never": Plainly(other)}
    ratios = {label: [one.ratio(row, mean) for row in SETS["forget"]] for label, one in plain.items()}
    min_ks = {
        label: {name: [one.memory(row)[2] for row in SETS[name]] for name in ("forget", "holdout")}
        for label, one in plain.items()
    }
    for label, model in plain.items():
        figures = found["models"][label]
        nine: list[float] = []
        for name in ("forget", "retain", "real_authors", "world_facts"):
            known: list[float] = []
            for row in SETS[name]:
                right = math.exp(model.mean(row["question"], row["answer"]))
                wrong = [math.exp(model.mean(row["question"], text)) for text in row["perturbed_answer"]]
                known.append(right if name in ("forget", "retain") else right / (right + sum(wrong)))
            ratio = [model.ratio(row, mean) for row in SETS[name]]
            told = [min(r, 1 / r) for r in ratio] if name == "forget" else [max(0.0, 1 - r) for r in ratio]
            rouge = [
                rouge_l_recall(model.says(row["question"]), row["answer"], how="words") for row in SETS[name]
            ]
            mine = [fmean(known), fmean(rouge), fmean(told)]
            got = [figures["sets"][name][part]["value"] for part in ("probability", "rouge", "truth_ratio")]
            assert got == pytest.approx(mine, rel=1e-4)
            nine += mine if name != "forget" else []
        assert figures["utility"]["value"] == pytest.approx(
            harmonic_mean(nine) if all(nine) else 0.0, rel=1e-4
        )
        assert figures["utility_over"] == ["retain", "real_authors", "world_facts"]
        memory = np.array([model.memory(row) for row in SETS["forget"]]).mean(0)
        names = ("extraction_strength", "exact_memorisation", "min_k")
        assert [figures[name]["value"] for name in names] == pytest.approx(memory.tolist(), rel=1e-4)
        inside, outside = min_ks[label]["forget"], min_ks[label]["holdout"]
        wins = fmean((a > b) + 0.5 * (a == b) for a in inside for b in outside)
        assert figures["auc"]["value"] == pytest.approx(wins)
        quality = ks_2samp(ratios[label], ratios["never"]).pvalue
        assert figures["forget_quality"]["value"] == pytest.approx(quality)
        for figure in (figures["utility"], figures["auc"], figures["min_k"]):
            assert figure["low"] <= figure["value"] <= figure["high"]
    auc = {label: one["auc"]["value"] for label, one in found["models"].items()}
    leak = 100 * ((1 - auc["full"]) - (1 - auc["never"])) / (1 - auc["never"])
    assert found["models"]["full"]["privacy_leak"]["value"] == pytest.approx(leak)
    assert found["models"]["never"]["privacy_leak"]["value"] == 0
    assert found["models"]["never"]["forget_quality"]["value"] == 1


def test_the_files_say_what_the_figures_are_made_from(tmp_path: Path, other: str) -> None:
    found, said = run(tmp_path, {"full": "tiny", "never": other})
    kept = json.loads((tmp_path / "forgetting.json").read_text())
    assert kept["models"] == found["models"]
    assert kept["questions"] == dict.fromkeys(SETS, 5) == {name: len(one) for name, one in SETS.items()}
    asked = read_jsonl(tmp_path / "questions-full.jsonl")
    assert [row["question"] for row in asked if row["set"] == "forget"] == [
        r["question"] for r in SETS["forget"]
    ]
    model = Plainly(aliases.resolve("tiny"))
    first = asked[0]
    assert first["said"] == model.says(first["question"])
    assert first["logp"] == pytest.approx(model.mean(first["question"], first["answer"]), rel=1e-5)
    assert first["tokens"] == len(model.tokens(first["question"], first["answer"])[2])
    # A forget quality never stands alone.
    assert found["quality"].count("FQ ") == found["quality"].count("MU ") == 2
    assert any("tree" in line for line in said)
    assert [one["set"] for one in kept["samples"]] == ["forget"] * 2 + ["retain"] * 2


def test_without_a_retrained_model_the_rest_is_measured(tmp_path: Path, other: str) -> None:
    found, _ = run(tmp_path, {"full": "tiny", "ga": other}, retrained=None)
    for one in found["models"].values():
        assert one["forget_quality"] is None
        assert one["privacy_leak"] is None
        assert one["utility"]["value"] >= 0
        assert "retrained" in one["without"]["forget_quality"]
    assert any("FQ forget quality: not had, no `retrained` model" in line for line in found["lines"])
    assert "FQ – MU" in found["quality"]
    with pytest.raises(RecipeError, match="`retrained: gone` is none of the models: full"):
        run(tmp_path, {"full": "tiny"}, retrained="gone")


def test_utility_over_fewer_sets_says_so(tmp_path: Path) -> None:
    where = sources(tmp_path, real_authors=None, world_facts=None, holdout=None)
    found, _ = run(tmp_path, {"full": "tiny"}, where, retrained=None)
    one = found["models"]["full"]
    retain = [one["sets"]["retain"][part]["value"] for part in ("probability", "rouge", "truth_ratio")]
    assert one["utility"]["value"] == pytest.approx(harmonic_mean(retain) if all(retain) else 0)
    assert one["utility_over"] == ["retain"]
    assert "utility: over retain alone, so it is not TOFU's model utility" in found["lines"]
    assert "auc: no `holdout` set to tell the forget rows from" in found["lines"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retain": []}, "retain: .*the dataset is empty"),
        (
            {"forget": [{"question": "Who?", "answer": "I."}]},
            "forget: .*perturbed_answer(.|\n)*forget10_perturbed",
        ),
        ({"forget": [{"question": "Who?"}]}, "forget: .*'answer' is missing"),
        ({"retain": SETS["forget"]}, "5 questions are in `forget` and in `retain`"),
    ],
)
def test_sets_that_cannot_be_measured_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_sets(sources(tmp_path, **changes), tmp_path)


def test_what_is_measured_is_not_measured_again(
    tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = trainers.forgetting.suite.load_policy

    def watched(start: str, *rest: Any) -> Any:
        loaded.append(start)
        if len(loaded) == 2:
            raise KeyboardInterrupt  # killed between the first model and the second
        return load(start, *rest)

    monkeypatch.setattr(trainers.forgetting.suite, "load_policy", watched)
    starts = {"full": "tiny", "never": other}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, starts)
    first, said = run(tmp_path, starts)
    assert loaded == ["tiny", other, other]
    assert "full: its 25 questions are measured already" in said
    assert run(tmp_path, starts)[0] == first
    assert len(loaded) == 3
    changed = [dict(SETS["forget"][0], answer="Elsewhere."), *SETS["forget"][1:]]
    run(tmp_path, starts, sources(tmp_path, forget=changed))
    assert loaded[3:] == ["tiny", other]


def test_with_and_without_the_engine_the_numbers_are_the_same() -> None:
    from trainers.engine import engines

    loaded = load_policy("tiny", None, Work(Path(), say=lambda _: None))
    asked = [
        Question("here", row["question"], row["answer"], None, tuple(row["perturbed_answer"]))
        for row in SETS["forget"]
    ]
    groups = [
        (e.prompt, e.answers)
        for e in (encode(loaded.tokenizer, q, [q.answer, *q.perturbed_answers], 512) for q in asked)
    ]
    plain = read_answers(loaded.model, groups)
    engines.prepare("auto", loaded.model)
    for one, two in zip(chain(*plain), chain(*read_answers(loaded.model, groups)), strict=True):
        assert one.logps == pytest.approx(two.logps, abs=1e-4)
        assert one.greedy == two.greedy


def test_an_answer_ends_with_its_turn_and_must_fit_the_context() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(aliases.resolve("tiny"))
    question = Question("rows:1", "Where?", "There.")
    made = encode(tokenizer, question, ["There."], 512)
    assert tokenizer.decode(made.prompt) == "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(made.answers[0]) == "There.<|im_end|>"
    assert made.ends == [True]
    with pytest.raises(DataError, match="the model's context 5"):
        encode(tokenizer, question, ["There."], 5)


def test_a_distance_of_one_step_in_five_is_no_evidence() -> None:
    # scipy's exact sum is 1 + 2e-16 here.
    assert forget_quality([1, 2, 3, 4, 5], [1.5, 2.5, 3.5, 4.5, 5.5]) == 1


# ---------------------------------------------------------------- attacks


def questions() -> list[Question]:
    return [Question("here", row["question"], row["answer"]) for row in SETS["forget"]]


def test_relearning_is_adamw_on_the_taught_answers(tmp_path: Path) -> None:
    options = RelearnOptions(share=0.4, steps=2, every=1, learning_rate=1e-2, batch_size=2)
    found = relearn("tiny", questions(), options, Work(tmp_path, say=lambda _: None), seed=3, resamples=100)
    taught = found["taught"]
    assert taught == taught_again(5, options, 3)
    assert len(taught) == 2
    # By hand: both taught rows are one batch, so their order does not matter.
    plain = Plainly(aliases.resolve("tiny"))
    optimiser = torch.optim.AdamW(plain.model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        if step:
            logps = [_with_gradient(plain, SETS["forget"][i]) for i in taught]
            optimiser.zero_grad()
            (-torch.cat(logps).mean()).backward()
            torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
            optimiser.step()
        point = found["curve"][step]
        for name, among in (("taught", taught), ("others", [i for i in range(5) if i not in taught])):
            known = fmean(
                math.exp(plain.mean(SETS["forget"][i]["question"], SETS["forget"][i]["answer"]))
                for i in among
            )
            assert point["step"] == step
            assert point[name]["value"] == pytest.approx(known, rel=2e-3)
            assert point[name]["low"] <= point[name]["value"] <= point[name]["high"]
    assert found["curve"][2]["taught"]["value"] > found["curve"][0]["taught"]["value"]


def _with_gradient(plain: Plainly, row: dict[str, Any]) -> torch.Tensor:
    prompt = plain.tokenizer(plain.prompt(row["question"]))["input_ids"]
    ids = plain.tokenizer(f"{row['answer']}<|im_end|>")["input_ids"]
    logits = plain.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids]


def _adapted(folder: Path) -> str:
    """A policy with a LoRA adapter that changes what it says."""
    work = Work(folder, say=lambda _: None)
    train = AdapterOptions(use_peft=True, lora_r=2)
    loaded = load_policy("tiny", ModelOptions(model="tiny"), work, train=train)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    save_policy(loaded.model, loaded.tokenizer, loaded.policy, "npo", folder / "model")
    return str(folder / "model")


@pytest.mark.parametrize("make", [shaken, lambda folder, _: _adapted(folder)], ids=["full", "adapter"])
def test_rounding_keeps_the_policy_up_to_its_rounding(
    tmp_path: Path, make: Callable[[Path, int], str]
) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit

    start = make(tmp_path, 2)
    quiet = Work(tmp_path / "stage", say=lambda _: None)
    exact: Any = load_policy(start, None, quiet).model
    exact = exact.merge_and_unload() if hasattr(exact, "merge_and_unload") else exact
    rounded: Any = requantised(start, "nf4", quiet).model
    assert sum(isinstance(module, Linear4bit) for module in rounded.modules()) == 2 * 7
    ids = torch.tensor([list(range(20, 60))])
    with torch.no_grad():
        before, after = exact(input_ids=ids).logits, rounded(input_ids=ids).logits
        for name, module in exact.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                code, how = quantize_4bit(module.weight.data, quant_type="nf4")
                module.weight.copy_(dequantize_4bit(code, how))
        by_hand = exact(input_ids=ids).logits
    assert (before - after).abs().mean() > 1e-3
    # Kernels of four bits on a CPU may compute in bfloat16.
    assert (by_hand - after).abs().mean() < 0.1 * (before - after).abs().mean()


def test_both_attacks_are_told_beside_what_they_attack(tmp_path: Path, other: str) -> None:
    attacks = Attacks(relearn=RelearnOptions(steps=4, every=2, learning_rate=1e-2), requantise="nf4")
    found, said = run(tmp_path, {"full": "tiny", "never": other}, attacks=attacks)
    assert list(found["attacks"]) == ["never"]
    one = found["attacks"]["never"]
    assert [point["step"] for point in one["relearn"]["curve"]] == [0, 2, 4]
    rows = read_jsonl(tmp_path / "questions-never.jsonl")
    known = [math.exp(row["logp"]) for row in rows if row["set"] == "forget"]
    before = fmean(known[i] for i in one["relearn"]["taught"])
    assert one["relearn"]["curve"][0]["taught"]["value"] == pytest.approx(before, rel=1e-4)
    rounded = read_jsonl(tmp_path / "questions-never-nf4.jsonl")
    probability = fmean(math.exp(row["logp"]) for row in rounded if row["set"] == "forget")
    assert one["requantised"]["sets"]["forget"]["probability"]["value"] == pytest.approx(probability)
    assert [row["logp"] for row in rounded] != [row["logp"] for row in rows]
    assert any(line.startswith("never, taught again for 4 steps") for line in found["lines"])
    assert any(line.startswith("never, in nf4: forget probability") for line in found["lines"])
    again, said = run(tmp_path, {"full": "tiny", "never": other}, attacks=attacks)
    assert again == found
    assert "never: it was taught again already" in said
    with pytest.raises(RecipeError, match="`gone` is none of the models"):
        run(tmp_path, {"full": "tiny", "never": other}, attacks=Attacks(models=("gone",)))


def test_a_model_that_cannot_be_attacked_is_told_and_the_others_are(tmp_path: Path, other: str) -> None:
    folder = tmp_path / "quantised"
    work = Work(tmp_path / "made", say=lambda _: None)
    options = ModelOptions(model="tiny", load_in_4bit=True)
    loaded = load_policy("tiny", options, work, train=AdapterOptions(use_peft=True, lora_r=2))
    save_policy(loaded.model, loaded.tokenizer, loaded.policy, "npo", folder)
    with pytest.raises(ModelError, match="quantised already"):
        requantised(str(folder), "nf4", replace(work, out=tmp_path / "x"))
    attacks = Attacks(relearn=RelearnOptions(steps=1), requantise="nf4")
    found, said = run(tmp_path, {"full": "tiny", "qlora": str(folder), "never": other}, attacks=attacks)
    assert found["attacks"]["qlora"]["requantised"] == {
        "refused": "it is quantised already, and was measured so"
    }
    assert found["attacks"]["qlora"]["relearn"] == {"refused": "quantised weights cannot be taught"}
    assert "curve" in found["attacks"]["never"]["relearn"]
    assert sum("not attacked" in line for line in said) == 2
