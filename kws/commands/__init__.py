"""The command line: arguments, and for each command one function that calls the library and shows the result.

May import every other folder; trains, packs and evaluates nothing itself. Imports inside the functions keep
`kws --help` free of torch.
Read: arguments.py, continuous_arguments.py, parser.py (any order, nearest names), streams.py (stdout, stderr, UTF-8),
terminal.py (exit codes, progress bars, signals), the commands corpus.py, runs.py, mix.py, spotting.py and listen.py,
then preview.py (`kws train --check`), catalogue.py (`kws models`), config_files.py (`kws configs`), settings_list.py
(`kws settings`), slurm_submit.py (`kws launch`) and allowed_faults.py (`kws pack --allow-faults`).
"""
