"""A trained network at work: evaluated on a split, applied to audio files, and audits of what a run consumed.

May import models, audio, corpus, data, distributed, packing (names of clips), run and results; never training.
Read: trained.py (a run folder's checkpoint as a network), evaluate.py, mistakes.py, predict.py, then clip_picture.py
(one clip drawn as the network sees it), ledger_audit.py and sampling_audit.py (consumed samples against the plan).
"""
