"""What leaves a run is whole, loads with other people's tools, and answers as the run's model does."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.errors import ModelError, RunError
from pipelines import state
from pipelines.exporting.folder import Request, export, told
from pipelines.recipe import load, resolved, to_json
from tests.handmade import environment
from tests.training import HOW, QUIET, run_prefer, run_sft, weights
from trainers import aliases, gguf
from trainers.export import ASKED, Answers, _answers, _prompts, compare
from trainers.export import export as export_model
from trainers.models import load_policy
from trainers.work import Work

RECIPE = """\
recipe: demo
description: Models for the tests
stages:
  - {name: full, kind: sft, model: tiny, data: rows.jsonl}
  - {name: one, kind: prefer, model: full, pairs: pairs.jsonl, use_peft: true, lora_r: 4}
  - {name: low, kind: sft, model: tiny, data: rows.jsonl, use_peft: true, lora_r: 4}
  - {name: two, kind: prefer, model: low, pairs: pairs.jsonl, use_peft: true, lora_r: 4}
  - {name: later, kind: prefer, model: two, pairs: pairs.jsonl, use_peft: true, lora_r: 4}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose models are trained, and whose records are written by hand."""
    folder = tmp_path_factory.mktemp("exporting")
    for file in ("rows.jsonl", "pairs.jsonl"):
        (folder / file).write_text("{}\n")
    (folder / "demo.yaml").write_text(RECIPE)
    recipe = load(folder / "demo.yaml")
    run = folder / "runs" / "demo"
    run_sft(run / "full", learning_rate=1e-2)
    run_prefer(run / "one", str(run / "full" / "model"), learning_rate=1e-2, **HOW["lora"])
    run_sft(run / "low", learning_rate=1e-2, **HOW["lora"])
    run_prefer(run / "two", str(run / "low" / "model"), learning_rate=1e-2, **HOW["lora"])
    for stage in recipe.stages[:4]:
        done = state.Done(
            name=stage.name, kind=stage.kind, build="0123456789ab", config=state.plain(resolved(stage)),
            started=state.now(), metrics={"rows": 24}, finished=state.now(), seconds=1.0,
        )  # fmt: skip
        state.write(run / stage.name / state.DONE, done)
    state.write_json(run / state.RECIPE, to_json(recipe))
    return folder / "runs"


def run_export(
    runs: Path, stage: str, to: Path | str, form: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return export(Request("demo", str(to), stage, form, runs), lines.append), lines


def greedy(model: Any, tokenizer: Any) -> list[list[int]]:
    found: list[list[int]] = []
    for text in ASKED:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        made = model.generate(**ids, max_new_tokens=24, do_sample=False)
        found.append(made[0, ids["input_ids"].shape[1] :].tolist())
    return found


def of_the_run(runs: Path, stage: str, tmp_path: Path) -> list[list[int]]:
    loaded = load_policy(str(runs / "demo" / stage / "model"), None, Work(out=tmp_path, **QUIET))
    return greedy(loaded.model, loaded.tokenizer)


def test_a_lone_adapter_leaves_as_pefts_folder(runs: Path, tmp_path: Path) -> None:
    result, lines = run_export(runs, "one", tmp_path / "out")
    assert result["form"] == "adapter"
    assert result["checked"] == {
        "prompts": 3, "tokens": result["checked"]["tokens"], "equal": True, "near_ties": 0, "logit_gap": 0.0,
    }  # fmt: skip
    assert "its base is the model of the stage `full`" in lines[0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "README.md",
        "export.json",
    } <= names
    assert "policy.json" not in names
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(runs / "demo" / "full" / "model")
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert greedy(model, tokenizer) == of_the_run(runs, "one", tmp_path)
    before = load_file(runs / "demo" / "one" / "model" / "adapter_model.safetensors")
    after = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("stage", ["one", "two"])
def test_merged_is_one_plain_model_that_answers_the_same(stage: str, runs: Path, tmp_path: Path) -> None:
    result, _ = run_export(runs, stage, tmp_path / "out", "merged")
    assert result["adapters"] == {"one": 1, "two": 2}[stage]
    assert result["checked"]["equal"]
    assert 0 < result["checked"]["logit_gap"] < 1e-4
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert greedy(model, AutoTokenizer.from_pretrained(tmp_path / "out")) == of_the_run(runs, stage, tmp_path)
    assert oct((tmp_path / "out" / "model.safetensors").stat().st_mode)[-3:] == "644"
    assert "those of the run's model" in told(result)[0]


def test_a_plain_model_leaves_as_it_is(runs: Path, tmp_path: Path) -> None:
    result, _ = run_export(runs, "full", tmp_path / "out")
    assert result["form"] == "merged"
    before, after = weights(runs / "demo" / "full" / "model"), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_command_says_nothing_of_packages_that_are_not_needed(runs: Path, tmp_path: Path) -> None:
    words = ["export", "demo", "--stage", "full", "--runs-dir", str(runs), "--to", str(tmp_path / "out")]
    command = [sys.executable, "-m", "pipelines.cli", *words]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_card_goes_along_in_the_hubs_format(runs: Path, tmp_path: Path) -> None:
    run_export(runs, "one", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.base_model is None, "its base is a stage's model, which the hub does not have"
    assert "greedy tokens to 3 prompts are those of the run's model" in card.text
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["run"], record["stage"], record["form"]) == ("demo", "one", "adapter")


def test_stacked_adapters_are_no_adapter(runs: Path, tmp_path: Path) -> None:
    for form in (None, "adapter"):
        with pytest.raises(ModelError, match=r"2 adapters are stacked here \(dpo on low\)") as caught:
            run_export(runs, "two", tmp_path / "out", form)
        assert "--as merged" in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="there is no adapter"):
        run_export(runs, "full", tmp_path / "out", "adapter")
    with pytest.raises(ModelError, match="no form `onnx`"):
        run_export(runs, "full", tmp_path / "out", "onnx")


def test_which_stage(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="several stages made a final model: one, two"):
        export(Request("demo", str(tmp_path / "out"), None, None, runs), print)
    with pytest.raises(RunError, match="no stage `thre`"):
        run_export(runs, "thre", tmp_path / "out")
    with pytest.raises(RunError, match="`later` has no finished model"):
        run_export(runs, "later", tmp_path / "out")


def test_a_folder_with_something_in_it_is_refused_and_an_empty_one_taken(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="never writes over it"):
        run_export(runs, "full", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / "mine.txt").unlink()
    run_export(runs, "full", tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_what_a_killed_export_left_is_recognised(runs: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.heliograph-export" / "model"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    _, lines = run_export(runs, "full", tmp_path / "out")
    assert any("a killed export left it half-written" in line for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_that_answer_otherwise_are_found(runs: Path, tmp_path: Path) -> None:
    """One of the merged weights is changed; no tie explains other tokens then."""
    loaded = load_policy(str(runs / "demo" / "full" / "model"), None, Work(out=tmp_path, **QUIET))
    expected = _answers(loaded.model, _prompts(loaded.tokenizer))
    assert compare(expected, loaded.model, 0.0, tmp_path)["equal"]
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[expected.tokens[0][0]] *= -1
    with pytest.raises(ModelError, match="answers otherwise") as caught:
        compare(expected, loaded.model, 1e-3, tmp_path)
    assert "Nothing was exported" in str(caught.value)


class Fixed(torch.nn.Module):
    """Logits that depend on the place alone."""

    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.rows = logits

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        logits = torch.cat([self.rows[:1], self.rows, self.rows[:1]])[None, : input_ids.shape[1]]
        return type("Out", (), {"logits": logits})()

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, self.rows.argmax(-1)[None]], dim=1)


def test_a_near_tie_is_told_apart_from_another_model(tmp_path: Path) -> None:
    """Token 1 leads token 0 by 0.002 in the run; rounding turned that. 0.002 is allowed, 0.001 is not."""
    run = torch.tensor([[1.000, 1.002, -5.0], [0.0, 3.0, 1.0]])
    rounded = torch.tensor([[1.001, 1.000, -5.0], [0.0, 3.0, 1.0]])
    expected = Answers([[7, 7]], [[1, 1]], [run])
    found = compare(expected, Fixed(rounded), 0.0021, tmp_path)
    assert (found["equal"], found["near_ties"], found["tokens"]) == (False, 1, 2)
    assert found["logit_gap"] == pytest.approx(0.002, abs=1e-6)
    with pytest.raises(ModelError, match=r"up to 0\.002"):
        compare(expected, Fixed(rounded), 0.001, tmp_path)


def test_gguf_needs_the_converter(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gguf.FOLDER, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="neither convert_hf_to_gguf"):
        run_export(runs, "full", tmp_path / "out", "gguf")
    monkeypatch.setenv(gguf.FOLDER, str(tmp_path))
    with pytest.raises(ModelError, match="names a folder without"):
        run_export(runs, "full", tmp_path / "out", "gguf")
    (tmp_path / gguf.SCRIPT).write_text(
        "import sys; sys.exit('NotImplementedError: no such pre-tokenizer')\n"
    )
    with pytest.raises(ModelError, match="NotImplementedError: no such pre-tokenizer"):
        run_export(runs, "full", tmp_path / "out", "gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == [gguf.SCRIPT]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(gguf.COMMAND), reason="llama.cpp's converter is not installed")
def test_gguf_by_the_real_converter(tmp_path: Path) -> None:
    start = aliases.resolve("smollm2-135m")
    found = export_model(str(start), "gguf", tmp_path, "smollm2", Work(out=tmp_path, **QUIET))
    assert (tmp_path / "model" / "smollm2.gguf").stat().st_size > 500e6
    assert found["checked"]["equal"]
    assert found["checked"]["logit_gap"] == 0


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload asks for; `there`: whether the repository is."""

    there: bool = False
    asked: list[tuple[str, Any]]

    def do_GET(self) -> None:
        if self.path.startswith("/api/whoami-v2"):
            allowed = self.headers["Authorization"] == "Bearer hf_good"
            return self.answer(
                200 if allowed else 401, {"name": "me"} if allowed else {"error": "Invalid token"}
            )
        if not self.there:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self.answer(200, {"id": "me/mine", "private": True, "tags": [], "downloads": 0, "likes": 0})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append((self.path, body))
        if "/preupload/" in self.path:
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if "/commit/" in self.path:
            there = f"http://127.0.0.1:{self.server.server_address[1]}/me/mine/commit/1"
            return self.answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": there})
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": f"http://127.0.0.1:{self.server.server_address[1]}/me/mine"})
        return self.answer(200, {})

    def answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(code)
        for key, value in {
            "Content-Length": str(len(raw)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        """Not into the tests' output."""


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    kind = type("OneHub", (Hub,), {"asked": [], "there": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", kind
    server.shutdown()
    server.server_close()


CALL = """
import sys
from pathlib import Path
from data.errors import ModelError
from pipelines.exporting import hub
try:
    hub.check(sys.argv[1])
    print(hub.upload(Path(sys.argv[2]), sys.argv[1], private=sys.argv[3] == "private"))
except ModelError as error:
    sys.exit(str(error))
"""


def call(endpoint: str, tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    given = environment() | {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_good", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", **env,
    }  # fmt: skip
    words = [sys.executable, "-c", CALL, *arguments]
    return subprocess.run(words, env=given, capture_output=True, text=True, timeout=60, check=False)


def test_an_upload_is_private_whole_and_in_one_commit(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, kind = hub
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x01\x02\x03")
    done = call(endpoint, tmp_path, "me/mine", str(tmp_path / "out"), "private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{endpoint}/me/mine"
    made = [json.loads(body) for path, body in kind.asked if path == "/api/repos/create"]
    assert [(one["name"], one["organization"], one["visibility"]) for one in made] == [
        ("mine", "me", "private")
    ]
    commits = [body for path, body in kind.asked if "/commit/" in path]
    assert len(commits) == 1
    lines = [json.loads(line) for line in commits[0].splitlines()]
    files = {
        one["value"]["path"]: base64.b64decode(one["value"]["content"])
        for one in lines
        if one["key"] == "file"
    }
    assert files == {
        "README.md": b"---\nlicense: mit\n---\n# mine\n", "model.safetensors": b"\x01\x02\x03",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("repo", "env", "there", "words"),
    [
        ("mine", {}, False, "is no name on the hub"),
        ("me/mine", {"HF_TOKEN": ""}, False, "there is no token to upload with"),
        ("me/mine", {"HF_TOKEN": "hf_bad"}, False, "the hub refuses"),
        ("me/mine", {"HF_HUB_OFFLINE": "1"}, False, "HF_HUB_OFFLINE is set"),
        ("me/mine", {"HF_ENDPOINT": "http://127.0.0.1:9"}, False, "the hub cannot be reached"),
        ("me/mine", {}, True, "never writes over any"),
    ],
)
def test_what_stands_in_the_way_of_an_upload(
    repo: str,
    env: dict[str, str],
    there: bool,
    words: str,
    hub: tuple[str, type[Hub]],
    tmp_path: Path,
) -> None:
    endpoint, kind = hub
    kind.there = there
    done = call(endpoint, tmp_path, repo, str(tmp_path), "private", **env)
    assert done.returncode == 1
    assert words in done.stderr
    assert kind.asked == []


def test_an_adapter_whose_base_only_this_machine_has_stays_off_the_hub(runs: Path) -> None:
    with pytest.raises(ModelError, match="which nobody else can load from the hub"):
        run_export(runs, "one", "hub:me/mine")
