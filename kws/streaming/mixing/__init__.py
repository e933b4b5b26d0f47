"""`kws mix`: labelled continuous streams from the clips of a packed corpus and recordings of background sound.

    index -> clips whose speakers are not in train ---> plan of each file: which clip where, at which SNR, in which room
    folders, archives -> recordings without the words -> timeline of each file: which part of which recording where
                                                        |
             blocks of 10 s: background + words -> FLAC, label track (Audacity) -> mix.json with every number used

Everything is drawn by a counter-based RNG whose key is the seed, a name and numbers, so equal seeds give equal files.
A complete file is not made again. Only a few parts of backgrounds and the words of a block are in memory.
May import kws/audio, kws/corpus and kws/data; never torch. Read in this order:

    settings                     what the user chooses
    speech                       where the speech in a clip is, and the level of sound
    clips, placement             which clips may be used; which of them is where in a file
    known_layouts, unpacking     DiPCo, LibriSpeech, MUSAN and DEMAND, from their archives or their folders
    known_sounds                 recordings that the corpus has too
    background, timeline         recordings of a source without the words; which part of them is where in a file
    render                       the samples of a file, block by block
    mix                          the whole: files, label tracks, manifest, resuming
"""
