"""Options that commands of arguments.py and of continuous_arguments.py share."""

from __future__ import annotations

import argparse

from kws.commands.parser import path


def add_network(parser: argparse.ArgumentParser) -> None:
    """A trained network: the run folder and its checkpoint."""
    parser.add_argument("run", type=path, help="run folder")
    add_checkpoint(parser)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The option that names a checkpoint of a run."""
    parser.add_argument(
        "--checkpoint", default="best_accuracy", metavar="NAME",
        help="best_accuracy (default), best_loss, best_detection (with train.valid_stream), last, or the name of a "
        "step-... folder",
    )  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    """The microphone."""
    parser.add_argument(
        "--device", default="", metavar="NAME|N",
        help="the microphone: a part of its name or its number, as python -m sounddevice lists them (default: the "
        "system's input)",
    )  # fmt: skip


def add_seed(parser: argparse.ArgumentParser) -> None:
    """The seed of a generated corpus or stream."""
    parser.add_argument("--seed", type=int, default=0, help="random seed: equal seeds give equal bytes (default 0)")
