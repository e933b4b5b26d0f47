"""Synthesizes a corpus of spoken words with espeak-ng, in the folder layout of Speech Commands.

    words, languages, seed -> voices -> for each voice, in any process: espeak-ng -> trim -> acoustics -> WORD/*.wav
                                     -> _background_noise_/*.wav, the two lists, synth.json

All words are spoken in all languages. For words of several languages, make several folders and pack them as one corpus.
Such a corpus shows that a pipeline works. Its accuracy is higher than on people, because an espeak variant (vocal
tract) may be in two splits with different accents and rates.
"""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np

from kws import counter_rng
from kws.audio import codec
from kws.corpus import acoustic_conditions
from kws.corpus.espeak import PREFIX, Audio, Espeak, refuse
from kws.corpus.source import NOISE_FOLDER
from kws.corpus.voices import ACCENTS, SPLITS, Voice, plan_voices
from kws.distributed.worker_pool import WorkerLostError, Workers
from kws.errors import UsageError, cannot_write

Progress = Callable[[int, int], None]  # (done, in all)

# Half of them are in pairs that are easily confused, so that a confusion matrix has something to show.
# fmt: off
DEFAULT_WORDS = ("yes", "no", "go", "up", "off", "on", "stop", "left", "right", "down",
                 "three", "tree", "four", "forward", "bed", "bird")
# fmt: on
MAX_RATE = 450  # words per minute: espeak's limit
NOISE_SECONDS, NOISE_RMS, TALKERS = 20, 0.06, 8  # NOISE_RMS relative to full scale; TALKERS in the babble
_CLIP, _NOISE, _ACOUSTICS = range(1, 4)  # first key of every generator: no two purposes share random numbers


@dataclass(frozen=True)
class SynthSettings:
    """What to synthesize. Each voice speaks all words `takes` times, in one language. Raises UsageError for impossible
    values."""

    words: tuple[str, ...] = DEFAULT_WORDS
    languages: tuple[str, ...] = ACCENTS
    """Names of espeak-ng's languages and accents."""
    voices: int = 96
    takes: int = 2
    seed: int = 0
    noise_db: tuple[float, float] | None = None
    """Range of the signal-to-noise ratio of the background noise, in dB; None: only a faint noise floor."""
    rooms: float = 0.0
    """Share of the clips that are convolved with a synthetic room, 0 to 1."""

    def __post_init__(self) -> None:
        wrong = [word for word in self.words if not _is_word(word)]
        if wrong:
            wanted = "letters, digits, spaces, - and ', beginning with a letter or digit"
            refuse("words", wrong, wanted, "type each word, or the path of a file with one word a line")
        if not self.words or len({_spelling(word.casefold()) for word in self.words}) < len(self.words):
            refuse("words", list(self.words), "at least one word and none twice", "type each word once")
        if not self.languages or len(set(self.languages)) < len(self.languages):
            refuse("languages", list(self.languages), "at least one and none twice", "such as de,fr,en-US")
        if self.takes < 1 or self.seed < 0:
            found, wanted = f"{self.takes}, {self.seed}", "takes of 1 or more, a seed of 0 or more"
            refuse("takes, seed", found, wanted, "type other numbers")
        if self.noise_db and not -60 <= self.noise_db[0] <= self.noise_db[1] <= 100:
            refuse("noise", self.noise_db, "decibels from -60 to 100, the lower first", "such as 5:20")
        if not 0 <= self.rooms <= 1:
            refuse("rooms", self.rooms, "a share from 0 to 1", "such as 0.5")


@dataclass(frozen=True)
class SynthSummary:
    """What was written. seconds: total length of the word clips, without noise. split_clips, split_voices: counts for
    each of SPLITS."""

    clips: int
    words: int
    voices: int
    seconds: float
    split_clips: dict[str, int]
    split_voices: dict[str, int]


