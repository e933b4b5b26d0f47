"""The command line: arguments, and for each command one function that calls the library and shows the result.

May import every other folder; trains, packs and evaluates nothing itself. Imports inside the functions keep
`kws --help` free of torch.
Read: arguments.py, terminal.py (exit codes, progress bars), corpus.py and runs.py (the commands), then preview.py
(`kws train --check`), catalogue.py (`kws models`) and slurm_submit.py (`kws launch`).
"""
