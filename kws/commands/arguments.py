"""The command line of `kws`: its commands, their arguments, their help. Nothing is done here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kws import __version__


def parser() -> argparse.ArgumentParser:
    """Of `kws`. What it parses has the name of the command in `command`."""
    whole = argparse.ArgumentParser(
        prog="kws",
        description="Train keyword-spotting networks, on one laptop core or on many GPU nodes, from the same shards.",
        epilog="exit codes: 0 done, 2 something for you to mend (one line says what), 1 failed, 75 stopped and saved",
    )
    whole.add_argument("--version", action="version", version=f"kws {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    _corpus_commands(commands)
    _index_command(commands)
    _run_commands(commands)
    _launch_command(commands)
    return whole


def _corpus_commands(commands: Any) -> None:
    """Make, fetch, record, pack, look at and check a corpus."""
    for add in (
        _synth_command, _fetch_command, _record_command, _pack_command, _inspect_command, _verify_command,
    ):  # fmt: skip
        add(commands)


def _synth_command(commands: Any) -> None:
    """A corpus of espeak-ng's voices."""
    synth = _command(commands, "synth", "make a spoken corpus with espeak-ng", "kws synth data/spoken --voices 96")
    synth.add_argument("dir", type=Path, help="new folder, in the layout of Speech Commands")
    synth.add_argument(
        "--words", metavar="FILE|A,B", help="in any script; a file has a word a line (default: sixteen English ones)"
    )
    synth.add_argument(
        "--languages", metavar="A,B", help="of espeak-ng, such as de,fr-CH,en-US; each voice has one (default: English)"
    )
    synth.add_argument("--voices", type=int, default=96, help="different voices, each in one split (default 96)")
    synth.add_argument("--takes", type=int, default=2, help="clips of each word by each voice (default 2)")
    synth.add_argument("--noise", metavar="LOW:HIGH", help="add noise to all clips, so many decibels below the clip")
    synth.add_argument("--rooms", type=float, default=0.0, metavar="SHARE", help="of the clips are heard in a room")
    synth.add_argument("--seed", type=int, default=0, help="of all that is drawn: the same seed, the same bytes")
    synth.add_argument("--processes", type=int, metavar="N", help="(default: a core each)")


def _fetch_command(commands: Any) -> None:
    """From its official address."""
    fetch = _command(
        commands,
        "fetch",
        "download a known corpus into shards; the same command again goes on",
        "kws fetch speech_commands_v0.02 data/sc2",
    )
    fetch.add_argument("name", metavar="NAME", help="a recipe in shards/ such as speech_commands_v0.01, or a TOML file")
    fetch.add_argument("dir", type=Path, metavar="DIR", help="folder for the shards")
    fetch.add_argument("--url", metavar="U", help="its archive: http(s)://, or a file, which is used in place")
    fetch.add_argument("--keep", action="store_true", help="keep the archive in DIR too")


def _record_command(commands: Any) -> None:
    """One's own voice."""
    record = _command(
        commands, "record", "record a word with the microphone", "kws record yes data/mine --speaker anna"
    )
    record.add_argument("word", help="what is said; noise: the room without a voice, for _background_noise_")
    record.add_argument("dir", type=Path, help="folder of word folders, for kws pack; what is there stays")
    record.add_argument("--count", type=int, default=20, help="takes to keep (default 20)")
    record.add_argument("--speaker", default="me", metavar="NAME", help="who speaks: goes into the names (default me)")
    record.add_argument("--seconds", type=float, default=1.0, help="length of a take (default 1)")


def _pack_command(commands: Any) -> None:
    """Recordings to shards."""
    pack = _command(commands, "pack", "pack recordings into shards with an index", "kws pack a.tar b.tar.gz data/mine")
    pack.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="SRC... DIR",
        help="folders or tar archives of WORD/FILE, or CSVs of clips (docs/data.md); last the folder for the shards",
    )
    pack.add_argument(
        "--names", default="", metavar="PATTERN",
        help="what files' names say, such as '{word}_{speaker}_{}' ({} is anything), where no folder names the word",
    )  # fmt: skip
    pack.add_argument(
        "--format", choices=("wav", "flac"), default="wav", help="flac saves half the space (default wav)"
    )
    pack.add_argument(
        "--recipe", help="what it must hold: a name or file as in shards/; other words or counts: exit code 1"
    )
    pack.add_argument("--append", action="store_true", help="add the recordings to the corpus in DIR, in new shards")
    pack.add_argument(
        "--valid", type=float, metavar="PERCENT", help="of the speakers, where no lists say who (default 10)"
    )
    pack.add_argument("--test", type=float, metavar="PERCENT", help="the same for the test split (default 10)")
    pack.add_argument(
        "--allow-leaks", action="store_true",
        help="also with a speaker or a recording in two splits, or one recording under two words",
    )  # fmt: skip
    pack.add_argument(
        "--processes", type=int, metavar="N", help="at work (default: one a core); the result is the same"
    )
    pack.add_argument(
        "--part", metavar="I/N",
        help="only that part of the recordings, into DIR/part-I-of-N; when all are there: kws index DIR",
    )  # fmt: skip


def _inspect_command(commands: Any) -> None:
    """What is in a corpus."""
    inspect = _command(
        commands,
        "inspect",
        "show what a packed corpus holds",
        "kws inspect data/mine --clip train/0 --out clip.png",
    )
    inspect.add_argument("dir", type=Path, help="packed corpus")
    inspect.add_argument(
        "--task",
        metavar="NAME|FILE",
        help="clips of each class by that task: v1-30, v2-35, v1-12, v2-12, seed-12, yours",
    )
    inspect.add_argument(
        "--clip",
        metavar="NAME",
        help="draw this clip, as the network sees it and as training varies it; or SPLIT/NUMBER",
    )
    inspect.add_argument("--out", type=Path, metavar="PNG", help="with --clip: the picture (default NAME.png)")
    inspect.add_argument("--draws", type=int, default=4, help="with --clip: so many variants (default 4)")
    inspect.add_argument("--config", type=Path, help="with --clip: whose front end (default: the defaults)")
    inspect.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        help="with --clip: such as --set frontend.augment=classic",
    )