def synthesize(
    out: Path,
    speech: SynthSettings,
    progress: Progress = lambda done, total: None,
    processes: int = 1,
) -> SynthSummary:
    """Writes `words * voices * takes` clips, both lists, `_background_noise_/` and `synth.json` to `out`.

    The folder is made beside `out` and renamed when it is complete (a whole folder, so kws.files does not apply).
    `progress` is called with (clips done, clips in all). The same arguments and the same espeak-ng give the same bytes,
    on any number of processes. Raises UsageError where `out` is in use or cannot be written, espeak-ng is missing, a
    worker was killed, or a word cannot be spoken.
    """
    out = Path(out).resolve()
    if processes < 1:
        refuse("processes", processes, "1 or more", "or leave it out")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        refuse(str(out), "something in it", "a new or empty folder", "type another folder or remove this one")
    voices = plan_voices(speech.voices, speech.seed, speech.languages)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".synth-", dir=out.parent) as temp,
            # Not below `out`, which may be on a file system without execution. A killed worker leaves files in it.
            tempfile.TemporaryDirectory(prefix=PREFIX) as scratch,
        ):
            folder = Path(temp, "corpus")
            jobs = [_VoiceJob(folder, Path(scratch), speech, number, voice) for number, voice in enumerate(voices)]
            samples = _write_clips(jobs, processes, progress)
            _write_lists(folder, speech, voices)
            with closing(Espeak()) as engine:
                _write_noises(folder / NOISE_FOLDER, engine, speech, voices)
                _write_metadata(folder / "synth.json", engine.version, speech, voices)
            folder.rename(out)
    except WorkerLostError as error:
        raise UsageError(
            f"{out}: {error}; run the same command again, with fewer --processes if memory is short"
        ) from error
    except OSError as error:
        raise UsageError(cannot_write(error.filename or out, error, "type another folder")) from error
    count = {split: sum(voice.split == split for voice in voices) for split in SPLITS}
    clips = {split: len(speech.words) * speech.takes * number for split, number in count.items()}
    seconds = samples / codec.SAMPLE_RATE_HZ
    return SynthSummary(sum(clips.values()), len(speech.words), speech.voices, seconds, clips, count)


# --- the words -----------------------------------------------------------------------------------------------------


def _is_word(text: str) -> bool:
    """Whether the text has only letters of any script, digits, and between them spaces, - and ': safe as a folder
    name."""
    kinds = [unicodedata.category(character)[0] for character in text]
    fits = all(kind in "LMN" or character in " -'" for kind, character in zip(kinds, text, strict=True))
    return bool(text) and fits and kinds[0] in "LN" and text[-1] not in " -'" and len(text.encode()) <= 200


def _spelling(word: str) -> str:
    """The word as a folder name, in Unicode normal form C."""
    return unicodedata.normalize("NFC", word).replace(" ", "_")


def _path(word: str, voice: Voice, take: int) -> str:
    """WORD/SPEAKER_nohash_TAKE.wav."""
    return f"{_spelling(word)}/{voice.speaker}_nohash_{take}.wav"


# --- the clips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _VoiceJob:
    """All clips of one voice. Not divided further, because espeak has a state, which is reset for each voice."""

    folder: Path
    scratch: Path
    speech: SynthSettings
    number: int
    voice: Voice


def _write_clips(jobs: Sequence[_VoiceJob], processes: int, progress: Progress) -> int:
    """Writes the clips of all voices. Returns the number of samples."""
    first, samples = jobs[0], 0
    for word in first.speech.words:
        (first.folder / _path(word, first.voice, 0)).parent.mkdir(parents=True)
    each = len(first.speech.words) * first.speech.takes
    with Workers(min(processes, len(jobs))) as workers:
        for done, count in enumerate(workers.map(_write_voice, jobs), start=1):
            samples += count
            progress(done * each, len(jobs) * each)
    return samples


def _write_voice(job: _VoiceJob) -> int:
    """Writes the clips of one voice. Returns the number of samples."""
    speech, samples = job.speech, 0
    with closing(Espeak(job.scratch)) as engine:
        for (number, word), take in product(enumerate(speech.words), range(speech.takes)):
            key = (speech.seed, job.number, number, take)
            rng = np.random.default_rng([_CLIP, *key])
            clip = acoustic_conditions.place_in_clip(_speak_word(engine, word, job.voice, rng), rng)
            clip = _add_acoustics(clip, speech, np.random.default_rng([_ACOUSTICS, *key]))
            _write_wav(job.folder / _path(word, job.voice, take), clip)
            samples += clip.size
    return samples


def _add_acoustics(clip: Audio, speech: SynthSettings, rng: np.random.Generator) -> Audio:
    if rng.random() < speech.rooms:
        clip = acoustic_conditions.add_reverberation(clip, rng)
    return acoustic_conditions.add_noise(clip, speech.noise_db, rng) if speech.noise_db else clip


