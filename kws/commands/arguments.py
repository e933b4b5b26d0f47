"""The command line of `kws`: its commands, their arguments and their help texts."""

from __future__ import annotations

import argparse
from typing import Any

from kws import __version__
from kws.commands.continuous_arguments import add_listen, add_mix, add_spot
from kws.commands.parser import Parser, path
from kws.commands.parser import add_command as _command
from kws.commands.shared_arguments import add_checkpoint, add_device, add_network, add_seed

EXIT_CODES = (
    "exit codes: 0 success; 1 failure; 2 usage or environment error: the message explains how to fix it; "
    "75 stopped and saved: run the same command again to resume"
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of `kws`; the parsed arguments hold the command's name as `command`."""
    parser = Parser(
        prog="kws",
        description="Train keyword-spotting networks, on one laptop core or on many GPU nodes, from the same shards.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"kws {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_synth, _add_fetch, _add_record, _add_pack, _add_inspect, _add_verify, _add_index, add_mix, _add_train,
        _add_evaluate, _add_compare, _add_predict, add_spot, add_listen, _add_report, _add_models, _add_configs,
        _add_settings, _add_launch, _add_doctor,
    ):  # fmt: skip
        add(commands)
    return parser


# --- corpora ---------------------------------------------------------------------------------------------------


def _add_synth(commands: Any) -> None:
    synth = _command(commands, "synth", "make a spoken corpus with espeak-ng", "kws synth data/spoken --voices 96")
    synth.add_argument("dir", type=path, help="new folder for the corpus, in the layout of Speech Commands")
    synth.add_argument(
        "--words", metavar="FILE|A,B",
        help="the words, in any script, as a list or a file with one word per line (default: sixteen English words)",
    )  # fmt: skip
    synth.add_argument(
        "--languages", metavar="A,B",
        help="languages of espeak-ng, such as de,fr-CH,en-US, distributed over the voices (default: English)",
    )  # fmt: skip
    synth.add_argument(
        "--voices", type=int, default=96, help="number of different voices, each in a single split (default 96)"
    )
    synth.add_argument("--takes", type=int, default=2, help="number of clips of each word by each voice (default 2)")
    synth.add_argument("--noise", metavar="LOW:HIGH", help="add noise at a signal-to-noise ratio in this range, in dB")
    synth.add_argument(
        "--rooms", type=float, default=0.0, metavar="SHARE", help="fraction of the clips with reverberation (default 0)"
    )
    add_seed(synth)
    synth.add_argument("--processes", type=int, metavar="N", help="number of worker processes (default: one per core)")


def _add_fetch(commands: Any) -> None:
    fetch = _command(
        commands, "fetch", "download a known corpus and pack it into shards; run the same command again to resume",
        "kws fetch speech_commands_v0.02 data/sc2",
    )  # fmt: skip
    fetch.add_argument(
        "name", metavar="NAME", help="name of a recipe in shards/, such as speech_commands_v0.01, or a TOML file"
    )
    fetch.add_argument("dir", type=path, metavar="DIR", help="folder for the shards")
    fetch.add_argument(
        "--url", metavar="U", help="address of the archive: http(s)://, or a local file, which is read in place"
    )
    fetch.add_argument("--keep", action="store_true", help="keep the downloaded archive in DIR")


def _add_record(commands: Any) -> None:
    record = _command(
        commands, "record", "record a word with the microphone", "kws record yes data/mine --speaker anna"
    )
    record.add_argument(
        "word", help="the word to say; `noise` records the room without a voice, into _background_noise_"
    )
    record.add_argument("dir", type=path, help="folder of word folders, for kws pack; existing files are kept")
    record.add_argument("--count", type=int, default=20, help="number of takes to keep (default 20)")
    record.add_argument(
        "--speaker", default="me", metavar="NAME", help="the speaker, which becomes part of the file names (default me)"
    )
    record.add_argument("--seconds", type=float, default=1.0, help="length of a take in seconds (default 1)")
    add_device(record)


def _add_pack(commands: Any) -> None:
    pack = _command(commands, "pack", "pack recordings into shards with an index", "kws pack a.tar b.tar.gz data/mine")
    pack.usage = "kws pack [options] SRC [SRC ...] DIR"
    pack.add_argument(
        "paths", type=path, nargs="+", metavar="SRC",
        help="sources, then the folder for the shards; a source is a folder or tar archive of WORD/FILE, "
        "or a CSV of clips (docs/data.md)",
    )  # fmt: skip
    pack.add_argument(
        "--names", default="", metavar="PATTERN",
        help="how file names are built, for sources without word folders: '{word}_{speaker}_{}', where {} is anything; "
        "with a /, how whole paths below the source are built: '{speaker}/{word}/{}'",
    )  # fmt: skip
    pack.add_argument(
        "--table", action="append", default=[], metavar="NAME",
        help="the table that lists the recordings of a source folder, where several lie there (may be repeated); none "
        "to read no table (default: the tables that are found)",
    )  # fmt: skip
    pack.add_argument(
        "--format", choices=("wav", "flac"), default="wav",
        help="audio format in the shards; flac needs half the space (default wav)",
    )  # fmt: skip
    pack.add_argument(
        "--recipe", metavar="NAME|FILE",
        help="check words and counts against a recipe in shards/, or a TOML file; exit code 1 if they differ",
    )  # fmt: skip
    pack.add_argument(
        "--negatives", action="append", type=path, default=[], metavar="FOLDER",
        help="long recordings without the words: training draws windows of them as the class unknown "
        "(data.negatives); may be repeated; with --append no SRC is needed",
    )  # fmt: skip
    pack.add_argument("--append", action="store_true", help="add the recordings to the corpus in DIR, as new shards")
    pack.add_argument(
        "--valid", type=float, metavar="PERCENT",
        help="percentage of the speakers for the valid split, where the sources have no split lists (default 10)",
    )  # fmt: skip
    pack.add_argument("--test", type=float, metavar="PERCENT", help="the same for the test split (default 10)")
    for split in ("valid", "test"):
        pack.add_argument(
            f"--{split}-speakers", metavar="FILE|A,B",
            help=f"these speakers are in the {split} split, and no others (but for --{split} PERCENT): names between "
            "commas, or a file with one a line",
        )  # fmt: skip
    pack.add_argument(
        "--allow-leaks", action="store_true",
        help="accept a speaker or a recording in two splits, and a recording under two words",
    )  # fmt: skip
    _add_allow_faults(pack)
    pack.add_argument(
        "--processes", type=int, metavar="N",
        help="number of worker processes (default: one per core); the shards do not depend on it",
    )  # fmt: skip
    pack.add_argument(
        "--part", metavar="I/N",
        help="pack only part I of N of the recordings, into DIR/part-I-of-N; when all parts exist, run kws index DIR",
    )  # fmt: skip


def _add_allow_faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-faults", metavar="N|PERCENT",
        help="exit code 0 although up to N recordings, or up to 1%% of them, were left out as damaged (default 0)",
    )  # fmt: skip


def _add_inspect(commands: Any) -> None:
    inspect = _command(
        commands, "inspect", "show what a packed corpus holds", "kws inspect data/mine --clip train/0 --out clip.png"
    )
    inspect.add_argument("dir", type=path, help="folder of a packed corpus")
    inspect.add_argument(
        "--task", metavar="NAME|FILE",
        help="show the number of clips per class of a task: v1-30, v2-35, v1-12, v2-12, v1-12-full, a TOML file, or "
        "classes between commas, such as unknown,silence,stop,go",
    )  # fmt: skip
    inspect.add_argument(
        "--clip", metavar="NAME",
        help="draw a clip (its name, or SPLIT/NUMBER) as the network sees it, without and with augmentation",
    )  # fmt: skip
    inspect.add_argument(
        "--conditions", action="store_true",
        help="show how the clips were recorded (level, noise floor, bandwidth, source format ...) by word and split, "
        "and warn of words that can be recognised by it",
    )  # fmt: skip
    inspect.add_argument("--out", type=path, metavar="PNG", help="with --clip: file for the picture (default NAME.png)")
    inspect.add_argument("--draws", type=int, default=4, help="with --clip: number of augmented variants (default 4)")
    inspect.add_argument(
        "--config", type=path, help="with --clip: TOML file, or a name of kws configs, whose front end is used"
    )
    inspect.add_argument(
        "--set", action="append", default=[], metavar="A.B=C",
        help="with --clip: override a setting, such as --set frontend.augment=classic",
    )  # fmt: skip


def _add_verify(commands: Any) -> None:
    verify = _command(
        commands, "verify", "check a packed corpus against its index, or a run's ledger against its plan",
        "kws verify data/mine",
    )  # fmt: skip
    verify.add_argument("dir", type=path, help="folder of a packed corpus, or run folder")


def _add_index(commands: Any) -> None:
    index = _command(
        commands, "index", "make the index for existing shards, also for shards that kws did not pack",
        "kws index https://host/kws --shards 'train/{000000..000012}.tar' --out data/theirs",
    )  # fmt: skip
    index.add_argument(
        "src", metavar="SRC", help="folder of tar shards, http(s)://, s3://, or pipe:COMMAND with {} for a shard's name"
    )
    index.add_argument("--out", type=path, metavar="DIR", help="folder for the index (default: next to the shards)")
    index.add_argument(
        "--shards", nargs="+", metavar="NAMES",
        help="shards below SRC, with {a..b} for ranges, or a file that lists them (default: all)",
    )  # fmt: skip
    index.add_argument(
        "--split", choices=("train", "valid", "test", "noise"),
        help="split of all clips (default: from folder and file names, otherwise from a hash of the speaker)",
    )  # fmt: skip
    index.add_argument(
        "--names", default="", metavar="PATTERN",
        help="which folder in the keys is the word, where no member has it: '{speaker}/{word}/{}'",
    )  # fmt: skip
    index.add_argument(
        "--words", metavar="FILE|A,B", help="the words, for shards that store them as numbers, in the order of these"
    )
    _add_allow_faults(index)


# --- runs ------------------------------------------------------------------------------------------------------


def _add_train(commands: Any) -> None:
    train = _command(
        commands, "train", "train a network; run the same command again to resume",
        "kws train quick --set data.shards=data/mine",
    )  # fmt: skip
    train.add_argument(
        "config", type=path, metavar="CONFIG", help="TOML file with settings, or a name that kws configs lists"
    )
    _add_set(train)
    train.add_argument(
        "--run", type=path, help="run folder (default: $KWS_RUNS/CONFIG, or runs/CONFIG without $KWS_RUNS)"
    )
    train.add_argument(
        "--check", action="store_true", help="show what would run and how much memory it needs, without training"
    )


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a setting; may be given several times"
    )


