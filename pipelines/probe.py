"""What torch finds on this machine, as JSON. A process of its own, so that `heliograph doctor` need not import it."""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from typing import Any

KERNELS = ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")


def torch_build() -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    cuda: Any = torch.cuda
    found: dict[str, Any] = {
        "version": str(torch.__version__),
        "cuda_build": torch.version.cuda,
        "cuda": bool(cuda.is_available()),
        "threads": torch.get_num_threads(),
    }
    if found["cuda"]:
        found["devices"] = [
            {
                "name": cuda.get_device_name(i),
                "capability": ".".join(str(part) for part in cuda.get_device_capability(i)),
                "memory": cuda.get_device_properties(i).total_memory,
            }
            for i in range(cuda.device_count())
        ]
        found["bf16"] = bool(cuda.is_bf16_supported())
    return found


def attention() -> dict[str, str | None]:
    """Each kernel, and why it cannot be used; None when it can."""
    from trainers.attention import missing

    found: dict[str, str | None] = {}
    for name in KERNELS:
        found[name] = missing(name)
    return found


def package(name: str, module: str) -> dict[str, Any]:
    """Its version, and whether it can be imported here."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return {"installed": False}
    importlib.import_module(module)
    return {"installed": True, "version": version}


PROBES = {
    "torch": torch_build,
    "attention": attention,
    "bitsandbytes": lambda: package("bitsandbytes", "bitsandbytes"),
    "flash_attn": lambda: package("flash-attn", "flash_attn"),
}


def main(name: str) -> int:
    print(json.dumps(PROBES[name]()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
