"""The commands on runs: train, launch, evaluate, compare, predict, report; and models, the list of networks."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from kws.commands.terminal import FAILED, OK, USAGE, console, progress
from kws.errors import UsageError, did_you_mean


def train(arguments: argparse.Namespace) -> int:
    """Trains or resumes a run; with --check only shows what would happen."""
    from kws import shipped_files
    from kws.distributed import parent_death
    from kws.run import early_stop

    parent_death.end_with_launcher()
    path = shipped_files.find_config(arguments.config)
    run = arguments.run or Path(os.environ.get("KWS_RUNS", "runs")) / path.stem
    start = None if arguments.check else early_stop.begin_start(run)
    from kws import settings_file
    from kws.models import names

    notes: list[str] = []
    config = settings_file.load(path, arguments.set, notes.append)
    names.refuse_unknown(config.model.name)
    from kws.commands.config_files import expectation
    from kws.distributed import deepspeed_zero, process_group, signals
    from kws.run import folder as run_folder
    from kws.training.trainer import Trainer

    stage = deepspeed_zero.resolve_stage(config.train.zero)  # perhaps from accelerate; checked with the other settings
    by_launcher = settings_file.Override(f"train.zero={stage}", "train.zero and accelerate's zero_stage")
    config = settings_file.load(path, [*arguments.set, by_launcher])
    threads = config.train.threads or run_folder.recorded_threads(run)
    with process_group.start(dataclasses.replace(config.train, threads=threads), training=True) as ranks:
        with process_group.time_limit(config.train.hang_s, "corpus and network were not ready"):
            trainer = ranks.on_all(lambda: Trainer(config, run, ranks))
        if arguments.check:
            return _check(trainer, arguments, notes)
        for line in filter(None, [*notes, expectation(path)]):
            trainer.say(line)
        code = trainer.run(start)
        del trainer
    signals.ignore_stop_signals()
    return code


def _check(trainer: Any, arguments: argparse.Namespace, notes: list[str]) -> int:
    from kws import shipped_files
    from kws.commands import preview

    found = preview.preview(trainer, shipped_files.find_config(arguments.config))
    found["notes"] = notes + found["notes"]
    if not trainer.ranks.is_main:
        return OK
    if arguments.json:
        print(json.dumps(found))
    else:
        console().print(preview.preview_table(found))
    return USAGE if found["state"] == preview.REFUSED else OK


def launch(arguments: argparse.Namespace) -> int:
    """Submits a training, or one per config, to SLURM."""
    from kws import shipped_files
    from kws.commands import slurm_submit

    configs = [shipped_files.find_config(path) for path in arguments.configs]
    submission = slurm_submit.Submission(
        configs=configs, run=arguments.run, changes=arguments.set, nodes=arguments.nodes, gpus=arguments.gpus,
        tasks=arguments.tasks, time=arguments.time, options=arguments.sbatch,
    )  # fmt: skip
    lines = slurm_submit.submit(submission, arguments.dry_run)
    print(json.dumps(lines) if arguments.json else "\n".join(lines))
    return OK


def evaluate(arguments: argparse.Namespace) -> int:
    """Evaluates runs on a split, one after the other, and shows each result."""
    from kws.distributed import parent_death

    parent_death.end_with_launcher()
    _check_split(arguments.split)
    from kws.distributed import process_group
    from kws.evaluation import evaluate

    with process_group.start(evaluate.process_settings(arguments.runs)) as ranks:
        for run in arguments.runs:
            with progress(f"evaluating {run.name}", hidden=not ranks.is_main) as show:
                wanted = evaluate.RunEvaluation(
                    run=run, split=arguments.split, checkpoint=arguments.checkpoint, shards=arguments.shards,
                    crop=arguments.crop,
                )  # fmt: skip
                summary = evaluate.evaluate_run(wanted, ranks, show)
            ranks.on_main(functools.partial(_show_evaluation, run, summary, arguments.json))
        ranks.barrier()
        if ranks.is_main and len(arguments.runs) > 1 and not arguments.json:
            print(f"next: kws compare {' '.join(map(str, arguments.runs))}")
    return OK


def _check_split(name: str) -> None:
    """Raises UsageError for a split that no corpus has."""
    if name not in ("test", "valid", "train", "noise"):  # noise is refused later, with the reason
        near = did_you_mean(name, ("test", "valid", "train"))
        raise UsageError(f"--split {name}: no such split; wanted test, valid or train{near}")


def _show_evaluation(run: Path, summary: dict[str, Any], as_json: bool) -> None:
    from kws import metrics
    from kws.evaluation.split_result import file_stem
    from kws.results import confusion_picture, report

    picture = run / "eval" / f"{file_stem(summary['split'], summary['crop'])}.png"
    confusion_picture.draw_confusion(summary, picture)
    if as_json:
        print(json.dumps(summary), flush=True)
        return
    console().print(report.class_table(summary), report.pair_table(summary), report.open_set_table(summary))
    print(f"{run}: {report.result_line(summary)}; picture: {picture}", flush=True)
    for note in metrics.few_clips_notes({summary["split"]: summary["n"]}):
        print(f"note: {note}", flush=True)


def compare(arguments: argparse.Namespace) -> int:
    """Shows evaluated runs as a table; with --out also writes it as files."""
    from kws.results import compare, compare_text

    _check_split(arguments.split)
    found = compare.compare(arguments.runs, arguments.split)
    if arguments.out:
        compare_text.write_comparison(found, arguments.out)
    if arguments.json:
        for row in found.as_json():
            print(json.dumps(row))
    else:
        console().print(*compare_text.tables(found))
        print("\n".join(compare_text.notes(found)))
        if arguments.out:
            print(f"{arguments.out}: {', '.join(compare_text.FILES)}")
    for line in found.missing:
        print(f"left out: {line}", file=sys.stderr)
    return FAILED if found.missing else OK


def predict(arguments: argparse.Namespace) -> int:
    """Recognises the words in audio files."""
    from kws.audio import audio_files
    from kws.evaluation import predict
    from kws.machine import keep_freed_memory
    from kws.results import grid

    paths = audio_files.find_audio(arguments.paths)
    recognizer = predict.Recognizer.from_run(arguments.run, arguments.checkpoint)
    keep_freed_memory()
    skipped: list[audio_files.SkippedFile] = []
    counts = predict.PredictionCounts(grid.MAX_PANELS if arguments.grid else 0)
    print_prediction = _print_json if arguments.json else _print_line
    with progress("predicting", hidden=sys.stdout.isatty()) as show:  # on a terminal the lines show the progress
        for item in recognizer.files(paths, skipped):
            print_prediction(counts.add(item), arguments.top)
            show(counts.files + len(skipped), len(paths))
    for file in skipped:
        print(f"left out: {file}", file=sys.stderr)
        if arguments.json:
            print(json.dumps({"path": str(file.path), "error": file.reason}))
    if counts.known and not arguments.json:
        print(counts.line())
    if arguments.grid:
        predict.draw_grid(recognizer, counts, arguments.grid)
        if not arguments.json:
            print(f"{arguments.grid}: truth and prediction side by side")
    return FAILED if skipped else OK


def _print_json(item: Any, top: int) -> None:
    words = [{"word": word, "probability": round(p, 6)} for word, p in item.words[:top]]
    row = {"path": str(item.path), "words": words, "truth": item.truth, "start_s": round(item.start_s, 4)}
    print(json.dumps(row | {"note": item.note}))


def _print_line(item: Any, _: int) -> None:
    from kws.audio.audio_files import printable

    word, probability = item.words[0]
    mark = {None: "", True: "  right", False: f"  wrong, is {item.truth}"}[item.right]
    note = f"  ({item.note})" if item.note else ""
    print(f"{printable(item.path)}  {word}  {probability:.1%}{mark}{note}")


def report(arguments: argparse.Namespace) -> int:
    """Writes a run's HTML page and shows its main figures."""
    from kws.evaluation import sampling_audit
    from kws.results import records, report

    sampling = sampling_audit.audit_sampling(arguments.run, records.steps_done(arguments.run))
    page, figures = report.write_report(arguments.run, sampling)
    if arguments.json:
        print(json.dumps({"report": str(page)}))
        return OK
    console().print(figures)
    print(f"{page}: open it in a browser")
    return OK


def models(arguments: argparse.Namespace) -> int:
    """Shows the networks and what each costs."""
    from kws.commands import catalogue

    names = catalogue.find_names(arguments.names)
    with progress("counting") as show:
        rows = []
        for name in names:
            rows.append(catalogue.network_row(name))
            show(len(rows), len(names))
    if arguments.json:
        print(json.dumps(rows))
        return OK
    console().print(catalogue.networks_table(rows))
    for family, paper in {row["family"]: row["paper"] for row in rows}.items():
        print(f"{family}: {paper}")
    return OK