def _add_evaluate(commands: Any) -> None:
    evaluate = _command(
        commands, "evaluate", "evaluate runs: accuracy, figures per class, confusion matrix",
        "kws evaluate runs/a runs/b",
    )  # fmt: skip
    evaluate.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run folder")
    add_checkpoint(evaluate)
    _add_split(evaluate)
    evaluate.add_argument(
        "--crop", action="store_true",
        help="average the probabilities over the clip and three crops; written to eval/SPLIT-crop.json",
    )  # fmt: skip
    evaluate.add_argument("--shards", type=path, help="folder of the corpus, if it was moved after training")


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="test", help="test (default), valid or train")


def _add_compare(commands: Any) -> None:
    compare = _command(
        commands, "compare", "compare evaluated runs: size, accuracy, speed, hours, McNemar's test",
        "kws compare runs/* --out comparison",
    )  # fmt: skip
    compare.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run folder, after kws evaluate")
    _add_split(compare)
    compare.add_argument(
        "--out",
        type=path,
        metavar="DIR",
        help="also write the table as Markdown and CSV, and a picture, to this folder",
    )


def _add_predict(commands: Any) -> None:
    predict = _command(
        commands, "predict", "recognise the words in audio files",
        "kws predict runs/quick my_voice/ hello.wav --grid mine.png",
    )  # fmt: skip
    add_network(predict)
    predict.add_argument("paths", type=path, nargs="+", metavar="PATH", help="audio files, or folders of them")
    predict.add_argument("--top", type=int, default=3, help="with --json: number of words per file (default 3)")
    predict.add_argument(
        "--grid", type=path, metavar="PNG", help="draw the files' features, with truth and prediction, to this file"
    )


