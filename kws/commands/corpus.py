"""The commands on corpora: synth, fetch, record, pack, index, inspect, verify."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kws.commands.allowed_faults import NONE_ALLOWED, AllowedFaults
from kws.commands.terminal import FAILED, INTERRUPTED, OK, USAGE, console, live_line, meter, progress, stoppable
from kws.errors import UsageError

if TYPE_CHECKING:
    from kws.corpus.recipe import Recipe
    from kws.data.index import Index
    from kws.packing.pack import PackOptions, PackReport


_MOST_LINES = 30
"""Faults shown on the terminal; the list beside the index has all."""


def synth(arguments: argparse.Namespace) -> int:
    """Makes a spoken corpus with espeak-ng."""
    from kws.corpus import synth
    from kws.packing.external_index import read_words

    chosen: dict[str, Any] = {}
    if arguments.words:
        chosen["words"] = read_words(arguments.words)
    if arguments.languages:
        chosen["languages"] = tuple(arguments.languages.split(","))
    speech = synth.SynthSettings(
        voices=arguments.voices, takes=arguments.takes, seed=arguments.seed,
        noise_db=_range(arguments.noise) if arguments.noise else None, rooms=arguments.rooms, **chosen,
    )  # fmt: skip
    with progress("synthesising") as show:
        summary = synth.synthesize(arguments.dir, speech, show, _processes(arguments.processes))
    facts = dataclasses.asdict(summary)
    if arguments.json:
        print(json.dumps(facts))
    else:
        print(f"{arguments.dir}: {summary.clips} clips of {summary.words} words by {summary.voices} voices, "
              f"{summary.seconds / 60:.0f} min of speech; next: kws pack {arguments.dir} SHARDS")  # fmt: skip
    return OK


def _range(text: str) -> tuple[float, float]:
    """5:20 -> (5.0, 20.0)."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise UsageError(f"--noise {text}: wanted LOW:HIGH, decibels of clip to noise, such as 5:20") from None


def fetch(arguments: argparse.Namespace) -> int:
    """Downloads a known corpus and packs it; nothing to do where it is packed already."""
    from kws.corpus import fetch, recipe
    from kws.data import index
    from kws.packing import pack

    wanted, out = recipe.find(arguments.name), arguments.dir
    address = arguments.url or wanted.url
    if not address or len(wanted.sha256) > 1:
        raise UsageError(
            f"{wanted.path}: names no single archive with a url; give --url, or use kws pack on its archives"
        )
    report, unfinished = pack.PackReport(), (out / ".packing" / "journal").exists()
    if (out / "index" / "index.json").exists() and not unfinished:
        corpus = index.load(out)
        if differs := recipe.differences(wanted, corpus.words, _counts(corpus)):
            raise UsageError(f"{out}: holds another corpus ({differs[0]}); give another folder")
        report.notes.append(f"{wanted.name} was packed here before")
    else:
        if not unfinished:
            pack.check_free(out)
        with stoppable(out), progress("fetching", in_bytes=True) as show:
            archive = fetch.fetch_archive(wanted, address, out, _print_status, show)
        options = pack.PackOptions(allow_leaks=wanted.allow_leaks, are_plain=recipe.is_shipped(wanted))
        corpus, report = _pack([archive], out, options, _processes(None))
    if fetch.is_unfinished(out):
        _measure_features(corpus)
    report.notes.extend(_clip_notes(corpus))
    code = _show_packed(corpus, report, wanted, arguments.json)
    if code == OK:
        fetch.finish(wanted, out, arguments.keep)
    return code


def _print_status(line: str) -> None:
    """Prints a line above the progress bar."""
    print(line, file=sys.stderr, flush=True)


def record(arguments: argparse.Namespace) -> int:
    """Records takes of a word with the microphone."""
    from kws.audio.microphone import Microphone
    from kws.corpus import takes

    session = takes.RecordingSession(
        arguments.word, arguments.dir, arguments.speaker, arguments.count, arguments.seconds
    )
    first, code = session.first_number(), OK
    try:
        with Microphone(arguments.device) as microphone, live_line() as show:
            for event in takes.record(session, microphone):
                if isinstance(event, takes.RejectedTake):
                    print(f"rejected: {event.why}; say it again", file=sys.stderr)
                else:
                    prompt = event.countdown or f"say {session.word}"
                    show(f"take {event.take} of {session.count}  {prompt:<16} {meter(event.level_db)}")
    except KeyboardInterrupt:
        code = INTERRUPTED
    kept = [str(session.take_path(number)) for number in range(first, session.first_number())]
    if arguments.json:
        print(json.dumps({"kept": len(kept), "files": kept}))
    else:
        hint = "stopped; run the same command again for more" if code else f"next: kws pack {session.folder} SHARDS"
        print(f"{session.word_folder}: {len(kept)} takes kept; {hint}")
    return code


