"""A made corpus has the official layout, one split for each voice, whole words, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

if "espeak" not in os.environ.get("KWS_REQUIRE", "").split(","):
    pytest.importorskip("espeakng_loader", reason="espeakng_loader (espeak-ng) is not installed")

from kws import cli
from kws.audio import codec
from kws.corpus import acoustic_conditions, espeak, synth
from kws.corpus.espeak import Espeak
from kws.corpus.voices import ACCENTS, SPLITS, VARIANTS, plan_voices
from kws.errors import UsageError
from kws.packing import pack

Kws = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = ("yes", "stop", "turn left")
VOICES, TAKES = 6, 2
SPEECH = synth.SynthSettings(words=WORDS, voices=VOICES, takes=TAKES)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, synth.SynthSummary]:
    out = tmp_path_factory.mktemp("made") / "corpus"
    return out, synth.synthesize(out, SPEECH)


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
    """On any number of processes."""
    with closing(Espeak()) as other:  # use of espeak in between must leave no trace
        other.speak("something else", plan_voices(3, 5)[0].name, 170, 40, 9)
    again = synth.synthesize(tmp_path / "again", SPEECH, processes=3)
    assert again == corpus[1]
    assert _bytes(tmp_path / "again") == _bytes(corpus[0])


@pytest.mark.slow
def test_seed_changes_voices_and_clips(corpus: tuple[Path, synth.SynthSummary], tmp_path: Path) -> None:
    synth.synthesize(tmp_path / "other", dataclasses.replace(SPEECH, words=WORDS[:1], seed=1))
    old, new = (
        {path.read_bytes() for path in _clips(corpus[0])},
        {path.read_bytes() for path in _clips(tmp_path / "other")},
    )
    assert not old & new
    assert not {voice.speaker for voice in plan_voices(9, 0)} & {voice.speaker for voice in plan_voices(9, 1)}


def test_takes_of_a_voice_differ() -> None:
    """Not only in place, gain and noise: the spoken word itself."""
    voice = plan_voices(3, 0)[0]
    with closing(Espeak()) as engine:
        takes = [synth._speak_word(engine, "seven", voice, np.random.default_rng(take)) for take in range(4)]
    assert len({take.tobytes() for take in takes}) == 4


def test_planned_voices_are_distinct_and_fairly_split() -> None:
    voices = plan_voices(700, 3)  # more than there are pairs of accent and variant
    assert len({voice.speaker for voice in voices}) == 700
    assert len({(voice.accent, voice.variant, voice.rate, voice.pitch) for voice in voices}) == 700
    share = {split: sum(voice.split == split for voice in voices) / 700 for split in SPLITS}
    assert share["validation"] == pytest.approx(0.1, abs=0.01)
    assert 0.1 <= share["testing"] <= 0.15
    first = [voice.split for voice in voices]
    assert first != [voice.split for voice in plan_voices(700, 4)]


@pytest.mark.slow
def test_every_variant_and_accent_sounds_different() -> None:
    """espeak says nothing about a variant that it does not know: it speaks its plain voice."""

    def said(accent: str, variant: str) -> bytes:
        with closing(Espeak()) as engine:  # a fresh copy, so that only the voice can make a difference
            return engine.speak("zero", f"{accent}+{variant}", 160, 50, 1).tobytes()

    variants = {said("en-US", variant) for variant in (*VARIANTS, "no-such-variant")}
    assert len(variants) == len(VARIANTS) + 1
    assert len({said(accent, "m3") for accent in ACCENTS}) == len(ACCENTS)


def test_a_long_word_is_spoken_faster_and_a_longer_one_refused() -> None:
    voice = plan_voices(3, 0)[0]
    with closing(Espeak()) as engine:
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
            engine.speak("yes", "no-such-accent+m1", 160, 50, 1)


def test_progress_counts_every_clip(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    speech = synth.SynthSettings(words=("yes", "no"), voices=3, takes=1)
    synth.synthesize(tmp_path / "few", speech, lambda done, total: calls.append((done, total)))
    assert calls == [(2, 6), (4, 6), (6, 6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ()}, "at least one word"),
        ({"words": ("yes", "")}, "letters, digits"),
        ({"words": ("../yes",)}, "letters, digits"),
        ({"words": ("_background_noise_",)}, "letters, digits"),
        ({"words": ("yes", "Yes")}, "none twice"),
        ({"voices": 2}, "one for each split"),
        ({"voices": 10**6}, "voices: found 1000000"),
        ({"takes": 0}, "takes"),
        ({"seed": -1}, "seed"),
        ({"words": ("a" * 300,)}, "letters, digits"),
        ({"words": ("\u00e9t\u00e9", "e\u0301te\u0301")}, "none twice"),  # one word, spelt in two ways
        ({"languages": ()}, "at least one"),
        ({"languages": ("de", "de")}, "none twice"),
        ({"languages": ("klingon",)}, "languages: found 'klingon'"),
        ({"languages": ("en-us",)}, "such as .*en-US"),
        ({"noise_db": (20.0, 5.0)}, "the lower first"),
        ({"noise_db": (float("nan"), 5.0)}, "decibels"),
        ({"rooms": 1.5}, "a share"),
        ({"words": ("\u3042",), "languages": ("xex",)}, "silence|at most 1 s"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synth.synthesize(tmp_path / "none", synth.SynthSettings(**arguments))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_folder_with_contents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    for place in (tmp_path, tmp_path / "mine.txt", tmp_path / "mine.txt" / "below"):
        with pytest.raises(UsageError, match="another folder"):
            synth.synthesize(place, SPEECH)
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "kept"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth.synthesize(tmp_path / "half", synth.SynthSettings(words=("yes",), voices=3, takes=1), stop)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_broken_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, broken = espeak.find_espeak()[1], tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for library in (broken, tmp_path / "missing.so"):
        monkeypatch.setattr(espeak, "find_espeak", lambda library=library: (library, data))
        with pytest.raises(UsageError, match=f"{library.name}.*pip install"):
            synth.synthesize(tmp_path / "out", SPEECH)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match="pip install"):
        synth.synthesize(tmp_path / "out", SPEECH)


# --- other languages ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_words_of_any_script_in_several_languages(tmp_path: Path, kws: Kws) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("\ufeffKäse\r\nда\n\nguten Tag\n", encoding="utf-8")
    out = tmp_path / "spoken"
    done = kws("synth", out, "--words", listed, "--languages", "ru,de", "--voices", 4, "--takes", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 12
    assert {path.name for path in out.glob("[!_]*/")} == {"Käse", "да", "guten_Tag"}
    facts = json.loads((out / "synth.json").read_text(encoding="utf-8"))
    assert {voice["accent"] for voice in facts["voices"]} == {"de", "ru"}
    assert facts["words"][1] == "да"


def test_a_language_has_its_own_pronunciation() -> None:
    """Not spelled out, and not as English says it."""
    with closing(Espeak()) as engine:
        said = {name: engine.speak("привет", f"{name}+m1", 160, 50, 1) for name in ("ru", "en")}
        assert said["ru"].size < 16_000 < said["en"].size  # which names the letters
        assert (
            engine.speak("Käse", "de+m1", 160, 50, 1).tobytes() != engine.speak("Käse", "en+m1", 160, 50, 1).tobytes()
        )


@pytest.mark.slow
def test_folders_in_several_languages_are_packed_as_one(tmp_path: Path) -> None:
    folders = [tmp_path / language for language in ("de", "ru")]
    for folder, word in zip(folders, ("ja", "да"), strict=True):
        synth.synthesize(folder, synth.SynthSettings(words=(word,), languages=(folder.name,), voices=3, takes=1))
    corpus, report = pack.pack(folders, tmp_path / "packed")
    assert corpus.words == ("ja", "да")
    assert {split: len(clips) for split, clips in corpus.splits.items()} == {
        "train": 2,
        "valid": 2,
        "test": 2,
        "noise": 10,
    }
    assert report.skipped == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--noise", "loud"), "--noise loud: "),
        (("--noise", "5"), "--noise 5: "),
        (("--processes", "0"), "--processes 0: "),
        (("--words", "none.txt"), "--words none.txt: no such file"),
        (("--languages", "de,,fr"), "languages: found ''"),
    ],
)
def test_a_wrong_command_is_refused_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], message: str
) -> None:
    assert cli.main(["synth", str(tmp_path / "out"), *arguments]) == cli.USAGE
    said = capsys.readouterr().err
    assert said.startswith("kws: ")
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- rooms and noise --------------------------------------------------------------------------------------------------


def _audio(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return codec.decode(path.read_bytes()) / 32768.0


def test_noise_has_the_requested_ratio_and_differs_in_each_clip(
    corpus: tuple[Path, synth.SynthSummary], tmp_path: Path
) -> None:
    synth.synthesize(tmp_path / "noisy", dataclasses.replace(SPEECH, noise_db=(12.0, 12.0)))
    noises = []
    for plain in _clips(corpus[0]):
        clip, noisy = _audio(plain), _audio(tmp_path / "noisy" / plain.relative_to(corpus[0]))
        assert noisy.size == clip.size
        noise = noisy - clip
        assert 20 * np.log10(clip.std() / noise.std()) == pytest.approx(12.0, abs=0.1)
        noises.append(noise[:9_600])
    likeness = np.corrcoef(noises) - np.eye(len(noises))
    assert np.abs(likeness).max() < 0.9  # brown noise wanders slowly, so short stretches are alike by chance


@pytest.mark.slow
def test_rooms_are_added_to_their_share_of_the_clips(corpus: tuple[Path, synth.SynthSummary], tmp_path: Path) -> None:
    synth.synthesize(tmp_path / "half", dataclasses.replace(SPEECH, rooms=0.5))
    pairs = [(plain, tmp_path / "half" / plain.relative_to(corpus[0])) for plain in _clips(corpus[0])]
    changed = [(_audio(plain), _audio(heard)) for plain, heard in pairs if plain.read_bytes() != heard.read_bytes()]
    assert 0.25 < len(changed) / len(pairs) < 0.75
    assert all(heard.size == clip.size for clip, heard in changed)
    assert all(heard.std() == pytest.approx(clip.std(), rel=0.02) for clip, heard in changed)


def test_a_room_adds_sound_only_after_the_direct_sound() -> None:
    click = np.zeros(16_000, np.float32)
    click[4_000] = 0.5
    heard = acoustic_conditions.add_reverberation(click, np.random.default_rng(0))
    assert np.abs(heard[:4_000]).max() < 1e-6
    assert np.abs(heard[4_000:]).argmax() == 0
    assert np.square(heard[4_001:]).sum() > 0.02 * np.square(heard).sum()


def test_loud_noise_does_not_clip() -> None:
    clip = acoustic_conditions.place_in_clip(np.ones(9_000, np.float32), np.random.default_rng(0))
    noisy = acoustic_conditions.add_noise(clip, (-20.0, -20.0), np.random.default_rng(0))
    assert np.abs(noisy).max() == pytest.approx(0.95)


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rooms_and_noise_are_the_same_on_any_number_of_processes(tmp_path: Path) -> None:
    speech = dataclasses.replace(SPEECH, words=("yes",), voices=3, noise_db=(5.0, 20.0), rooms=0.5)
    for processes in (1, 2):
        synth.synthesize(tmp_path / str(processes), speech, processes=processes)
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_neither_files_nor_processes(tmp_path: Path, number: signal.Signals) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    command = [sys.executable, "-m", "kws", "synth", str(tmp_path / "out"), "--voices", "2000", "--processes", "2"]
    environment = os.environ | {"TMPDIR": str(temp)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True) as kws:
        while kws.poll() is None and not list(tmp_path.glob(".synth-*/corpus/yes/*.wav")):
            time.sleep(0.01)
        workers = psutil.Process(kws.pid).children(recursive=True)
        assert len(workers) >= 2
        os.killpg(kws.pid, number)  # as the terminal does
        said = kws.communicate(timeout=30)[1]
    assert kws.returncode == (130 if number == signal.SIGINT else 75)
    assert "Traceback" not in said
    assert [path for path in tmp_path.iterdir() if path != temp] == []
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert list(temp.glob("kws-*")) == []
