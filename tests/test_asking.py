"""Candidates from a server: their rows and figures, the recipe's choice of it, and that nothing is paid for twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from data.chatting.request import ChatReply, ServerError, ServerOptions
from data.errors import DataError
from data.jsonl import read_jsonl
from data.sources import Mixture
from pipelines.recipe import RecipeFaults, load
from tests.chat_service import Answer, Service, completion, echo, failure, serving
from tests.handmade import environment, heliograph
from trainers.config import SamplingOptions
from trainers.sampling.asking import _ended_by, answer_seed, ask
from trainers.work import Work

KEY = "sk-very-secret-0123456789"
OPTIONS = SamplingOptions(max_new_tokens=9, num_return_sequences=3, temperature=0.8, top_p=0.95, seed=7)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": [{"role": "user", "content": "Where is the mirror?"}], "facts": ["x"]},
    {"id": "b", "prompt": "The signal is"},
    {"prompt": ""},
    {"id": "c", "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]},
]


def run(folder: Path, service: Service, rows: Any = ROWS, options: Any = OPTIONS, **server: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    figures = ask(
        options,
        ServerOptions.model_validate({"base_url": service.base_url, "model": "small", **server}),
        Mixture.model_validate("prompts.jsonl"),
        folder,
        folder / "rows.jsonl",
        Work(folder, say=said.append),
    )
    return figures, read_jsonl(folder / "rows.jsonl"), said


def test_every_candidate_is_a_request_with_its_own_seed(tmp_path: Path) -> None:
    with serving() as service:
        figures, rows, said = run(tmp_path, service)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["facts"] == ["x"]
    seeds = [answer_seed(7, key, index) for key in "abc" for index in range(3)]
    assert len(set(seeds)) == 9
    assert all(0 <= seed < 2**31 for seed in seeds)
    asked = ["Where is the mirror?", "The signal is", "Why?"]
    for number, row in enumerate(rows):
        for index, candidate in enumerate(row["candidates"]):
            text = f"{asked[number]} seed {seeds[3 * number + index]}"
            assert candidate == {
                "text": text, "index": index, "finished": True, "ended_by": "eos", "logprob": None,
                "tokens": len(text.split()),
            }  # fmt: skip
    assert sorted(body["seed"] for body in service.bodies) == sorted(seeds)
    body = next(body for body in service.bodies if body["messages"][-1]["content"] == "Why?")
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.8, 0.95, 9)
    assert body["messages"] == ROWS[3]["prompt"]
    assert "stop" not in body
    assert "top_k" not in body
    words = [len(text.split()) + 2 for text in asked]
    assert figures == {
        "prompts": 3, "dropped": 1, "candidates": 9, "tokens": 3 * sum(words), "ended_by_eos": 9,
        "ended_by_stop": 0, "cut": 0, "empty": 0, "distinct": 1.0, "requests": 9, "requests_sent_again": 0,
        "replies_from_cache": 0,
    }  # fmt: skip
    assert "1 prompts are plain text: each is sent as one user message" in said
    assert {path.name for path in tmp_path.iterdir()} >= {"rows.jsonl", "sampling.json", "ledger.json"}
    assert not (tmp_path / "scratch" / "replies.jsonl").exists()
    with serving() as other:  # The same call, finished, asks nobody: neither cost nor order make it another.
        other.server_close()
        same = run(tmp_path, service, concurrency=1, retries=0, requests_per_minute=10.0)
    assert same[0] == figures


def test_ends_are_counted_as_the_server_tells_them(tmp_path: Path) -> None:
    told = [
        completion("one two"),  # no word of a stop string: it may have been either
        completion("cut off he", finish_reason="length"),
        completion("said", stop_reason="END"),
        completion("said all", stop_reason=None),
        completion("left in END and on"),
        completion("", finish_reason="content_filter"),
    ]
    options = OPTIONS.model_copy(update={"num_return_sequences": 6, "stop_strings": ("END",), "top_k": 4})
    with serving(lambda number, body: told[number]) as service:
        figures, rows, said = run(tmp_path, service, ROWS[:1], options, concurrency=1)
    ends = [candidate["ended_by"] for candidate in rows[0]["candidates"]]
    assert ends == ["eos_or_stop", "length", "stop", "eos", "stop", "content_filter"]
    assert [c["finished"] for c in rows[0]["candidates"]] == [True, False, True, True, True, False]
    assert rows[0]["candidates"][4]["text"] == "left in "
    assert service.bodies[0]["stop"] == ["END"]
    assert service.bodies[0]["top_k"] == 4
    assert (figures["ended_by_eos"], figures["ended_by_stop"], figures["cut"]) == (1, 2, 1)
    assert (figures["ended_by_eos_or_stop"], figures["ended_by_content_filter"]) == (1, 1)
    assert figures["empty"] == 1
    assert "1 of 6 candidates were cut at max_new_tokens 9" in said


def test_without_stop_strings_a_stop_is_the_model_s_own_end() -> None:
    assert _ended_by(ChatReply("x", "stop"), ()) == "eos"
    assert _ended_by(ChatReply("x", "stop", stopped_at=""), ("a",)) == "eos"
    assert _ended_by(ChatReply("x", "length"), ("a",)) == "length"


def test_answers_without_a_token_count_are_counted(tmp_path: Path) -> None:
    def forgets(number: int, body: dict[str, Any]) -> Answer:
        found = echo(number, body)
        assert found is not None
        reply = json.loads(found[2])
        if number == 1:
            del reply["usage"]
        return 200, {}, json.dumps(reply).encode()

    with serving(forgets) as service:
        figures, rows, _ = run(tmp_path, service, ROWS[:1], concurrency=1)
    assert figures["without_token_count"] == 1
    assert figures["tokens"] == 2 * 6
    assert rows[0]["candidates"][1]["tokens"] is None


def test_tools_are_refused_with_their_place(tmp_path: Path) -> None:
    rows = [ROWS[0], {"prompt": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}]
    with serving() as service:
        with pytest.raises(DataError, match=r"prompts.jsonl:2.*the row has `tools`"):
            run(tmp_path, service, rows)
        assert service.count == 0


def test_a_failure_half_way_then_the_same_call_sends_only_what_is_missing(tmp_path: Path) -> None:
    broken = threading.Event()

    def breaks(number: int, body: dict[str, Any]) -> Answer:
        if number >= 4 and not broken.is_set():
            return failure(400, "no more")
        return echo(number, body)

    with serving(breaks) as service:
        with pytest.raises(ServerError, match="no more"):
            run(tmp_path, service, concurrency=1)
        assert not (tmp_path / "rows.jsonl").exists()
        sent = service.count
        broken.set()
        figures, rows, said = run(tmp_path, service, concurrency=1)
        assert service.count - sent == 9 - 4
        assert figures["replies_from_cache"] == 4
        assert "goes on: 4 replies were kept, and are not paid for again" in said
        whole = run(tmp_path / "whole", service)[1]
    assert rows == whole


CHILD = """
import sys
from pathlib import Path
from data.chatting.request import ServerOptions
from data.sources import Mixture
from trainers.sampling.asking import ask
from trainers.config import SamplingOptions
from trainers.work import Work
assert "torch" not in sys.modules
folder = Path(sys.argv[1])
ask(SamplingOptions.model_validate_json(sys.argv[2]), ServerOptions.model_validate_json(sys.argv[3]),
    Mixture.model_validate("prompts.jsonl"), folder, folder / "rows.jsonl", Work(folder))