def pack(arguments: argparse.Namespace) -> int:
    """Packs recordings into shards with an index."""
    from kws.corpus import recipe as recipes
    from kws.packing import pack

    *sources, out = arguments.paths
    allowed = AllowedFaults.parse(arguments.allow_faults)
    if not sources and not (arguments.append and arguments.negatives):
        raise UsageError("pack: wanted one or more sources and then a folder for the shards: kws pack SRC... DIR")
    part = _part(arguments.part) if arguments.part else pack.WHOLE
    if part != pack.WHOLE:
        out = out / "part-{}-of-{}".format(*part)
        if arguments.recipe:
            raise UsageError("--recipe: it describes a whole corpus, and --part packs only a part; leave --recipe out")
        if arguments.append:
            raise UsageError("--append: it adds to a corpus, and --part makes a new one; leave --append out")
    recipe = recipes.find(arguments.recipe) if arguments.recipe else None
    if recipe:
        recipes.check_archives(recipe, sources)
    options = pack.PackOptions(
        audio_format=arguments.format, part=part, percents=_percents(arguments.valid, arguments.test),
        valid_speakers=_speakers(arguments.valid_speakers, "valid"),
        test_speakers=_speakers(arguments.test_speakers, "test"), append=arguments.append, names=arguments.names,
        tables=tuple(arguments.table), negatives=tuple(arguments.negatives),
        allow_leaks=arguments.allow_leaks or (recipe is not None and recipe.allow_leaks),
    )  # fmt: skip
    corpus, report = _pack(sources, out, options, _processes(arguments.processes))
    if part == pack.WHOLE and len(corpus.splits.get("train", ())):
        _measure_features(corpus)
        report.notes.extend(_clip_notes(corpus))
    return _show_packed(corpus, report, recipe, arguments.json, allowed)


def _pack(sources: Sequence[Path], out: Path, options: PackOptions, processes: int) -> tuple[Index, PackReport]:
    from kws.packing import pack

    with stoppable(out), progress("packing") as show:
        return pack.pack(sources, out, options, lambda stage, done, total: show(done, total, stage), processes)


def _measure_features(corpus: Index) -> None:
    """Writes the statistics with which `frontend.normalise = "corpus"` normalises features."""
    from kws.data import clip_lengths, normalisation

    with progress("measuring features") as show:
        normalisation.measure_and_save(corpus, clip_lengths.auto_excerpt(corpus), show)


def _clip_notes(corpus: Index) -> list[str]:
    """What a run with the default settings does with recordings that are longer or shorter than its clips."""
    from kws.data import clip_lengths

    return clip_lengths.ClipLengths.of(corpus, clip_lengths.auto_excerpt(corpus)).notes()


def _counts(corpus: Index) -> dict[str, int]:
    """Number of clips by split."""
    return {name: len(split) for name, split in corpus.splits.items()}


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _show_packed(
    corpus: Index, report: PackReport, recipe: Recipe | None, as_json: bool, allowed: AllowedFaults = NONE_ALLOWED
) -> int:
    """Shows what was packed and how it differs from the recipe; returns the exit code."""
    from kws.corpus import recipe as recipes
    from kws.packing import publish

    clips = _counts(corpus)
    differs = recipes.differences(recipe, corpus.words, clips) if recipe else []
    left_out, packed, faults = report.num_skipped, sum(clips.values()), report.skipped + differs
    code = FAILED if differs else allowed.exit_code(left_out, packed)
    if as_json:
        facts = {"clips": clips, "content_id": corpus.content_id, "faults": faults, "notes": report.notes}
        facts |= {"left_out": report.left_out}
        if corpus.negatives:
            from kws.data import negatives

            facts["negatives"] = {split: negatives.seconds(group) for split, group in corpus.negatives.items()}
        print(json.dumps(facts))
        return code
    for note in report.notes:
        print(f"note: {note}")
    for line in faults[:_MOST_LINES]:
        print(f"fault: {line}", file=sys.stderr)
    if faults[_MOST_LINES:]:
        print(f"fault: and {len(faults) - _MOST_LINES:,} more", file=sys.stderr)
    if left_out:
        print(allowed.line(left_out, packed), file=sys.stderr)
    if report.left_out:
        number = sum(report.left_out.values())
        files = "file" if number == 1 else "files"
        print(f"{number:,} {files} left out, listed in {corpus.root / 'index' / publish.LEFT_OUT}")
    found = f"{_counts_text(clips)}{_negatives_text(corpus)}"
    print(f"{corpus.root}: {found}; corpus {corpus.content_id}; next: kws inspect {corpus.root}")
    return code


