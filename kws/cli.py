"""The `kws` command: parse, load, call one function, turn what happened into an exit code.

0 done; 2 something the user can mend, one line; 1 a failure, also when inputs were skipped; 75 stopped and saved.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kws.arguments import parser
from kws.errors import PeerError, RankError, UsageError, mendable

OK, FAILED, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be anything
    try:
        code = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except UsageError as error:
        if _speaks(error):
            print(f"kws: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # before OSError, which it is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED if arguments.command == "train" else OK  # `kws inspect ... | head` is no failure
    except OSError as error:
        line = mendable(error)
        if line is None:
            raise
        print(f"kws: {line}", file=sys.stderr)
        return USAGE
    except PeerError as error:
        if str(error):
            print(f"kws: {error}; see what it said, then run the same again", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _speaks(error: UsageError) -> bool:
    """All ranks meet the same mistake, and rank 0 says it; what one rank met alone, that rank says."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return rank == "0" or isinstance(error, RankError)


# --- the commands ---------------------------------------------------------------------------------------------


def _synth(arguments: argparse.Namespace) -> int:
    from kws.corpus import synth

    words = tuple(arguments.words.split(",")) if arguments.words else synth.DEFAULT_WORDS
    with _progress("speaking") as show:
        summary = synth.synthesize(
            arguments.dir,
            words,
            arguments.voices,
            arguments.takes,
            arguments.seed,
            lambda done, total: show(done, total),
        )
    facts = dataclasses.asdict(summary)
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(f"{arguments.dir}: {summary.clips} clips of {summary.words} words by {summary.voices} voices, "
              f"{summary.seconds / 60:.0f} min of speech; next: kws pack {arguments.dir} SHARDS")  # fmt: skip
    return OK


def _pack(arguments: argparse.Namespace) -> int:
    from kws.audio.codec import SAMPLE_RATE_HZ
    from kws.corpus import recipe as recipes
    from kws.data import pack

    *sources, out = arguments.paths
    if not sources:
        raise UsageError("pack: wanted sources and a folder for the shards: kws pack SRC... DIR")
    part = _part(arguments.part) if arguments.part else pack.WHOLE
    if part != pack.WHOLE:
        out = out / "part-{}-of-{}".format(*part)
        if arguments.recipe:
            raise UsageError("--recipe: counts a whole corpus, and --part is not one; leave it out")
    recipe = recipes.load(arguments.recipe) if arguments.recipe else None
    if recipe:
        recipes.check_archives(recipe, sources)
    with _progress("packing") as show:
        index, report = pack.pack(
            sources, out, arguments.format, progress=lambda what, done, total: show(done, total, what), part=part
        )
    if part == pack.WHOLE and len(index.splits.get("train", ())):
        from kws.audio import statistics

        with _progress("measuring features") as show:
            statistics.write(index, SAMPLE_RATE_HZ, show)
    facts = {name: len(split) for name, split in index.splits.items()}
    faults = report.skipped + (recipes.differences(recipe, index.words, facts) if recipe else [])
    if arguments.json:
        print(json.dumps({"clips": facts, "content_id": index.content_id, "faults": faults, "notes": report.notes}))
        return FAILED if faults else OK
    for note in report.notes:
        print(f"note: {note}")
    for line in faults:
        print(f"fault: {line}", file=sys.stderr)
    counts = ", ".join(f"{count} {name}" for name, count in facts.items())
    print(f"{out}: {counts}; corpus {index.content_id}; next: kws inspect {out}")
    return FAILED if faults else OK


