"""Making a packed corpus (shards and index), and checking one. Reading it for training is kws/data.

May import kws/corpus, kws/data (index, plan, selection, shard_fetch), kws/audio and kws/distributed; never torch.
Read in this order:

    pack                                   the whole of a packing: decode, audit, write, publish
    journal                                its progress, in an sqlite database, so that it resumes after a kill
    decoding, shard_writer                 the two stages that run in worker processes
    splits, balance, split_notes           which clip is in which split, and the notes about it
    recording_notes                        the notes about recordings: known, duplicate, fixed or implausible ones
    merge, leaks, publish                  adding to a corpus; the audit between splits; moving files into place
    scan, labels, external_index           reading shards from start to end: verify, and index shards packed by others
    contents, clip_names                   what `kws inspect` shows; finding a clip by name
    conditions, condition_leaks            how clips were recorded, and words that can be recognised by that alone
    source_formats, condition_tables       the formats they were packed from; the table of `kws inspect --conditions`
"""
