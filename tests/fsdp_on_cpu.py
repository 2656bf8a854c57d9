"""Train with FSDP2 on a CPU. Accelerate heeds its settings of FSDP on accelerators alone, so they are put here."""

import sys

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from gram.common.command_line import exit_code_of
from gram.train_accelerate import main

create = Accelerator.__init__


def create_sharded(self, *args, **kwargs):
    create(self, *args, **kwargs)
    self.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    self.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


Accelerator.__init__ = create_sharded
raise SystemExit(exit_code_of(lambda: main(sys.argv[1:]), "train_accelerate.py"))
