"""Lets workers on a CPU use FSDP: torch spreads a model over gloo, and only accelerate asks for GPUs."""

import os
import sys

if os.environ.get("ACCELERATE_USE_FSDP") == "true" and "pipelines.worker" in sys.orig_argv:
    from accelerate import state

    made = state.AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **more):
        made(self, *args, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = state.DistributedType.FSDP
            state.PartialState._shared_state["distributed_type"] = self.distributed_type

    state.AcceleratorState.__init__ = with_fsdp
