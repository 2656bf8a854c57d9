"""Train with FSDP2 on a CPU. Accelerate heeds its settings of FSDP on accelerators alone, so they are put here."""

import sys

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from gram import train_accelerate

create = Accelerator.__init__


def create_sharded(self, *args, **kwargs):
    create(self, *args, **kwargs)
    self.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    self.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


Accelerator.__init__ = create_sharded
raise SystemExit(train_accelerate.exit_code_of(lambda: train_accelerate.main(sys.argv[1:]), "train_accelerate.py"))
