"""Token ids against TRL's own preparation of the same rows, and what the ledger says about the rest."""

import os
from types import SimpleNamespace

import pytest

from data.chat import TokeniseOptions, render_prompt, tokenise
from data.encoding import PROMPT_FILLS, common_prefix
from data.errors import DataError
from data.ledger import Ledger
from data.records import check_row, placed

os.environ.setdefault("OMP_NUM_THREADS", "1")

CHATML = (
    "{% for m in messages %}{% if m['role'] == 'odd' %}{{ raise_exception('no odd role') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Renders the prompt alone with an empty thought that the full conversation does not have, as Gemma and Qwen do.
THINKING = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think></think>' }}{% endif %}")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def build_tokenizer(template=CHATML):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        ["What color is the sky? It is blue, it is green. The sun shines."] * 20, trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|im_end|>", chat_template=template
    )


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def trl():
    """TRL's `_prepare_dataset` of each trainer, called without building a model."""
    import datasets
    import torch
    from trl import DPOTrainer, KTOTrainer, SFTTrainer, extract_prompt
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    torch.set_num_threads(1)
    datasets.disable_progress_bars()

    def args(max_length, **extra):
        return SimpleNamespace(
            dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start", **extra
        )

    def sft(rows, tokenizer, max_length=None, completion_only_loss=None, assistant_only_loss=False):
        if completion_only_loss is None:
            completion_only_loss = "completion" in rows[0]
        self = SimpleNamespace(
            _tokenizer=tokenizer, chat_template=None, completion_only_loss=completion_only_loss
        )
        options = args(
            max_length,
            dataset_text_field="text",
            assistant_only_loss=assistant_only_loss,
            shuffle_dataset=False,
        )
        data = datasets.Dataset.from_list(rows)
        made = SFTTrainer._prepare_dataset(self, data, tokenizer, options, False, None, "train")
        return [{key: row[key] for key in ("input_ids", "labels")} for row in made]

    def dpo(rows, tokenizer, max_length=None):
        self = SimpleNamespace(_tokenizer=tokenizer)
        data = datasets.Dataset.from_list(rows)
        made = DPOTrainer._prepare_dataset(self, data, tokenizer, args(max_length), "train")
        return [{key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in made]

    def kto(rows, tokenizer, max_length=None):
        self = SimpleNamespace(
            _tokenizer=tokenizer, calculate_KL=False, desirable_weight=1, undesirable_weight=1
        )
        data = datasets.Dataset.from_list(rows)
        made = KTOTrainer._prepare_dataset(self, data, tokenizer, args(max_length), "eval")
        return [{key: row[key] for key in ("prompt_ids", "completion_ids", "label")} for row in made]

    return SimpleNamespace(
        sft=sft, dpo=dpo, kto=kto, extract_prompt=extract_prompt, collator=DataCollatorForPreference
    )


def ours(rows, shape, tokenizer, **options):
    ledger = Ledger(name="train")
    made = list(tokenise(placed(rows, "rows", ledger), shape, tokenizer, TokeniseOptions(**options), ledger))
    assert ledger.unaccounted == 0
    assert ledger.kept == len(made)
    return made, ledger


PLAIN = [
    {"prompt": "What color is the sky? ", "completion": "It is blue."},
    {"prompt": "What color is the s", "completion": "ky? It is green."},  # tokens merge over the boundary
    {"prompt": "Is it green?", "completion": " It is not.<|endoftext|>"},
    {"prompt": "Ist die Sonne grün? ☀", "completion": "Näin."},
]
TALK = [
    {"prompt": [user("What color is the sky?")], "completion": [assistant("It is blue.")]},
    {
        "prompt": [
            {"role": "system", "content": ""},
            user("a"),
            assistant("b"),
            user("What color is the sky?" * 3),
        ],
        "completion": [assistant("It is green."), user("Is it?"), assistant("It is.")],
    },
]
MESSAGES = [{"messages": row["prompt"] + row["completion"]} for row in TALK]
TEXTS = [{"text": "The sun shines."}, {"text": "It is blue.<|endoftext|>"}]
PAIRS = [
    {"prompt": "What color is the sky?", "chosen": " It is blue.", "rejected": " It is green, it is blue."},
    {"prompt": "What color is the s", "chosen": "ky? blue", "rejected": "un? it is"},
    {"prompt": "Is it green? ", "chosen": "No.<|endoftext|>", "rejected": "The sun shines. " * 4},
]
TALK_PAIRS = [
    {
        "prompt": [user("What color is the sky?")],
        "chosen": [assistant("It is blue.")],
        "rejected": [assistant("It is green, it is.")],
    },
    {"prompt": [user("Is it?")], "chosen": [assistant("It is blue. " * 5)], "rejected": [assistant("No.")]},
]
IMPLICIT = [
    {key: row["prompt"] + row[key] for key in ("chosen", "rejected")} for row in [*TALK_PAIRS, TALK_PAIRS[0]]
]


@pytest.mark.parametrize(
    ("rows", "shape"),
    [(PLAIN, "prompt_completion"), (TALK, "prompt_completion"), (MESSAGES, "messages"), (TEXTS, "text")],
)
@pytest.mark.parametrize("max_length", [None, 18, 8])
def test_sft_ids_and_labels_are_trls(trl, tokenizer, rows, shape, max_length):
    made, ledger = ours(rows, shape, tokenizer, max_length=max_length)
    assert made == trl.sft(rows, tokenizer, max_length)
    assert ledger.tokens == sum(len(row["input_ids"]) for row in made)
    assert ledger.loss_tokens == sum(label != -100 for row in made for label in row["labels"])


@pytest.mark.parametrize("max_length", [None, 30])
@pytest.mark.parametrize("completion_only_loss", [None, True, False])
@pytest.mark.parametrize("assistant_only_loss", [True, False])
def test_sft_loss_masks_are_trls(trl, tokenizer, max_length, completion_only_loss, assistant_only_loss):
    options = {
        "max_length": max_length,
        "completion_only_loss": completion_only_loss,
        "assistant_only_loss": assistant_only_loss,
    }
    assert ours(TALK, "prompt_completion", tokenizer, **options)[0] == trl.sft(TALK, tokenizer, **options)


def test_assistant_only_loss_on_messages_is_trls(trl, tokenizer):
    made, _ = ours(MESSAGES, "messages", tokenizer, assistant_only_loss=True)
    assert made == trl.sft(MESSAGES, tokenizer, assistant_only_loss=True)
    taught = [label for label in made[0]["labels"] if label != -100]
    assert tokenizer.decode(taught) == "It is blue.<|im_end|>"


@pytest.mark.parametrize("rows", [PAIRS, TALK_PAIRS, IMPLICIT], ids=["plain", "chat", "implicit"])
@pytest.mark.parametrize("template", [CHATML, THINKING], ids=["chatml", "thinking"])
def test_pair_ids_are_trls(trl, rows, template):
    tokenizer = build_tokenizer(template)
    assert ours(rows, "preference", tokenizer)[0] == trl.dpo(rows, tokenizer)


@pytest.mark.parametrize("rows", [PAIRS, TALK_PAIRS], ids=["plain", "chat"])
@pytest.mark.parametrize("max_length", [40, 20, 12, 9])
def test_cut_pairs_make_the_batch_that_trl_makes(trl, tokenizer, rows, max_length):
    made, ledger = ours(rows, "preference", tokenizer, max_length=max_length, drop_identical=False)
    theirs = trl.dpo(rows, tokenizer, max_length)
    assert len(made) == len(theirs) == len(rows) - ledger.rows_dropped
    if made:
        batch = trl.collator(pad_token_id=2)(made)
        expected = trl.collator(pad_token_id=2, max_length=max_length)(theirs)
        assert {key: value.tolist() for key, value in batch.items()} == {
            key: value.tolist() for key, value in expected.items()
        }


def test_unpaired_ids_are_trls(trl, tokenizer):
    plain = [{**row, "label": index % 2 == 0} for index, row in enumerate(PLAIN)]
    talk = [{**row, "label": False} for row in TALK]
    for rows in (plain, talk):
        assert ours(rows, "unpaired", tokenizer)[0] == trl.kto(rows, tokenizer)
    made, ledger = ours(plain, "unpaired", tokenizer, max_length=12)
    theirs = trl.kto(plain, tokenizer, 12)
    for row in theirs:  # TRL leaves the cut to its collator
        row["completion_ids"] = row["completion_ids"][: 12 - len(row["prompt_ids"])]
    assert made == theirs
    assert ledger.rows_dropped == len(plain) - len(made) > 0


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("The sky is blue.", "The sky is in the sky."),
        ("The sky", "The sky is"),
        ("same", "same"),
        ([user("a"), assistant("b")], [user("a"), assistant("c"), user("d")]),
        ([user("a"), assistant("b")], [user("a"), assistant("b"), user("d")]),
    ],
)
def test_an_implicit_prompt_is_cut_where_trl_cuts_it(trl, chosen, rejected):
    row = {"chosen": chosen, "rejected": rejected}
    assert check_row(row, "preference", "here") == trl.extract_prompt(row)


