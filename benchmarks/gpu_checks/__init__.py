"""The checks of benchmarks/gpu.py, a module for each group.

check.py        what a check is, what it gets and what it returns
catalogue.py    the list of checks, in their order; runner.py runs them
corpora.py      clips made here: tones and noise
runs.py         `kws train` in a process of its own
steps.py        steps of a training in this process

environment.py  0        front_end.py   1        training.py       2, 5      host_waits.py     3
equal_bits.py   4        two_ranks.py   6        precision.py      7         networks_equal.py 8
refusals.py     9        sharded.py     10       wide_networks.py  11, 12    small_networks.py 13
compiling.py    14       nine_networks.py        the mode --networks
"""
