"""The networks. Each maps features (B, 1, F, N) to logits (B, classes).

May import: kws.errors only (and torch). Does not depend on audio, corpus or training.

Read in this order:
    registry     every network by name; build_model. names: the same names without torch
    tc_resnet, ds_cnn, ...   one family per file; a family imports no other
    time_context             how temporal layers get their past; networks that take a stream chunk by chunk
    layers, depthwise, separable   layers that several families share
    recompute    gradient checkpointing; cost, memory: what a network costs
"""