def _part(text: str) -> tuple[int, int]:
    """2/8 -> (2, 8)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part {text}: wanted NUMBER/COUNT, such as 1/8 to 8/8")
    return int(number), int(count)


def _index(arguments: argparse.Namespace) -> int:
    from kws.data import contents, foreign

    words = foreign.read_words(arguments.words) if arguments.words else None
    with _progress("indexing") as show:
        index, report = foreign.index_shards(
            arguments.src, arguments.out, arguments.shards or (), arguments.split, words, show
        )
    facts = {name: len(split) for name, split in index.splits.items()}
    if arguments.json:
        print(json.dumps({"clips": facts, "content_id": index.content_id, "words": list(index.words),
                          "faults": report.skipped, "notes": report.notes}))  # fmt: skip
        return FAILED if report.skipped else OK
    for note in report.notes + contents.shuffle_lines(index):
        print(f"note: {note}")
    for line in report.skipped:
        print(f"left out: {line}", file=sys.stderr)
    counts = ", ".join(f"{count} {name}" for name, count in facts.items())
    print(
        f"{index.root}: {counts}; {len(index.words)} words; corpus {index.content_id}; next: kws inspect {index.root}"
    )
    return FAILED if report.skipped else OK


def _inspect(arguments: argparse.Namespace) -> int:
    from kws.data import contents, index

    if arguments.clip:
        return _inspect_clip(arguments)
    corpus = index.load(arguments.dir)
    if arguments.json:
        print(json.dumps(contents.facts(corpus)))
    else:
        _console().print(contents.words_table(corpus), contents.splits_table(corpus))
        print("\n".join(contents.shuffle_lines(corpus)))
    return OK


def _inspect_clip(arguments: argparse.Namespace) -> int:
    from kws import config as settings_file
    from kws import look

    changes = arguments.set
    config = settings_file.load(arguments.config, changes) if arguments.config else settings_file.of_overrides(changes)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(arguments.dir)))
    out = arguments.out or Path(f"{arguments.clip.replace('/', '_')}.png")
    look.draw_clip(config, arguments.clip, arguments.draws, out)
    print(
        json.dumps({"picture": str(out)})
        if arguments.json
        else f"{out}: the clip, and {arguments.draws} ways to vary it"
    )
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    if (arguments.dir / "config.toml").is_file():
        return _verify_run(arguments.dir, arguments.json)
    from kws.data import foreign, index, scan

    corpus = index.load(arguments.dir)
    total = sum(map(len, corpus.splits.values()))
    with _progress("verifying") as show:
        clips, faults = scan.verify(corpus, foreign.shards_of(corpus), lambda done: show(done, total))
    for fault in faults:
        print(f"kws: {fault}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"clips": clips} | ({"faults": faults} if faults else {})))
    elif faults:
        print(f"{arguments.dir}: {len(faults)} damaged shards; {clips} of {total} clips are in sound ones")
    else:
        print(f"{arguments.dir}: {clips} clips are as indexed")
    return USAGE if faults else OK


def _verify_run(run: Path, as_json: bool) -> int:
    from kws import audit

    verdict = audit.verify_run(run)
    if as_json:
        print(json.dumps(dataclasses.asdict(verdict)))
        return FAILED if verdict.faults else OK
    for fault in verdict.faults:
        print(fault, file=sys.stderr)
    outcome = "NOT the plan" if verdict.faults else "exactly the plan"
    print(f"{run}: {verdict.live} draws counted, {verdict.void} done again; {outcome}")
    return FAILED if verdict.faults else OK


def _train(arguments: argparse.Namespace) -> int:
    from kws import config as settings_file
    from kws import launcher

    launcher.end_with_it()
    config = settings_file.load(arguments.config, arguments.set)
    run = arguments.run or Path(os.environ.get("KWS_RUNS", "runs")) / arguments.config.stem
    from kws import runfolder, runtime, train, zero

    stage = zero.stage(config.train.zero)  # which must suit the other settings too, wherever it comes from
    config = settings_file.load(arguments.config, [*arguments.set, f"train.zero={stage}"])
    threads = config.train.threads or runfolder.recorded_threads(run)
    with runtime.start(dataclasses.replace(config.train, threads=threads)) as here:
        trainer = here.together(lambda: train.Trainer(config, run, here))
        if arguments.check:
            return _check(trainer, arguments) if here.is_main else OK
        code = trainer.run()
        del trainer
    runtime.ignore_stops()
    return code


def _check(trainer: Any, arguments: argparse.Namespace) -> int:
    from kws import preview

    found = preview.facts(trainer, arguments.config)
    if arguments.json:
        print(json.dumps(found))
    else:
        _console().print(preview.table(found))
    return USAGE if found["state"] == preview.REFUSED else OK


def _launch(arguments: argparse.Namespace) -> int:
    from kws import launch

    order = launch.Order(
        configs=arguments.configs, run=arguments.run, changes=arguments.set, nodes=arguments.nodes, gpus=arguments.gpus,
        tasks=arguments.tasks, time=arguments.time, options=arguments.sbatch,
    )  # fmt: skip
    lines = launch.launch(order, arguments.dry_run)
    print(json.dumps(lines) if arguments.json else "\n".join(lines))
    return OK


def _evaluate(arguments: argparse.Namespace) -> int:
    from kws import launcher

    launcher.end_with_it()
    from kws import evaluate, runtime

    with runtime.start(evaluate.settings_of(arguments.runs)) as here:
        for run in arguments.runs:
            with _progress(f"evaluating {run.name}", hidden=not here.is_main) as show:
                summary = evaluate.evaluate_run(
                    run, arguments.split, arguments.checkpoint, arguments.shards, here, arguments.crop, show
                )
            here.on_main(functools.partial(_show_evaluation, run, summary, arguments.json))
        here.barrier()
        if here.is_main and len(arguments.runs) > 1 and not arguments.json:
            print(f"next: kws compare {' '.join(map(str, arguments.runs))}")
    return OK


def _show_evaluation(run: Path, summary: dict[str, Any], as_json: bool) -> None:
    from kws import evaluate
    from kws.results import report

    picture = run / "eval" / f"{evaluate.file_stem(summary['split'], summary['crop'])}.png"
    report.draw_confusion(summary, picture)
    if as_json:
        print(json.dumps(summary), flush=True)
        return
    _console().print(report.class_table(summary), report.pair_table(summary))
    print(f"{run}: {report.result_line(summary)}; picture: {picture}", flush=True)


def _compare(arguments: argparse.Namespace) -> int:
    from kws.results import compare, compare_text

    found = compare.compare(arguments.runs, arguments.split)
    if arguments.out:
        compare_text.write(found, arguments.out)
    if arguments.json:
        for row in found.as_json():
            print(json.dumps(row))
    else:
        _console().print(*compare_text.tables(found))
        print("\n".join(compare_text.notes(found)))
        if arguments.out:
            print(f"{arguments.out}: {', '.join(compare_text.FILES)}")
    for line in found.missing:
        print(f"left out: {line}", file=sys.stderr)
    return FAILED if found.missing else OK


def _predict(arguments: argparse.Namespace) -> int:
    from kws import predict, runtime
    from kws.audio import recordings
    from kws.results import grid

    paths = recordings.find_audio(arguments.paths)
    recognizer = predict.Recognizer.from_run(arguments.run, arguments.checkpoint)
    runtime.keep_freed_memory()
    skipped: list[recordings.Skipped] = []
    tally = predict.Tally(grid.PANELS if arguments.grid else 0)
    say = _say_as_json if arguments.json else _say_prediction
    with _progress("listening", hidden=sys.stdout.isatty()) as show:  # there the lines show how far it is
        for item in recognizer.files(paths, skipped):
            say(tally.add(item), arguments.top)
            show(tally.files + len(skipped), len(paths))
    for left in skipped:
        print(f"left out: {left}", file=sys.stderr)
        if arguments.json:
            print(json.dumps({"path": str(left.path), "error": left.why}))
    if tally.known and not arguments.json:
        print(tally.line())
    if arguments.grid:
        predict.draw_grid(recognizer, tally, arguments.grid)
        if not arguments.json:
            print(f"{arguments.grid}: truth and prediction side by side")
    return FAILED if skipped else OK


def _say_as_json(item: Any, top: int) -> None:
    words = [{"word": word, "probability": round(p, 6)} for word, p in item.words[:top]]
    facts = {"path": str(item.path), "words": words, "truth": item.truth, "start_s": round(item.start_s, 3)}
    print(json.dumps(facts | {"note": item.note}))


def _say_prediction(item: Any, _: int) -> None:
    from kws.audio.recordings import printable

    word, probability = item.words[0]
    mark = {None: "", True: "  right", False: f"  wrong, is {item.truth}"}[item.right]
    note = f"  ({item.note})" if item.note else ""
    print(f"{printable(item.path)}  {word}  {probability:.1%}{mark}{note}")


def _report(arguments: argparse.Namespace) -> int:
    from kws.results import report

    page, figures = report.write_report(arguments.run)
    if arguments.json:
        print(json.dumps({"report": str(page)}))
        return OK
    _console().print(figures)
    print(f"{page}: open it in a browser")
    return OK


def _models(arguments: argparse.Namespace) -> int:
    from kws import catalogue

    names = catalogue.matching(arguments.names)
    with _progress("counting") as show:
        rows = []
        for name in names:
            rows.append(catalogue.row(name))
            show(len(rows), len(names))
    if arguments.json:
        print(json.dumps(rows))
        return OK
    _console().print(catalogue.table(rows))
    for family, paper in {row["family"]: row["paper"] for row in rows}.items():
        print(f"{family}: {paper}")
    return OK


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "synth": _synth, "pack": _pack, "index": _index, "inspect": _inspect, "verify": _verify, "train": _train,
    "evaluate": _evaluate, "compare": _compare, "predict": _predict, "report": _report, "models": _models,
    "launch": _launch,
}  # fmt: skip


# --- what a person sees ---------------------------------------------------------------------------------------


def _console() -> Any:
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # `main` knows what it means; rich would leave with 1

    return Plain()


@contextmanager
def _progress(what: str, hidden: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on stderr where that is a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console, hidden = Console(stderr=True), hidden or not sys.stderr.isatty()
    # What is printed meanwhile must not take the way of the bar: it may be meant for a file.
    with Progress(console=console, transient=True, disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, label=what: bar.update(task, completed=done, total=total, description=label)
