"""`kws` with gloo for tensors on a GPU, so that two ranks can share one, which NCCL refuses. Only for check 6.

What is changed here is changed for this process alone; kws itself has no such setting.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import torch.distributed as dist

from kws.cli import main
from kws.distributed import rank_devices, rendezvous
from kws.training.gradients import TreeGradients


def share_the_gpu() -> None:
    """gloo as the backend, which sends tensors of the host only, and no objection to two ranks on one GPU."""
    os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"  # DDP without device_ids
    rank_devices.why_not_shared = lambda *_: ""
    rendezvous.backend_of = lambda device: "gloo"
    original, exchange = dist.init_process_group, TreeGradients._exchange
    TreeGradients._exchange = lambda self, values, partner: exchange(self, values.cpu(), partner).to(values.device)

    @functools.wraps(original)
    def without_device(*words: Any, device_id: Any = None, **more: Any) -> None:  # NCCL's argument
        original(*words, **more)

    dist.init_process_group = without_device


if __name__ == "__main__":
    share_the_gpu()
    sys.exit(main())
