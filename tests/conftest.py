"""Settings every test shares: no network, quiet threads, a cache of its own only where a test asks for one."""

from __future__ import annotations

import os

import pytest

# Before torch is imported: two threads that spin on shared cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


NOT_BY_DEFAULT = {
    "slow": "takes minutes: `make test-slow`",
    "gpu": "needs a CUDA device: `python -m pytest -m gpu`",
    "slurm": "needs SLURM: `python -m pytest -m slurm`",
    "browser": "drives a browser: `python -m pytest -m browser`",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without -m, what is not run by default is skipped and says how to run it."""
    if config.option.markexpr:
        return
    for item in items:
        for marker, reason in NOT_BY_DEFAULT.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))