def _negatives_text(corpus: Index) -> str:
    """How long the negatives of each split are; "" where there are none."""
    from kws.data import negatives

    hours = [f"{negatives.seconds(group) / 3600:.3g} h {split}" for split, group in corpus.negatives.items()]
    return f"; negatives: {', '.join(hours)}" if hours else ""


def _part(text: str) -> tuple[int, int]:
    """2/8 -> (2, 8)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part {text}: wanted NUMBER/COUNT, such as 1/8 to 8/8")
    return int(number), int(count)


def _percents(valid: float | None, test: float | None) -> tuple[float | None, float | None]:
    """Percentages of speakers for valid and test, None where not given. Raises UsageError for impossible ones."""
    from kws.packing.splits import OFFICIAL_PERCENT

    found = tuple(OFFICIAL_PERCENT if percent is None else percent for percent in (valid, test))
    if not (min(found) >= 0 and sum(found) < 100):  # written so that a nan is refused too
        raise UsageError(f"--valid {found[0]:g} --test {found[1]:g}: wanted percentages that leave some for training")
    return valid, test


def _speakers(given: str | None, split: str) -> tuple[str, ...]:
    """The speakers of --valid-speakers or --test-speakers."""
    from kws.packing.splits import read_speakers

    try:
        return () if given is None else read_speakers(given)
    except UsageError as error:
        raise UsageError(f"--{split}-speakers: {error}") from None


def _processes(given: int | None) -> int:
    """The number given, or one per core. Raises UsageError below 1."""
    from kws import machine

    if given is not None and given < 1:
        raise UsageError(f"--processes {given}: wanted 1 or more")
    return given or machine.usable_cores()


def index(arguments: argparse.Namespace) -> int:
    """Makes the index for existing shards."""
    from kws.packing import contents, external_index, leaks

    allowed = AllowedFaults.parse(arguments.allow_faults)
    words = external_index.read_words(arguments.words) if arguments.words else None
    with progress("indexing") as show:
        index, report = external_index.index_shards(
            arguments.src, arguments.out, arguments.shards or (), arguments.split, words, show, arguments.names
        )
    clips = _counts(index)
    left_out, packed = len(report.skipped), sum(clips.values())
    code = allowed.exit_code(left_out, packed)
    if arguments.json:
        print(json.dumps({"clips": clips, "content_id": index.content_id, "words": list(index.words),
                          "leaks": leaks.leaks_in_index(index).counts, "faults": report.skipped,
                          "notes": report.notes}))  # fmt: skip
        return code
    notes = report.notes + contents.split_notes(index) + _clip_notes(index)
    for note in notes + leaks.describe_index(index) + contents.shuffle_lines(index):
        print(f"note: {note}")
    for line in report.skipped:
        print(f"left out: {line}", file=sys.stderr)
    if left_out:
        print(allowed.line(left_out, packed), file=sys.stderr)
    words_text = f"{len(index.words)} words; corpus {index.content_id}"
    print(f"{index.root}: {_counts_text(clips)}; {words_text}; next: kws inspect {index.root}")
    return code


def inspect(arguments: argparse.Namespace) -> int:
    """Shows what a packed corpus holds, the classes of a task, or a picture of one clip."""
    from kws.data import index
    from kws.packing import contents, leaks

    if arguments.clip:
        return _inspect_clip(arguments)
    corpus = index.load(arguments.dir)
    if arguments.task:
        return _inspect_task(arguments, corpus)
    if arguments.conditions:
        return _inspect_conditions(arguments, corpus)
    if arguments.json:
        print(json.dumps(contents.corpus_facts(corpus) | {"leaks": leaks.leaks_in_index(corpus).counts}))
    else:
        console().print(contents.words_table(corpus), contents.splits_table(corpus))
        lines = leaks.describe_index(corpus) + contents.negatives_lines(corpus)
        lines += contents.shuffle_lines(corpus) + contents.length_lines(corpus)
        print("\n".join(lines + [f"note: {note}" for note in contents.split_notes(corpus)]))
    return OK


def _inspect_conditions(arguments: argparse.Namespace, corpus: Index) -> int:
    from kws.packing import condition_leaks, condition_tables, conditions, source_formats

    with progress("measuring clips") as show:
        found = conditions.measure_corpus(corpus, progress=show)
    sources = source_formats.load(corpus)
    leaks = condition_leaks.find_leaks(found, corpus.words, sources)
    if arguments.json:
        print(json.dumps(condition_tables.conditions_facts(found, corpus.words, sources, leaks)))
        return OK
    console().print(condition_tables.conditions_table(found, corpus.words))
    print("\n".join([*condition_tables.source_lines(sources), condition_tables.sample_line(found)]))
    for leak in leaks:
        print(f"warning: {leak}")
    if not leaks:
        print("no word can be recognised by one of these conditions alone")
    return OK


def _inspect_task(arguments: argparse.Namespace, corpus: Index) -> int:
    from kws.corpus import tasks
    from kws.data import clip_lengths, selection
    from kws.packing import contents

    if arguments.task == tasks.WORDS:
        definition = tasks.words_task(corpus.words)
    else:
        definition = tasks.load(arguments.task, _print_status)
    found = selection.apply_task(corpus, definition, clip_lengths.auto_excerpt(corpus).samples)
    if arguments.json:
        print(json.dumps(contents.task_facts(found)))
        return OK
    console().print(contents.task_table(found))
    for line in found.notes():
        print(line)
    return OK


def _inspect_clip(arguments: argparse.Namespace) -> int:
    from kws import settings_file, shipped_files
    from kws.evaluation import clip_picture

    changes, path = arguments.set, arguments.config
    config = (
        settings_file.load(shipped_files.find_config(path), changes) if path else settings_file.from_overrides(changes)
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, shards=str(arguments.dir)))
    out = arguments.out or Path(f"{arguments.clip.replace('/', '_')}.png")
    clip_picture.draw_clip(config, arguments.clip, arguments.draws, out)
    print(
        json.dumps({"picture": str(out)})
        if arguments.json
        else f"{out}: the clip and {arguments.draws} augmented variants"
    )
    return OK


def verify(arguments: argparse.Namespace) -> int:
    """Checks a packed corpus against its index, or a run's ledger against its plan."""
    if (arguments.dir / "config.toml").is_file():
        return _verify_run(arguments.dir, arguments.json)
    from kws.data import index
    from kws.packing import external_index, scan

    corpus = index.load(arguments.dir)
    total = sum(map(len, corpus.groups.values()))
    with progress("verifying") as show:
        clips, faults = scan.verify(corpus, external_index.shards_of(corpus), lambda done: show(done, total))
    for fault in faults:
        print(f"kws: {fault}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"clips": clips} | ({"faults": faults} if faults else {})))
    elif faults:
        print(f"{arguments.dir}: {len(faults)} damaged shards; {clips} of {total} clips are in intact shards")
    else:
        print(f"{arguments.dir}: all {clips} clips match the index")
    return USAGE if faults else OK


def _verify_run(run: Path, as_json: bool) -> int:
    from kws.evaluation import ledger_audit

    verdict = ledger_audit.verify_run(run)
    if as_json:
        print(json.dumps({"live": verdict.consumed, "void": verdict.replayed, "faults": verdict.faults}))
        return FAILED if verdict.faults else OK
    for fault in verdict.faults:
        print(fault, file=sys.stderr)
    outcome = "DOES NOT MATCH the plan" if verdict.faults else "matches the plan"
    print(f"{run}: {verdict.consumed} samples consumed, {verdict.replayed} replayed after resume: {outcome}")
    return FAILED if verdict.faults else OK