def _add_report(commands: Any) -> None:
    report = _command(commands, "report", "write one self-contained HTML page about a run", "kws report runs/quick")
    report.add_argument("run", type=path, help="run folder")


def _add_models(commands: Any) -> None:
    models = _command(commands, "models", "list the networks and their cost", "kws models 'wrn*' resnet32")
    models.add_argument("names", nargs="*", metavar="NAME", help="list only these; * matches any characters")


def _add_configs(commands: Any) -> None:
    configs = _command(
        commands, "configs", "list the configs that come with kws, or copy them", "kws configs 'res*' --copy configs"
    )
    configs.add_argument("names", nargs="*", metavar="NAME", help="only these; * matches any characters")
    kinds = configs.add_mutually_exclusive_group()
    kinds.add_argument("--launch", action="store_true", help="the files for accelerate launch instead")
    kinds.add_argument("--slurm", action="store_true", help="the scripts for sbatch instead")
    configs.add_argument(
        "--copy", type=path, metavar="DIR", help="copy them into this folder; existing files are never overwritten"
    )


def _add_settings(commands: Any) -> None:
    settings = _command(
        commands, "settings", "list and explain the settings of a config and of --set", "kws settings noise"
    )
    settings.add_argument(
        "words", nargs="*", metavar="WORD", help="only settings with all of these in their name or explanation"
    )


