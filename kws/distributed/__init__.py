"""Several processes working together: the ranks of a run, their process group, and pools of worker processes.

Imports nothing of kws but config, errors and machine; does not depend on networks or data. Read in this order:

    ranks           this process as one rank; collective operations
    process_group   joining and leaving; DDP
    gpus            the GPUs that this process sees
    device          which of them it uses
    rank_devices    the devices of all ranks, compared
    arithmetic      deterministic algorithms in training, no TF32 in evaluation
    rendezvous      how ranks meet and connect
    slurm           the environment that srun sets
    signals         stop requests
    connection      lines of JSON between two ranks
    watchdog        detects dead or stalled ranks, forwards stop requests
    parent_death    ends a process with its parent
    worker_pool     worker processes for packing and synthesis
    deepspeed_zero  ZeRO: a sharded optimizer
"""
