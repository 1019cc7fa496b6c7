"""Settings every test shares: no network, quiet threads, a cache of its own only where a test asks for one."""

from __future__ import annotations

import os

# Before torch is imported: two threads that spin on shared cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
