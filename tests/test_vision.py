"""Models that see: pictures in prompts and batches, sampling and training with them, and the loop over pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.critics import Regex
from data.errors import DataError
from data.illume.critic import RubricCritic
from data.illume.items import read_items
from data.jsonl import read_jsonl, write_jsonl_atomic
from data.ledger import Ledger, LedgerLimits
from data.sources import Mixture
from tests.training import weights
from trainers import aliases
from trainers.config import GenerationOptions, ModelOptions, SamplingOptions, SftOptions
from trainers.illume.config import IllumeOptions
from trainers.illume.explaining import Collate
from trainers.illume.iterate import Loop, illume
from trainers.models import Loaded, load_policy
from trainers.sampling.generate import Answer, generate
from trainers.sampling.prompts import tokens_of
from trainers.sampling.sample import sample
from trainers.sft import train_sft
from trainers.training.prepare import prepare_sft
from trainers.vision.eyes import Eyes
from trainers.vision.rows import PicturedBatch
from trainers.work import Work

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 200, 0)}


def quiet(folder: Path) -> Work:
    folder.mkdir(parents=True, exist_ok=True)
    return Work(out=folder, say=lambda _: None)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_policy(
        "tiny-llava", ModelOptions(model="tiny-llava"), quiet(tmp_path_factory.mktemp("llava"))
    )


@pytest.fixture(scope="module")
def eyes(llava: Loaded) -> Eyes:
    assert llava.eyes is not None
    return llava.eyes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows about three plain pictures, which lie beside them."""
    from PIL import Image

    here = tmp_path_factory.mktemp("rows")
    (here / "images").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (80, 48), colour).save(here / "images" / f"{name}.png")
    learned = [
        {"prompt": "what color is it?", "completion": f" {name}", "image": f"images/{name}.png"}
        for name in COLOURS
    ]
    write_jsonl_atomic(here / "learned.jsonl", learned)
    asked = [
        {"id": name, "prompt": "what color is it?", "answer": name, "image": f"images/{name}.png"}
        for name in COLOURS
    ]
    write_jsonl_atomic(here / "asked.jsonl", asked[:2])
    write_jsonl_atomic(here / "held-out.jsonl", asked[2:])
    return here


def test_the_alias_is_as_described_and_needs_no_torchvision(llava: Loaded, eyes: Eyes):
    alias, model = aliases.ALIASES["tiny-llava"], llava.model
    assert importlib.util.find_spec("torchvision") is None
    assert model.num_parameters() == alias.parameters
    text = sum(p.numel() for p in model.model.language_model.parameters())  # type: ignore[union-attr]
    assert alias.vision_parameters == alias.parameters - text
    assert len(llava.tokenizer) == alias.vocab_size
    assert type(eyes.processor).__name__ == "LlavaProcessor"


def test_a_picture_takes_its_places_before_the_text(llava: Loaded, eyes: Eyes, folder: Path):
    picture = folder / "images" / "red.png"
    plain = llava.tokenizer("what?")["input_ids"]
    shown = tokens_of(llava, "what?", picture)
    place = llava.tokenizer.convert_tokens_to_ids("<image>")
    assert shown[:64] == [place] * 64
    assert shown[64] != place
    assert shown[-len(plain) :] == plain
    # What the model's own processor makes of it.
    from PIL import Image

    with Image.open(picture) as image:
        theirs = eyes.processor(text="<image>\nwhat?", images=image, return_tensors="pt")
    assert theirs["input_ids"][0].tolist() == list(shown)
    assert torch.equal(theirs["pixel_values"], eyes.tensors(picture)["pixel_values"])
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what?"}]
    said = eyes.show(talk, picture)
    assert said[0]["content"] == "Be brief."
    assert said[1]["content"] == "<image>" * 64 + "\nwhat?"
    assert talk[1]["content"] == "what?"