def test_what_is_cut_and_dropped_is_counted_with_its_row(tokenizer):
    rows = [
        {"prompt": "aaaa", "chosen": "bbbb", "rejected": "cccc"},  # with EOS 4 + 5, 4 + 5: fits 9
        {
            "prompt": "aaaa",
            "chosen": "bbbbbbbbb",
            "rejected": "bbbbbbc",
        },  # cut: 5 of 10, 5 of 8; both then bbbbb
        {"prompt": "aaaaaaaaa", "chosen": "b", "rejected": "c"},  # 9 prompt tokens
        {"prompt": "aaa", "chosen": "bbb", "rejected": "bbb"},  # the same from the start
        {"prompt": "aaaa", "chosen": "cbbbbbb", "rejected": "bbbbb"},  # loses 8 - 5 and 6 - 5
    ]
    made, ledger = ours(rows, "preference", _letters(), max_length=9)
    assert [len(row["chosen_ids"]) for row in made] == [5, 5]
    assert {reason: (entry.count, entry.examples) for reason, entry in ledger.dropped.items()} == {
        "chosen and rejected are identical after cutting to max_length": (1, ["rows:row 2"]),
        PROMPT_FILLS: (1, ["rows:row 3"]),
        "chosen and rejected are identical": (1, ["rows:row 4"]),
    }
    assert (ledger.identical, ledger.identical_by_cutting) == (2, 1)
    assert (ledger.cut.rows, ledger.cut.tokens, ledger.cut.longest) == (1, 4, 4)
    assert (ledger.tokens, ledger.loss_tokens, ledger.longest) == (2 * (4 + 5 + 5), 20, 9)
    assert ledger.lengths == {16: 2}
    kept, ledger = ours(rows, "preference", _letters(), max_length=9, drop_identical=False)
    assert len(kept) == 4
    assert (ledger.identical, ledger.identical_by_cutting) == (2, 1)


