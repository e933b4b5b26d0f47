"""Tables of recordings as other tools write them: pure readers, which decode no audio.

    folder, archive or table --finding--> tables --clips--> Clip, Clip, ... and what was left out, with reasons

May import kws/corpus/recording and label_track (words, times, spans), kws/audio/codec (names of formats) and the
modules of kws/ itself; never torch. pyarrow is imported only where a Parquet file is read. Read in this order:

    place, text                         where tables and their audio lie; opening text of any encoding
    columns                             which column holds what
    table                               one table and its rows as they are written
    paths, word_names, survey           where its audio files are; what numeric labels mean; the first reading
    clips                               the second reading: checked clips, and rows that are left out
    csv_table, common_voice, mswc       CSV and TSV, and two corpora that use them
    manifest, kaldi, parquet            JSON manifests (also wekws's), Kaldi's data folders, Hugging Face's Parquet
    unsupported, finding                formats that are named but not read; which tables a folder holds
"""
