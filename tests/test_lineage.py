"""The reference of a preference stage is the policy the stage before produced, however the stage got there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.errors import ModelError
from tests.training import HOW, pair_rows, run_prefer, run_sft, weights
from trainers.models import load_policy
from trainers.training import watching
from trainers.work import Work


class Stop(Exception):  # noqa: N818 - it stands for a signal
    """Stands for the process that ends in the middle of training."""


def stop_at_3(self: object, args: object, state: object, control: object, **_: object) -> None:
    """In the place of the callback that tells how far training is."""
    if state.global_step == 3:
        raise Stop


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished SFT stage for each way of training."""
    root = tmp_path_factory.mktemp("sft")
    for how, options in HOW.items():
        run_sft(root / how / "sft", **options)
    return {how: root / how / "sft" / "model" for how in HOW}


def stored_sums(stage: Path) -> dict[str, torch.Tensor]:
    """What the store holds for the stage's rows, summed."""
    from datasets import Dataset

    from trainers.store.tokens import TokenStore, key

    (folder,) = (stage / "scratch" / "references").iterdir()
    store = TokenStore(folder.parent, json.loads((folder / "identity.json").read_text())["identity"])
    assert not store.faults()
    rows = list(Dataset.from_file(str(stage / "scratch" / "train.arrow")))
    return {
        side: torch.tensor(
            [store.read(key(row["prompt_ids"], row[f"{side}_ids"])).sum(dtype="float64") for row in rows]
        )
        for side in ("chosen", "rejected")
    }


def keys_of(stage: Path) -> list[bytes]:
    from datasets import Dataset

    from trainers.store.tokens import key

    rows = Dataset.from_file(str(stage / "scratch" / "train.arrow"))
    return [key(row["prompt_ids"], row[f"{side}_ids"]) for row in rows for side in ("chosen", "rejected")]


def keep(how: str) -> dict[str, object]:
    """Options of the preference stage: quantisation is inherited, not asked for again."""
    return {k: v for k, v in HOW[how].items() if k != "load_in_4bit"}


