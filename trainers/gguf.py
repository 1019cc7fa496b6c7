"""A folder of safetensors as one GGUF file, by llama.cpp's own converter where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from data.errors import ModelError

SCRIPT = "convert_hf_to_gguf.py"
COMMAND = "convert-hf-to-gguf"
FOLDER = "LLAMA_CPP"
"""The environment variable that names a checkout of llama.cpp."""
OUTTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
"""The weights as they are: other sizes are llama-quantize's business, and would be another model."""


def converter() -> list[str]:
    """The command that converts; what to install where there is none."""
    if folder := os.environ.get(FOLDER):
        script = Path(folder).expanduser() / SCRIPT
        if script.is_file():
            return [sys.executable, str(script)]
        raise ModelError(
            f"{FOLDER} names a folder without {SCRIPT}", where=folder, way_out="Name a checkout of llama.cpp."
        )
    if found := shutil.which(SCRIPT):
        return [sys.executable, found]
    if found := shutil.which(COMMAND):
        return [found]
    raise ModelError(
        f"GGUF is written by llama.cpp's converter, and neither {SCRIPT} nor {COMMAND} is on the path",
        way_out=f"git clone https://github.com/ggml-org/llama.cpp, and set {FOLDER} to that folder. "
        "`--as merged` needs nothing, and llama.cpp converts what it writes.",
    )


def convert(command: list[str], folder: Path, out: Path, dtype: str) -> None:
    """Raises with the converter's last lines where it fails; most often it does not know the architecture."""
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = [*command, str(folder), "--outfile", str(out), "--outtype", OUTTYPES[dtype]]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()][-3:]
        raise ModelError(
            "llama.cpp's converter failed:\n  " + "\n  ".join(last or ["it said nothing"]),
            where=" ".join(command),
            way_out="Update llama.cpp, or take `--as merged`.",
        )