def _letters():
    """One token a letter, so that lengths can be read off the text."""

    class Letters:
        eos_token, eos_token_id, chat_template = "<|endoftext|>", 0, None

        def __call__(self, text):
            body, found, _ = text.partition(self.eos_token)
            return {"input_ids": [ord(letter) for letter in body] + [0] * bool(found)}

    return Letters()


def test_a_prompt_that_leaves_no_completion_is_dropped_from_sft(tokenizer):
    rows = [{"prompt": "aaaaa", "completion": "b"}, {"prompt": "aaaa", "completion": "bb"}]
    made, ledger = ours(rows, "prompt_completion", _letters(), max_length=5)
    assert made == [{"input_ids": [97] * 4 + [98], "labels": [-100] * 4 + [98]}]
    assert ledger.dropped[PROMPT_FILLS].examples == ["rows:row 1"]
    assert (ledger.cut.rows, ledger.cut.tokens) == (1, 2)  # b and EOS
    made, _ = ours(rows, "prompt_completion", _letters(), max_length=5, completion_only_loss=False)
    assert [row["labels"] for row in made] == [[97] * 5, [97] * 4 + [98]]


def test_a_moved_prompt_end_is_counted(tokenizer):
    _, ledger = ours(PAIRS[:2], "preference", tokenizer)
    assert ledger.prompt_ends_moved == 1


def test_a_bad_row_stops_or_is_dropped_and_counted(tokenizer):
    rows = [PAIRS[0], {"prompt": "x", "chosen": "y", "rejected": ""}, PAIRS[2]]
    with pytest.raises(DataError, match=r"rows:row 2: 'rejected' is empty"):
        ours(rows, "preference", tokenizer)
    made, ledger = ours(rows, "preference", tokenizer, on_bad_row="drop")
    assert len(made) == 2
    assert ledger.dropped["'rejected' is empty"].examples == ["rows:row 2"]


