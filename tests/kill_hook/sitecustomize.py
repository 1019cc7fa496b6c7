"""Kills its own process, as `kill -9` does, at the moment it opens a file whose path matches KILL_AT.

Python imports this by itself when the folder is on PYTHONPATH; the program under test knows nothing of it.
"""

import os
import re
import signal
import sys

pattern = os.environ.get("KILL_AT")
if pattern and "pipelines.worker" in sys.orig_argv:

    def hook(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str) and re.search(pattern, args[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