def _speak_word(engine: Espeak, word: str, voice: Voice, rng: np.random.Generator) -> Audio:
    """One take: samples (N,), at most one second. A longer word is spoken again, faster."""
    rate, pitch = voice.rate * rng.uniform(0.95, 1.05), voice.pitch + int(rng.integers(-4, 5))
    noise_seed = int(rng.integers(1, 2**31))
    for _ in range(6):
        audio = _trim(engine.speak(word, voice.name, round(rate), pitch, noise_seed))
        if not audio.size:
            found = f"silence from espeak's {voice.accent}"
            refuse(f"word {word!r}", found, "a word that it can speak", "type another word or language")
        if audio.size <= acoustic_conditions.MAX_SAMPLES:
            return audio
        rate = min(MAX_RATE, rate * 1.1 * audio.size / acoustic_conditions.MAX_SAMPLES)
    found = f"{audio.size / codec.SAMPLE_RATE_HZ:.2f} s of {voice.accent} at the highest rate"
    return refuse(f"word {word!r}", found, "at most 1 s", "type a shorter word, or one of that language")


def _trim(audio: Audio) -> Audio:
    """Removes both ends that are more than 50 dB below the peak, except 10 ms for soft beginnings and ends: (N,) ->
    (M,)."""
    loud = np.flatnonzero(np.abs(audio) > max(1e-4, 0.003 * float(np.abs(audio).max(initial=0))))
    return audio[max(0, loud[0] - 160) : loud[-1] + 161] if loud.size else audio[:0]


def _write_wav(path: Path, audio: Audio) -> None:
    path.write_bytes(codec.wav_bytes(np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16)))


# --- lists, noise, metadata
# -----------------------------------------------------------------------------------------------------


def _write_lists(folder: Path, speech: SynthSettings, voices: Sequence[Voice]) -> None:
    for split in SPLITS[1:]:
        held_out = [voice for voice in voices if voice.split == split]
        paths = sorted(_path(*clip) for clip in product(speech.words, held_out, range(speech.takes)))
        (folder / f"{split}_list.txt").write_text("".join(f"{path}\n" for path in paths), "utf-8")


def _write_noises(folder: Path, engine: Espeak, speech: SynthSettings, voices: Sequence[Voice]) -> None:
    rng, size = np.random.default_rng([_NOISE, speech.seed]), NOISE_SECONDS * codec.SAMPLE_RATE_HZ
    folder.mkdir()
    noises = {
        name: acoustic_conditions.coloured_noise(rng, slope, size)
        for name, slope in (("white_noise", 0), ("pink_noise", 1))
    }
    noises["rumble"] = acoustic_conditions.coloured_noise(rng, 2, size)
    noises["mains_hum"] = acoustic_conditions.coloured_noise(
        rng, 2, size, comb=50 * NOISE_SECONDS
    )  # 50 Hz and its harmonics
    noises["babble"] = _babble(engine, voices, rng)
    # In the names, so that several folders can be packed together.
    suffix = counter_rng.digest(speech.seed, *speech.languages)
    for name, noise in noises.items():
        _write_wav(
            folder / f"{name}_{suffix:016x}.wav", noise * min(NOISE_RMS / noise.std(), 0.9 / np.abs(noise).max())
        )


def _babble(engine: Espeak, voices: Sequence[Voice], rng: np.random.Generator) -> Audio:
    """Many training voices at once (N,), speaking invented words, so that no keyword is among them."""
    size, syllables = NOISE_SECONDS * codec.SAMPLE_RATE_HZ, [a + b for a, b in product("bdfgklmnprst", "aeiou")]
    total = np.zeros(size, np.float32)
    for voice in rng.choice(np.array([voice for voice in voices if voice.split == "train"], object), TALKERS):
        text = " ".join("".join(rng.choice(syllables, 4)) for _ in range(40))
        speech = engine.speak(text, voice.name, voice.rate, voice.pitch, int(rng.integers(1, 2**31)))
        total += np.roll(np.resize(speech / speech.std(), size), int(rng.integers(size)))
    return total


def _write_metadata(path: Path, version: str, speech: SynthSettings, voices: Sequence[Voice]) -> None:
    asked = {field.name: getattr(speech, field.name) for field in fields(speech)}
    about = {"made_by": f"espeak-ng {version}"} | asked | {"voices": [asdict(voice) for voice in voices]}
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