def test_a_template_that_refuses_a_row_names_it(tokenizer):
    rows = [{"messages": [user("a"), {"role": "odd", "content": "b"}]}]
    with pytest.raises(
        DataError, match=r"rows:row 1: the chat template refuses the conversation: no odd role"
    ):
        ours(rows, "messages", tokenizer)


def test_rows_without_an_assistant_turn_teach_nothing(tokenizer):
    made, ledger = ours(
        [{"messages": [user("a")]}, *MESSAGES], "messages", tokenizer, assistant_only_loss=True
    )
    assert len(made) == 2
    assert ledger.dropped["no token carries loss (no assistant turn)"].examples == ["rows:row 1"]


@pytest.mark.parametrize(
    ("rows", "shape", "options", "told"),
    [
        (
            MESSAGES,
            "messages",
            {"completion_only_loss": True},
            "completion_only_loss needs prompt/completion rows",
        ),
        (TEXTS, "text", {"assistant_only_loss": True}, "assistant_only_loss needs conversations"),
        (PLAIN, "prompt_completion", {"assistant_only_loss": True}, "assistant_only_loss on plain text"),
        (
            MESSAGES,
            "messages",
            {"assistant_only_loss": True, "chat_template": "{{ messages }}"},
            "needs a chat template that marks",
        ),
    ],
)
def test_masks_that_cannot_be_had_are_refused(tokenizer, rows, shape, options, told):
    with pytest.raises(DataError, match=told):
        ours(rows, shape, tokenizer, **options)


def test_no_template_and_no_eos_are_refused():
    bare = build_tokenizer(None)
    with pytest.raises(DataError, match="no chat template"):
        ours(MESSAGES, "messages", bare)
    bare.eos_token = None
    with pytest.raises(DataError, match="no eos_token"):
        ours(TEXTS, "text", bare)
    made, _ = ours(TEXTS[:1], "text", bare, append_eos=False)
    assert bare.decode(made[0]["input_ids"]) == "The sun shines."


def test_columns_can_be_carried(tokenizer):
    made, _ = ours([{**PAIRS[0], "margin": 2.5}], "preference", tokenizer, carry=("margin",))
    assert made[0]["margin"] == 2.5
    with pytest.raises(DataError, match="'margin' is missing"):
        ours(PAIRS, "preference", tokenizer, carry=("margin",))


def test_tools_and_template_arguments_reach_the_template(trl):
    template = "{{ tools | length if tools else 0 }}{{ mood }}" + CHATML
    tokenizer = build_tokenizer(template)
    rows = [{**TALK[0], "tools": '[{"name": "f"}]', "chat_template_kwargs": {"mood": "calm"}}]
    made, _ = ours(rows, "prompt_completion", tokenizer)
    assert made == trl.sft(rows, tokenizer)
    assert tokenizer.decode(made[0]["input_ids"]).startswith("1calm<|im_start|>")


def test_a_prompt_to_sample_from_is_the_prompt_of_training(tokenizer):
    made, _ = ours(TALK_PAIRS, "preference", tokenizer)
    for row, pair in zip(made, TALK_PAIRS, strict=True):
        assert render_prompt(tokenizer, pair["prompt"]) == row["prompt_ids"]
    assert tokenizer.decode(render_prompt(tokenizer, TALK_PAIRS[1]["prompt"])) == (
        "<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_prompt(tokenizer, "Is it green?") == tokenizer("Is it green?")["input_ids"]
    prompts, _ = ours([{"prompt": row["prompt"]} for row in TALK_PAIRS], "prompt", tokenizer)
    assert [row["prompt_ids"] for row in prompts] == [row["prompt_ids"] for row in made]


def test_a_tokenizer_that_closes_every_text_does_not_close_the_prompt(tokenizer):
    class Closing:
        eos_token, eos_token_id = "!", 9

        def __call__(self, text):
            return {"input_ids": [*range(len(text)), 9]}

    assert render_prompt(Closing(), "ab") == [0, 1]
    assert render_prompt(Closing(), "ab!") == [0, 1, 2, 9]


def test_common_prefix():
    assert [common_prefix([1, 2, 3], other) for other in ([1, 2, 4], [1, 2], [], [1, 2, 3, 4])] == [
        2,
        2,
        0,
        3,
    ]