def test_a_template_that_reads_parts_alone_gets_parts(llava: Loaded, folder: Path):
    own = load_policy("tiny-llava", ModelOptions(model="tiny-llava"), Work(folder, say=lambda _: None)).eyes
    assert own is not None
    own.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] | selectattr('type', 'equalto', "
        "'text') %}{{ part['text'] }}{% endfor %}\n{% endfor %}"
    )
    said = own.show([{"role": "user", "content": "what?"}], folder / "images" / "red.png")
    text = own.tokenizer.apply_chat_template(said, tokenize=False)
    assert text.strip() == "user: " + "<image>" * 64 + "\nwhat?"
    assert own.spoken([{"role": "assistant", "content": "red"}]) == [
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    ]


def test_a_file_that_is_no_picture_is_named(eyes: Eyes, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    with pytest.raises(DataError, match=r"broken\.png: no picture that can be read"):
        eyes.block(tmp_path / "broken.png")


def test_answers_depend_on_the_picture_and_are_those_of_generate(llava: Loaded, eyes: Eyes, folder: Path):
    files = {name: folder / "images" / f"{name}.png" for name in COLOURS}
    prompts = {name: tokens_of(llava, "what color is it?", file) for name, file in files.items()}
    found: dict[str, Answer] = {}
    generate(
        llava.model,
        llava.tokenizer,
        prompts,
        GenerationOptions(max_new_tokens=5, batch_size=3),
        greedy=True,
        on_done=lambda made: found.update((one.key, one) for one in made),
        work=Work(folder, say=lambda _: None),
    )
    model: Any = llava.model
    for name, file in files.items():
        ids = torch.tensor([list(prompts[name])])
        seen = eyes.tensors(file)
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **seen,
            max_new_tokens=5,
            do_sample=False,
        )
        assert found[name].ids == theirs[0, ids.shape[1] :].tolist()
    logits = [
        model(input_ids=torch.tensor([list(prompts[name])]), **eyes.tensors(files[name])).logits[0, -1]
        for name in COLOURS
    ]
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_a_batch_of_pictures_has_the_loss_of_its_rows(llava: Loaded, eyes: Eyes, folder: Path):
    ends = llava.tokenizer.eos_token_id
    rows: list[dict[str, Any]] = []
    for name, words in (("red", "red"), ("blue", "a blue shape"), ("", "green")):
        picture = folder / "images" / f"{name}.png" if name else None
        prompt = list(tokens_of(llava, "what?", picture))
        said = [*llava.tokenizer(f" {words}")["input_ids"], ends]
        rows.append(
            {
                "input_ids": prompt + said,
                "labels": [-100] * len(prompt) + said,
                "picture": str(picture) if picture else "",
            }
        )
    model: Any = llava.model
    batch = PicturedBatch(int(llava.tokenizer.pad_token_id or 0), eyes)(rows)
    whole = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    for line, row in enumerate(rows):
        seen = eyes.tensors(Path(row["picture"])) if row["picture"] else {}
        alone = model(input_ids=torch.tensor([row["input_ids"]]), **seen).logits[0]
        assert torch.allclose(whole[line, : len(alone)], alone, atol=1e-5)
        assert batch["labels"][line, : len(alone)].tolist() == row["labels"]
    two = [
        {
            "answer_ids": row["input_ids"],
            "answer_labels": row["labels"],
            "explanation_ids": row["input_ids"] if row["picture"] else [],
            "explanation_labels": row["labels"] if row["picture"] else [],
            "picture": row["picture"],
        }
        for row in rows
    ]
    made = Collate(0, eyes)(two)
    # Answers of all three, then the explanations of the two with a picture: their tensors in that order.
    names = ["red", "blue", "red", "blue"]
    expected = [eyes.tensors(folder / "images" / f"{name}.png")["pixel_values"] for name in names]
    assert torch.equal(made["pixel_values"], torch.cat(expected))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = SftOptions(
        model="tiny-llava",
        max_steps=50,
        per_device_train_batch_size=3,
        learning_rate=2e-3,
        save_steps=1000,
        seed=0,
    )
    work = quiet(tmp_path_factory.mktemp("sft"))
    rows = Mixture.model_validate(str(folder / "learned.jsonl"))
    prepare_sft(options, "tiny-llava", rows, None, folder, LedgerLimits(), work)
    figures = train_sft(options, "tiny-llava", work, name="see")
    assert figures["steps"] == 50
    return work.out / "model"