def _add_launch(commands: Any) -> None:
    launch = _command(
        commands, "launch", "submit a training to SLURM, or one per config and then their comparison",
        "kws launch slurm wrn_28_10 --gpus 2 --time 12:00:00 --set data.shards=DIR",
    )  # fmt: skip
    launch.add_argument("where", choices=("slurm",), help="the scheduler")
    launch.add_argument(
        "configs", type=path, nargs="+", metavar="CONFIG",
        help="TOML file, or a name that kws configs lists; several become an array with one job each",
    )  # fmt: skip
    launch.add_argument("--nodes", type=int, default=1, help="number of nodes per job (default 1)")
    launch.add_argument(
        "--gpus", type=int, default=0, help="GPUs per node, with one process each (default 0: train on the CPU)"
    )
    launch.add_argument("--tasks", type=int, default=1, help="without --gpus: processes per node (default 1)")
    launch.add_argument(
        "--time", default="", metavar="HH:MM:SS", help="time limit; the job saves before it and is then requeued"
    )
    launch.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a setting in all jobs; may be repeated"
    )
    launch.add_argument("--run", type=path, help="run folder; with several configs the folder for their run folders")
    launch.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="option for sbatch: --sbatch=--partition=gpu"
    )
    launch.add_argument("--dry-run", action="store_true", help="check and show what would be submitted; submit nothing")


def _add_doctor(commands: Any) -> None:
    doctor = _command(
        commands, "doctor", "check whether this machine, or under a launcher all its machines, are ready to train",
        "kws doctor quick --set data.shards=data/mine; for several machines: srun kws doctor quick",
    )  # fmt: skip
    doctor.add_argument(
        "config", type=path, nargs="?", metavar="CONFIG",
        help="also measure a step of this config and read its shards: a TOML file, or a name that kws configs lists",
    )  # fmt: skip
    _add_set(doctor)
    doctor.add_argument(
        "--run", type=path, metavar="DIR",
        help="run folder to check (default: $KWS_RUNS/CONFIG, or runs/CONFIG without $KWS_RUNS); it is not created",
    )  # fmt: skip
    doctor.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS",
        help="longest time of one check, also that of waiting for the other processes (default 60)",
    )  # fmt: skip