def naive_log_probs(model_folder: Path, tokenised: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of log-probabilities by the definition, row by row, without padding and without any trainer."""
    from datasets import Dataset

    model = load_policy(str(model_folder), None, Work(out=model_folder, say=lambda _: None)).model
    sums: dict[str, list[float]] = {"chosen_ids": [], "rejected_ids": []}
    for row in Dataset.from_file(str(tokenised)):
        for column, found in sums.items():
            ids = torch.tensor([row["prompt_ids"] + row[column]])
            with torch.no_grad():
                logits = model(input_ids=ids).logits.double()
            logp = torch.log_softmax(logits[0, :-1], dim=-1).gather(1, ids[0, 1:, None])[:, 0]
            found.append(logp[len(row["prompt_ids"]) - 1 :].sum().item())
    return torch.tensor(sums["chosen_ids"]), torch.tensor(sums["rejected_ids"])


@pytest.mark.parametrize("how", HOW)
def test_start_measures_the_reference_on_the_policy_of_the_stage_before(
    how: str, sft: dict[str, Path], tmp_path: Path
):
    run_prefer(tmp_path / "dpo", str(sft[how]), **keep(how))
    stored = stored_sums(tmp_path / "dpo")
    chosen, rejected = naive_log_probs(sft[how], tmp_path / "dpo" / "scratch" / "train.arrow")
    torch.testing.assert_close(stored["chosen"].float(), chosen.float(), atol=2e-4, rtol=0)
    torch.testing.assert_close(stored["rejected"].float(), rejected.float(), atol=2e-4, rtol=0)


@pytest.mark.parametrize("how", HOW)
def test_the_first_loss_is_ln_2(
    how: str, sft: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Policy and reference are the same numbers before the first step, so the margin is exactly 0."""
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(watching.Teller, "on_log", lambda self, *a, logs=None, **k: logged.append(dict(logs)))
    run_prefer(tmp_path / "dpo", str(sft[how]), max_steps=1, **keep(how))
    assert logged[0]["loss"] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert abs(logged[0]["rewards/margins"]) <= 1e-6


@pytest.mark.parametrize("how", HOW)
def test_the_tree_engine_measures_the_same_reference(how: str, sft: dict[str, Path], tmp_path: Path):
    said = {}
    for engine in ("padded", "tree"):
        figures = run_prefer(tmp_path / engine, str(sft[how]), max_steps=1, engine=engine, **keep(how))
        assert figures["engine"] == engine
        said[engine] = stored_sums(tmp_path / engine)
    for column in said["padded"]:
        torch.testing.assert_close(said["tree"][column], said["padded"][column], atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", HOW)
def test_resume_keeps_the_reference_and_ends_in_the_same_weights(
    how: str, sft: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_prefer(tmp_path / "straight", str(sft[how]), save_steps=2, **keep(how))

    with monkeypatch.context() as patched:
        patched.setattr(watching.Teller, "on_step_end", stop_at_3)
        with pytest.raises(Stop):
            run_prefer(tmp_path / "broken", str(sft[how]), save_steps=2, **keep(how))
    before = stored_sums(tmp_path / "broken")
    metrics = run_prefer(tmp_path / "broken", str(sft[how]), save_steps=2, **keep(how))
    after = stored_sums(tmp_path / "broken")

    assert metrics["reference_measured"] == 0
    assert metrics["reference_gap"] < 1e-4  # measured again in another batch
    assert all(torch.equal(before[k], after[k]) for k in before)
    straight, resumed = weights(tmp_path / "straight" / "model"), weights(tmp_path / "broken" / "model")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


@pytest.mark.parametrize("how", HOW)
def test_restart_without_checkpoints_measures_the_same_reference(
    how: str, sft: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The fault to avoid: after a restart the reference is the policy in the middle of training."""

    with monkeypatch.context() as patched:
        patched.setattr(watching.Teller, "on_step_end", stop_at_3)
        with pytest.raises(Stop):
            run_prefer(tmp_path / "dpo", str(sft[how]), save_steps=2, **keep(how))
    before = stored_sums(tmp_path / "dpo")
    shutil.rmtree(tmp_path / "dpo" / "scratch")
    (tmp_path / "dpo" / "ledger.json").unlink()
    run_prefer(tmp_path / "dpo", str(sft[how]), save_steps=2, **keep(how))
    after = stored_sums(tmp_path / "dpo")
    assert all((before[k] - after[k]).abs().max().item() == 0.0 for k in before)


def test_a_reference_of_other_weights_is_refused(sft: dict[str, Path], tmp_path: Path):
    from trainers.store.tokens import TokenStore

    run_prefer(tmp_path / "dpo", str(sft["lora"]), **keep("lora"))
    (folder,) = (tmp_path / "dpo" / "scratch" / "references").iterdir()
    identity = json.loads((folder / "identity.json").read_text())["identity"]
    store = TokenStore(folder.parent, identity)
    values = {one: store.read(one).copy() for one in keys_of(tmp_path / "dpo")}
    for file in folder.iterdir():
        file.unlink()
    moved = TokenStore(folder.parent, identity)
    for one, tokens in values.items():
        tokens[0] += 0.0785
        moved.add(one, tokens)
    moved.flush()
    with pytest.raises(ModelError, match=r"0\.0785 nats away from the policy"):
        run_prefer(tmp_path / "dpo", str(sft["lora"]), **keep("lora"))


def test_the_policy_of_a_lora_chain_is_the_sum_of_its_adapters(sft: dict[str, Path], tmp_path: Path):
    """Independent of PEFT: base weights plus scale * B @ A of each adapter, multiplied out by hand."""
    run_prefer(tmp_path / "dpo", str(sft["lora"]), **keep("lora"))
    folder = tmp_path / "dpo" / "model"
    quiet = Work(out=tmp_path, say=lambda _: None)
    chain = load_policy(str(folder), None, quiet).model
    plain = load_policy("tiny", None, quiet).model
    for adapter in sorted((folder / "adapters").iterdir()):
        config = json.loads((adapter / "adapter_config.json").read_text())
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name in [n for n in tensors if n.endswith("lora_A.weight")]:
            a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            plain.get_submodule(module).weight.data += config["lora_alpha"] / config["r"] * (b @ a)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(chain(input_ids=ids).logits, plain(input_ids=ids).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_peft": True, "load_in_4bit": True}, "another policy than that stage produced"),
        ({"use_peft": True, "dtype": "bfloat16"}, "another policy than that stage produced"),
        ({}, "full fine-tuning would start below the adapters"),
    ],
)
def test_what_would_break_the_chain_is_refused(
    options: dict[str, object], said: str, sft: dict[str, Path], tmp_path: Path
):
    with pytest.raises(ModelError, match=said):
        run_prefer(tmp_path / "dpo", str(sft["lora"]), rows=pair_rows(4), **options)


def test_gradients_flow_below_4bit_layers_after_an_evaluation(tmp_path: Path):
    """bitsandbytes repacks 4-bit weights at the first eval-mode forward on some CPUs, and the packed kernel has no
    backward. The first layer's adapter must get a gradient all the same."""
    from trainers.config import AdapterOptions, ModelOptions

    options = ModelOptions(model="tiny", load_in_4bit=True)
    quiet = Work(out=tmp_path, say=lambda _: None)
    model = load_policy("tiny", options, quiet, train=AdapterOptions(use_peft=True, lora_r=4)).model
    ids = torch.arange(24)[None]
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    first = next(p for n, p in model.named_parameters() if "layers.0.self_attn.q_proj.lora_B" in n)
    assert first.grad is not None
    assert first.grad.abs().max().item() > 1e-6