"""


def test_kill_9_and_the_same_call_pays_only_for_what_was_under_way(tmp_path: Path) -> None:
    rows = [{"id": str(i), "prompt": f"Signal {i}"} for i in range(20)]
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def slow(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.05)
        return echo(number, body)

    with serving(slow) as service:
        server = ServerOptions(base_url=service.base_url, model="small", concurrency=3)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(cut), OPTIONS.model_dump_json(), server.model_dump_json()],
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        replies = cut / "scratch" / "replies.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (
            replies.is_file() and replies.read_bytes().count(b"\n") > 9
        ):
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
        time.sleep(0.2)  # what was under way reaches the server's count
        kept, sent = replies.read_bytes().count(b"\n"), service.count
        assert 10 <= kept < 60
        assert (
            kept <= sent <= kept + 3 + 3
        )  # three under way, and three may have begun as the last were written
        figures, made, _ = run(cut, service, rows, concurrency=3)
        assert service.count - sent == 60 - kept == figures["requests"]
        assert figures["replies_from_cache"] == kept
        assert run(tmp_path / "whole", service, rows)[1] == made


SERVER = "server: {base_url: http://x/v1, model: m}"
RECIPE = """\
recipe: demo
stages:
  - name: answers
    kind: sample
    prompts: prompts.jsonl
    num_return_sequences: 2
{answers}
"""


def recipe(folder: Path, *lines: str, head: str = "") -> Path:
    (folder / "prompts.jsonl").write_text('{"id": "a", "prompt": "Say something good."}\n')
    path = folder / "demo.yaml"
    path.write_text(head + RECIPE.format(answers="\n".join(f"    {line}" for line in lines)))
    return path


@pytest.mark.parametrize(
    ("lines", "head", "told"),
    [
        ((), "", "stages.answers.model: missing: `model:`, who answers: a stage, an alias, a folder"),
        (("model: tiny", SERVER), "", "stages.answers.server: `model` is given too"),
        ((SERVER,), "defaults: {model: tiny}\n", "undone by `model: null`"),
        ((SERVER, "load_in_4bit: true"), "", "stages.answers.load_in_4bit: only a model"),
        (("server: {base_url: http://x/v1, model: m, concurency: 2}",), "",
         "unknown key; did you mean concurrency?"),
        (("server: {base_url: x/v1, model: m}",), "", "base_url must begin with http"),
        (("server: {base_url: http://x/v1}",), "", "missing: `model:`, its name for the model"),
        (("server: {base_url: http://x/v1, model: m, retries: -1}",), "", "found -1; must be a whole number"),
        (("server: http://x/v1",), "", "must be a mapping with `base_url:`, `model:`"),
        (("model: tiny", "stop_strings: [a, '']"), "", "must not be empty"),
        (("model: tiny", "generation_engine: vllm"), "", "must be one of auto, prefill"),
    ],
)  # fmt: skip
def test_a_recipe_names_one_who_answers(tmp_path: Path, lines: Any, head: str, told: str) -> None:
    path = recipe(tmp_path, *lines, head=head)
    with pytest.raises(RecipeFaults) as faults:
        load(path, ())
    assert told in str(faults.value)
    assert len(faults.value.faults) == 1


def test_a_default_model_is_undone_with_null(tmp_path: Path) -> None:
    loaded = load(recipe(tmp_path, SERVER, "model: null", head="defaults: {model: tiny}\n"), ())
    assert loaded.stages[0].server == ServerOptions(base_url="http://x/v1", model="m")  # type: ignore[attr-defined]


def test_the_command_asks_the_server_and_writes_no_key(tmp_path: Path) -> None:
    with serving() as service:
        server = f"{{base_url: {service.base_url}, model: small, api_key_env: THE_KEY}}"
        recipe(tmp_path, f"server: {server}")
        failed = heliograph("run", "demo.yaml", cwd=tmp_path)
        assert failed.returncode == 2, failed.stdout
        assert "the environment variable THE_KEY is not set or empty" in failed.stdout + failed.stderr
        done = heliograph("run", "demo.yaml", cwd=tmp_path, env={"THE_KEY": KEY})
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.count == 2
        assert service.headers[0]["authorization"] == f"Bearer {KEY}"
    folder = tmp_path / "runs" / "demo" / "answers"
    assert [len(row["candidates"]) for row in read_jsonl(folder / "rows.jsonl")] == [2]
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in done.stdout + done.stderr
    assert json.loads((folder / "done.json").read_text())["metrics"]["requests"] == 2
    assert not (folder / "scratch").exists()
