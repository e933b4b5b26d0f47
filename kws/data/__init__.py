"""Reading a packed corpus: from an index and a seed to the batches that a rank trains on. Nothing here writes a corpus.

May import kws/corpus, kws/distributed and kws/audio; index, plan, selection, silence and training_set without torch.
Read in this order:

    index, plan                     the columns of a corpus; which clips each slot of each step reads
    selection, silence              which clips a task uses; generated clips of the class silence
    store, cache, shard_fetch       shards as memory maps, local or fetched to a cache on the node's disk
    excerpt, clip_lengths           which part of a recording is its clip; the length of a clip
    gather, reader                  the compiled copy out of memory maps; clips by id
    read_ahead, buffers, stream     threads that read ahead; memory of batches; batches with labels
    training_set                    all of the above for the settings of a run
    ledger, normalisation           what was consumed, compared with the plan; statistics of the features
"""