def test_three_colours_are_learned_and_the_saved_model_says_them(trained: Path, folder: Path, tmp_path: Path):
    """The question is the same for all: only the picture tells the answers apart."""
    from transformers import AutoProcessor

    assert type(AutoProcessor.from_pretrained(trained)).__name__ == "LlavaProcessor"
    out = tmp_path / "rows.jsonl"
    figures = sample(
        SamplingOptions(num_return_sequences=1, temperature=0.05, max_new_tokens=4),
        ModelOptions(model=str(trained)),
        str(trained),
        Mixture.model_validate(str(folder / "learned.jsonl")),
        folder,
        out,
        quiet(tmp_path / "work"),
    )
    assert figures["prompts"] == 3
    rows = read_jsonl(out)
    assert [row["candidates"][0]["text"].strip() for row in rows] == list(COLOURS)
    assert [row["image"] for row in rows] == [f"images/{name}.png" for name in COLOURS]
    assert "<image>" not in rows[0]["prompt"]


def test_a_model_that_does_not_see_is_not_trained_on_pictures(folder: Path, tmp_path: Path):
    rows = Mixture.model_validate(str(folder / "learned.jsonl"))
    with pytest.raises(DataError, match="the row has an `image`, and the model sees none"):
        prepare_sft(SftOptions(model="tiny"), "tiny", rows, None, folder, LedgerLimits(), quiet(tmp_path))
    with pytest.raises(DataError, match=r"2 of the prompts have a picture"):
        illume(loop("tiny", folder, tmp_path / "loop"))


def loop(start: str, folder: Path, out: Path, **options: Any) -> Loop:
    check: Any = Regex(check="regex", pattern="[aeiou]")
    rule = RubricCritic(checks=(check,), threshold=1.0, min_chars=2)
    given: dict[str, Any] = {
        "temperatures": (1.0,),
        "num_return_sequences": 4,
        "max_new_tokens": 5,
        "top_vocabulary": 0.5,
        "num_train_epochs": 1,
        "max_iterations": 1,
        "learning_rate": 1e-3,
    }
    items = {
        part: read_items(Mixture.model_validate(str(folder / f"{part}.jsonl")), folder, Ledger(name=part))
        for part in ("asked", "held-out")
    }
    return Loop(
        IllumeOptions(model=start, **{**given, **options}),
        rule,
        start,
        {item.key: item for item in items["asked"]},
        folder,
        quiet(out),
        "loop",
        items["held-out"],
        rule,
    )


@pytest.mark.parametrize("use_peft", [False, True])
def test_the_loop_explains_pictures_and_its_rows_keep_them(
    use_peft: bool, trained: Path, folder: Path, tmp_path: Path
):
    figures = illume(loop(str(trained), folder, tmp_path, use_peft=use_peft, lora_r=4))
    assert figures["iterations"] == 1
    judged = read_jsonl(tmp_path / "judged.jsonl")
    assert {row["image"] for row in judged} == {"images/red.png", "images/blue.png"}
    rows = read_jsonl(tmp_path / "accepted.jsonl")
    assert rows
    for row in rows:
        name = Path(row["image"]).stem
        assert row["prompt"] == f"what color is it? {name} because"
        assert (tmp_path / row["image"]).read_bytes() == (folder / row["image"]).read_bytes()
    told = json.loads((tmp_path / "iterations" / "base.json").read_text())
    # The third colour was learned, and is what the model itself answers for the held-out picture.
    assert told["answer_accuracy"] == 1.0
    assert told["samples"][0]["prompt"] == "what color is it? green because"
    assert told["samples"][0]["image"] == "images/green.png"
    assert (tmp_path / "images" / "green.png").is_file()
    names = weights(tmp_path / "model")
    assert all("lora_" in name for name in names) == use_peft
    loaded = load_policy(str(tmp_path / "model"), None, quiet(tmp_path / "again"))
    assert loaded.eyes is not None
