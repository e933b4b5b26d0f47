"""Results of runs, read from their folders' files alone: comparison, pictures, one HTML page.

May import config, metrics, files, audio's codec and run; neither torch nor a corpus.
Read: records.py (a run folder's files), formats.py (numbers as text), compare.py, seed_groups.py and compare_text.py
(kws compare), hints.py (what usually helps next), report.py with page.py, plots.py, time_use.py, mistake_cards.py and
page_style.py (kws report), then the PNGs: canvas.py, confusion_picture.py, grid.py, scatter.py. published.py holds
accuracies from papers.
"""
