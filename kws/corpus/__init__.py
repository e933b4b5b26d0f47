"""Where recordings and tasks come from: folders, archives, CSV files, downloads, speech synthesis, the microphone.

May import kws/audio (codec, rooms), kws/distributed (worker pools) and the modules of kws/ itself; never torch, never a
packed corpus. Read in this order:

    recording, source                               one recording; folders, archives and tables as one corpus
    survey, layout, folder_names, split_names       what the folders of a source mean: words, speakers, splits
    archives, source_reader, split_lists, left_out  its files; lists of splits; what is not packed, and why
    name_pattern, label_track                       words and speakers from file names and label tracks
    table_reader, tables/                           recordings that tables list, as other tools write them
    tasks                                           which words belong to which class
    recipe, fetch                                   known corpora (the files of shards/), downloading them
    espeak, voices, acoustic_conditions, synth      speech synthesis: engine, speakers, rooms and noise, a whole corpus
    takes                                           recording takes of a word with the microphone
"""
