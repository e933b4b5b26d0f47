"""A run folder: who may write to it, its checkpoints, its log, and how an attempt starts and ends.

Imports the modules of kws/ itself, corpus (tasks) and distributed; no networks and no packed corpus. Read in
this order:

    attempt      one start of a run: folder lock, watchdog, signals, exit status
    early_stop   stop requests before the first step
    folder       which settings a run folder accepts; run.json, status.json
    lock         one process per run folder
    checkpoint   the files of a checkpoint, pointers, checks
    saver        writes checkpoints in a thread
    log          metrics.jsonl, and who else gets its events: curves (TensorBoard, W&B) and display (the console)
    step_parts   the parts of a step, by which the log shows where the time goes
    stragglers   which rank the others wait for
    environment  versions and hardware, for run.json
"""