def _verify_command(commands: Any) -> None:
    """Of a corpus or a run."""
    verify = _command(commands, "verify", "check a packed corpus, or what a run consumed", "kws verify data/mine")
    verify.add_argument(
        "dir", type=Path, help="packed corpus: every member against the index; run folder: its ledger against the plan"
    )


def _index_command(commands: Any) -> None:
    """Shards that others packed."""
    index = _command(commands, "index", "make the index for shards that someone else packed",
                     "kws index https://host/kws --shards 'train/{000000..000012}.tar' --out data/theirs")  # fmt: skip
    index.add_argument("src", metavar="SRC", help="folder of tar shards, http(s)://, s3:// or pipe:COMMAND with {}")
    index.add_argument("--out", type=Path, metavar="DIR", help="folder for the index (default: beside the shards)")
    index.add_argument(
        "--shards", nargs="+", metavar="NAMES", help="below SRC, with {a..b}, or a file that lists them (default: all)"
    )
    index.add_argument(
        "--split", choices=("train", "valid", "test", "noise"),
        help="of all clips (default: by folder and file names, else by the speakers' hash)",
    )  # fmt: skip
    index.add_argument("--words", metavar="FILE|A,B", help="the words, in the order of the numbers that stand for them")


def _run_commands(commands: Any) -> None:
    """Train, evaluate and use a network."""
    train = _command(commands, "train", "train; the same command again resumes",
                     "kws train configs/quick.toml --set data.shards=data/mine")  # fmt: skip
    train.add_argument("config", type=Path, help="TOML file, see configs/")
    train.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a setting; may be repeated"
    )
    train.add_argument("--run", type=Path, help="run folder (default $KWS_RUNS/CONFIG, KWS_RUNS being runs/)")
    train.add_argument("--check", action="store_true", help="say what would run, in how much memory; train nothing")

    evaluate = _command(
        commands, "evaluate", "accuracy, per-class table, confusion matrix", "kws evaluate runs/a runs/b"
    )
    evaluate.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    _checkpoint_argument(evaluate)
    evaluate.add_argument("--split", default="test", help="test (default), valid or train")
    evaluate.add_argument(
        "--crop", action="store_true", help="mean over the clip and its three crops, to eval/SPLIT-crop.json"
    )
    evaluate.add_argument("--shards", type=Path, help="where the corpus lies now, if it moved")

    compare = _command(
        commands, "compare", "a table of runs: size, accuracy, speed, hours, McNemar's test",
        "kws compare runs/* --out comparison",
    )  # fmt: skip
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder that kws evaluate has seen")
    compare.add_argument("--split", default="test", help="test (default), valid or train")
    compare.add_argument("--out", type=Path, metavar="DIR", help="also write Markdown, CSV and a picture there")

    predict = _command(
        commands,
        "predict",
        "word and probability of audio files",
        "kws predict runs/quick my_voice/ hello.wav --grid mine.png",
    )
    predict.add_argument("run", type=Path, help="run folder")
    _checkpoint_argument(predict)
    predict.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="audio files or folders of them")
    predict.add_argument("--top", type=int, default=3, help="words a file in --json (default 3)")
    predict.add_argument("--grid", type=Path, metavar="PNG", help="draw the files, with truth and prediction")

    report = _command(commands, "report", "one self-contained HTML page of a run", "kws report runs/quick")
    report.add_argument("run", type=Path, help="run folder")

    models = _command(commands, "models", "the networks there are", "kws models 'wrn*' resnet32")
    models.add_argument("names", nargs="*", metavar="NAME", help="only these; * stands for anything")


def _launch_command(commands: Any) -> None:
    """To a cluster's queue."""
    launch = _command(
        commands, "launch", "submit a training to SLURM, or one per config and then their comparison",
        "kws launch slurm configs/wrn_28_10.toml --nodes 4 --gpus 8 --time 12:00:00 --set data.shards=DIR",
    )  # fmt: skip
    launch.add_argument("where", choices=("slurm",))
    launch.add_argument("configs", type=Path, nargs="+", metavar="CONFIG", help="several: an array of jobs, one each")
    launch.add_argument("--nodes", type=int, default=1, help="machines a job (default 1)")
    launch.add_argument("--gpus", type=int, default=0, help="a node, a process each (default 0: on the CPU)")
    launch.add_argument("--tasks", type=int, default=1, help="without --gpus: processes a node (default 1)")
    launch.add_argument("--time", default="", metavar="HH:MM:SS", help="limit; the job saves and goes on after it")
    launch.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting, in all jobs")
    launch.add_argument("--run", type=Path, help="run folder; of several configs the folder for theirs")
    launch.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="for sbatch, such as --sbatch=--partition=gpu"
    )
    launch.add_argument("--dry-run", action="store_true", help="check, show what would be submitted, and do nothing")


def _command(commands: Any, name: str, does: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=does, description=does, epilog=f"example: {example}"
    )
    parser.set_defaults(command=name)
    parser.add_argument("--json", action="store_true", help="for programs: JSON, one object a line")
    return parser


def _checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", default="best_accuracy", help="best_accuracy (default), best_loss, last or a step-... folder"
    )
