"""Training: the loop, one optimizer step, gradients, and the state that a checkpoint holds.

May import every folder of kws/ but `commands`. Read `trainer.py` first (the loop is `Trainer.train`), then:

    step.py            one optimizer step, slot by slot          slots.py   a slot's seed and batch-norm statistics
    slot_inputs.py     from a slot's batch to the network's input, one slot ahead of the network
    gradients.py       how slots add up, on 1 or many ranks      optim.py   optimizer, learning rate of a step
    step_times.py      seconds by part of a step           time_log.py   of all ranks, in the log; names stragglers
    run_checkpoints.py what a checkpoint holds of the run, saving and resuming by all ranks
    profiling.py, trace_summary.py    train.profile: traces of some steps, and their figures
    distillation.py    train.teacher: trained networks whose probabilities the network learns too
    state.py           position, best values, running means      ema.py, mixup.py, network.py
    initial.py         initial weights, normalisation      start_message.py   what a run prints before its first step
    precision_notes.py, network_notes.py  settings that do not fit the machine, or continuous audio
    start_check.py     what a start would be refused for   time_estimate.py   how long a run would take
"""
