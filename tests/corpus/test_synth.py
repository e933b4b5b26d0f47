"""A made corpus has the official layout, one split for each voice, whole words, and the same bytes every time."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

if "espeak" not in os.environ.get("KWS_REQUIRE", "").split(","):
    pytest.importorskip("espeakng_loader", reason="espeakng_loader (espeak-ng) is not installed")

from kws.corpus import synth
from kws.errors import UsageError

WORDS = ("yes", "stop", "turn left")
VOICES, TAKES = 6, 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, synth.SynthSummary]:
    out = tmp_path_factory.mktemp("made") / "corpus"
    return out, synth.synthesize(out, WORDS, VOICES, TAKES)


def _clips(out: Path) -> list[Path]:
    return sorted(out.glob("[!_]*/*.wav"))


def _bytes(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def _lines(out: Path, split: str) -> list[str]:
    return (out / f"{split}_list.txt").read_text(encoding="utf-8").splitlines()


def test_layout_is_official(corpus: tuple[Path, synth.SynthSummary]) -> None:
    out, summary = corpus
    expected = {
        "yes",
        "stop",
        "turn_left",
        "_background_noise_",
        "synth.json",
        "validation_list.txt",
        "testing_list.txt",
    }
    assert {path.name for path in out.iterdir()} == expected
    assert list(out.parent.iterdir()) == [out]  # no temporary folder is left
    names = defaultdict(set)
    for path in _clips(out):
        speaker, take = path.stem.split("_nohash_")
        assert len(speaker) == 8
        assert int(speaker, 16) >= 0
        names[path.parent.name].add((speaker, take))
    assert all(len(found) == VOICES * TAKES for found in names.values())
    assert len({frozenset(found) for found in names.values()}) == 1  # every voice says every word
    assert summary.clips == len(_clips(out)) == sum(summary.split_clips.values())
    assert (summary.words, summary.voices, sum(summary.split_voices.values())) == (3, VOICES, VOICES)


def test_each_voice_is_in_one_split(corpus: tuple[Path, synth.SynthSummary]) -> None:
    out, summary = corpus
    speakers = {}
    for split in ("validation", "testing"):
        lines = _lines(out, split)
        assert len(lines) == len(set(lines)) == summary.split_clips[split] > 0
        assert all((out / line).is_file() for line in lines)
        speakers[split] = {Path(line).name.split("_")[0] for line in lines}
        assert len(lines) == len(speakers[split]) * len(WORDS) * TAKES  # all clips of these voices
    assert not speakers["validation"] & speakers["testing"]
    assert summary.split_clips["train"] > summary.split_clips["testing"]


def test_clips_are_16k_mono_pcm16_of_fitting_length(corpus: tuple[Path, synth.SynthSummary]) -> None:
    out, summary = corpus
    sizes = []
    for path in _clips(out):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "WAV")
        assert 9_600 <= info.frames <= 16_000
        sizes.append(info.frames)
        audio = soundfile.read(path, dtype="float64")[0]
        assert 0.05 < np.abs(audio).max() < 0.8  # audible, not clipped
        assert np.count_nonzero(audio) > 0.8 * audio.size  # no digital silence round the word
    assert len(set(sizes)) > 10
    assert summary.seconds == pytest.approx(sum(sizes) / 16_000)


def test_background_noises_are_long_and_different(corpus: tuple[Path, synth.SynthSummary]) -> None:
    noises = sorted((corpus[0] / "_background_noise_").iterdir())
    assert len({path.read_bytes() for path in noises}) == len(noises) >= 4
    for path in noises:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 1, "PCM_16", 320_000)
        assert 0.02 < soundfile.read(path)[0].std() < 0.2


def test_same_arguments_give_the_same_bytes(corpus: tuple[Path, synth.SynthSummary], tmp_path: Path) -> None:
    with closing(synth.Espeak()) as other:  # use of espeak in between must leave no trace
        other.say("something else", synth.plan_voices(3, 5)[0], 170, 40, 9)
    again = synth.synthesize(tmp_path / "again", WORDS, VOICES, TAKES)
    assert again == corpus[1]
    assert _bytes(tmp_path / "again") == _bytes(corpus[0])


def test_seed_changes_voices_and_clips(corpus: tuple[Path, synth.SynthSummary], tmp_path: Path) -> None:
    synth.synthesize(tmp_path / "other", WORDS[:1], VOICES, TAKES, seed=1)
    old, new = (
        {path.read_bytes() for path in _clips(corpus[0])},
        {path.read_bytes() for path in _clips(tmp_path / "other")},
    )
    assert not old & new
    assert not {voice.speaker for voice in synth.plan_voices(9, 0)} & {
        voice.speaker for voice in synth.plan_voices(9, 1)
    }


def test_takes_of_a_voice_differ() -> None:
    """Not only in place, gain and noise: the spoken word itself."""
    voice = synth.plan_voices(3, 0)[0]
    with closing(synth.Espeak()) as engine:
        takes = [synth._speak_word(engine, "seven", voice, np.random.default_rng(take)) for take in range(4)]
    assert len({take.tobytes() for take in takes}) == 4


def test_planned_voices_are_distinct_and_fairly_split() -> None:
    voices = synth.plan_voices(700, 3)  # more than there are pairs of accent and variant
    assert len({voice.speaker for voice in voices}) == 700
    assert len({(voice.accent, voice.variant, voice.rate, voice.pitch) for voice in voices}) == 700
    share = {split: sum(voice.split == split for voice in voices) / 700 for split in synth.SPLITS}
    assert share["validation"] == pytest.approx(0.1, abs=0.01)
    assert 0.1 <= share["testing"] <= 0.15
    first = [voice.split for voice in voices]
    assert first != [voice.split for voice in synth.plan_voices(700, 4)]


def test_every_variant_and_accent_sounds_different() -> None:
    """espeak says nothing about a variant that it does not know: it speaks its plain voice."""

    def said(accent: str, variant: str) -> bytes:
        with closing(synth.Espeak()) as engine:  # a fresh copy, so that only the voice can make a difference
            return engine.say("zero", synth.Voice("", accent, variant, 0, 0, ""), 160, 50, 1).tobytes()

    variants = {said("en-US", variant) for variant in (*synth.VARIANTS, "no-such-variant")}
    assert len(variants) == len(synth.VARIANTS) + 1
    assert len({said(accent, "m3") for accent in synth.ACCENTS}) == len(synth.ACCENTS)


def test_a_long_word_is_said_faster_and_a_longer_one_refused() -> None:
    voice = synth.plan_voices(3, 0)[0]
    with closing(synth.Espeak()) as engine:
        audio = synth._speak_word(engine, "internationally", voice, np.random.default_rng(0))
        assert 9_600 < audio.size <= 16_000
        with pytest.raises(UsageError, match="shorter word"):
            synth._speak_word(
                engine,
                "the longest of all the names that anybody ever gave to a very small village by the sea",
                voice,
                np.random.default_rng(0),
            )
        with pytest.raises(RuntimeError, match="espeak_SetVoiceByName"):
            engine.say("yes", synth.Voice("", "no-such-accent", "m1", 0, 0, ""), 160, 50, 1)


def test_progress_counts_every_clip(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    synth.synthesize(tmp_path / "few", ("yes",), 3, 1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ()}, "at least one word"),
        ({"words": ("yes", "")}, "letters, digits"),
        ({"words": ("../yes",)}, "letters, digits"),
        ({"words": ("_background_noise_",)}, "letters, digits"),
        ({"words": ("yes", "Yes")}, "none twice"),
        ({"num_voices": 2}, "one for each split"),
        ({"num_voices": 10**6}, "voices: found 1000000"),
        ({"takes": 0}, "takes"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synth.synthesize(tmp_path / "none", **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    for place in (tmp_path, tmp_path / "mine.txt", tmp_path / "mine.txt" / "below"):
        with pytest.raises(UsageError, match="type another folder"):
            synth.synthesize(place)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "kept"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth.synthesize(tmp_path / "half", ("yes",), 3, progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_broken_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, broken = synth._find_espeak()[1], tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for library in (broken, tmp_path / "missing.so"):
        monkeypatch.setattr(synth, "_find_espeak", lambda library=library: (library, data))
        with pytest.raises(UsageError, match=f"{library.name}.*pip install"):
            synth.synthesize(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match="pip install"):
        synth.synthesize(tmp_path / "out")
