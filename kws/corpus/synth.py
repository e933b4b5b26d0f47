"""Words and a seed flow in, a Speech Commands folder of espeak-ng clips flows out.

    words, languages, seed -> voices -> a job a voice, in any process: espeak-ng -> trim -> scene -> WORD/*.wav
                                     -> _background_noise_/*.wav, the lists, synth.json

All words are spoken in all languages: for words of several languages make several folders, and pack them as one. The
clips show that a pipeline works, but an espeak variant (vocal tract) may be in two splits with another accent and rate:
scores are kinder than on people.
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
from kws.corpus import scenes
from kws.corpus.espeak import PREFIX, Audio, Espeak, refuse
from kws.corpus.source import NOISE_FOLDER
from kws.corpus.voices import ACCENTS, SPLITS, Voice, plan_voices
from kws.distributed.worker_pool import WorkerLostError, Workers
from kws.errors import UsageError

Progress = Callable[[int, int], None]  # (done, in all)

# Half of them in pairs that are easily taken for one another, so that a confusion matrix has something to show.
# fmt: off
DEFAULT_WORDS = ("yes", "no", "go", "up", "off", "on", "stop", "left", "right", "down",
                 "three", "tree", "four", "forward", "bed", "bird")
# fmt: on
FASTEST = 450  # words a minute: espeak's limit
NOISE_SECONDS, NOISE_RMS, TALKERS = 20, 0.06, 8  # NOISE_RMS of full scale; TALKERS in the babble
_CLIP, _NOISE, _SCENE = range(1, 4)  # first key of every generator: no two purposes share random numbers


@dataclass(frozen=True)
class Speech:
    """What is to be made. Each voice says all words `takes` times, in its one language."""

    words: tuple[str, ...] = DEFAULT_WORDS
    languages: tuple[str, ...] = ACCENTS
    """espeak-ng's languages and accents."""
    voices: int = 96
    takes: int = 2
    seed: int = 0
    noise_db: tuple[float, float] | None = None
    """Every clip has background noise at a ratio of clip to noise in this range; None: but for a faint floor none."""
    rooms: float = 0.0
    """The share of clips that are heard in a synthetic room."""

    def __post_init__(self) -> None:
        """Raises UsageError for what cannot be made."""
        wrong = [word for word in self.words if not _is_word(word)]
        if wrong:
            wanted = "letters, digits, spaces, - and ', first a letter or digit"
            refuse("words", wrong, wanted, "type them as spelt, or the path of a file with a word a line")
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
    """What was written: `seconds` of word clips (no background); clips and voices counted for each of SPLITS."""

    clips: int
    words: int
    voices: int
    seconds: float
    split_clips: dict[str, int]
    split_voices: dict[str, int]


def synthesize(
    out: Path,
    speech: Speech,
    progress: Progress = lambda done, total: None,
    processes: int = 1,
) -> SynthSummary:
    """Write `words * voices * takes` clips, both lists, `_background_noise_/` and `synth.json` to `out`.

    The folder is made beside `out` and renamed when whole, so what stands at `out` is never half made. `progress` is
    called with (clips done, clips in all). Same arguments and same espeak-ng, same bytes, on any number of processes.
    Raises UsageError for what the caller can mend: `out` in use or not writable, no espeak-ng, unspeakable words.
    """
    out = Path(out).resolve()
    if processes < 1:
        refuse("processes", processes, "1 or more", "or leave it out")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        refuse(str(out), "something there already", "a new or empty folder", "type another folder or remove this one")
    voices = plan_voices(speech.voices, speech.seed, speech.languages)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".synth-", dir=out.parent) as temp,
            # Not below `out`: that may be where nothing can be executed. A worker that is killed leaves things there.
            tempfile.TemporaryDirectory(prefix=PREFIX) as scratch,
        ):
            folder = Path(temp, "corpus")
            jobs = [_Job(folder, Path(scratch), speech, number, voice) for number, voice in enumerate(voices)]
            samples = _write_clips(jobs, processes, progress)
            _write_lists(folder, speech, voices)
            with closing(Espeak()) as engine:
                _write_noises(folder / NOISE_FOLDER, engine, speech, voices)
                _write_facts(folder / "synth.json", engine.version, speech, voices)
            folder.rename(out)
    except WorkerLostError as error:
        raise UsageError(f"{out}: {error}; run the same again, with fewer --processes where memory is short") from error
    except OSError as error:
        refuse(str(out), error, "a folder that can be written", "type another folder")
    count = {split: sum(voice.split == split for voice in voices) for split in SPLITS}
    clips = {split: len(speech.words) * speech.takes * number for split, number in count.items()}
    seconds = samples / codec.SAMPLE_RATE_HZ
    return SynthSummary(sum(clips.values()), len(speech.words), speech.voices, seconds, clips, count)


# --- the words -----------------------------------------------------------------------------------------------------


def _is_word(text: str) -> bool:
    """Letters of any script with their marks, digits, and inside also spaces, - and '; safe as a folder's name."""
    kinds = [unicodedata.category(character)[0] for character in text]
    fits = all(kind in "LMN" or character in " -'" for kind, character in zip(kinds, text, strict=True))
    return bool(text) and fits and kinds[0] in "LN" and text[-1] not in " -'" and len(text.encode()) <= 200


def _spelling(word: str) -> str:
    """As a folder has it: of the ways to write a letter with its mark always the same."""
    return unicodedata.normalize("NFC", word).replace(" ", "_")


def _path(word: str, voice: Voice, take: int) -> str:
    """WORD/SPEAKER_nohash_TAKE.wav."""
    return f"{_spelling(word)}/{voice.speaker}_nohash_{take}.wav"


# --- the clips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """All clips of one voice. The unit of the work: espeak has a state, which begins anew with each voice."""

    folder: Path
    scratch: Path
    speech: Speech
    number: int
    voice: Voice


def _write_clips(jobs: Sequence[_Job], processes: int, progress: Progress) -> int:
    """Returns the number of samples."""
    first, samples = jobs[0], 0
    for word in first.speech.words:
        (first.folder / _path(word, first.voice, 0)).parent.mkdir(parents=True)
    each = len(first.speech.words) * first.speech.takes
    with Workers(min(processes, len(jobs))) as workers:
        for done, count in enumerate(workers.map(_write_voice, jobs), start=1):
            samples += count
            progress(done * each, len(jobs) * each)
    return samples


def _write_voice(job: _Job) -> int:
    """Returns the number of samples."""
    speech, samples = job.speech, 0
    with closing(Espeak(job.scratch)) as engine:
        for (number, word), take in product(enumerate(speech.words), range(speech.takes)):
            key = (speech.seed, job.number, number, take)
            rng = np.random.default_rng([_CLIP, *key])
            clip = scenes.place(_speak_word(engine, word, job.voice, rng), rng)
            clip = _heard(clip, speech, np.random.default_rng([_SCENE, *key]))
            _write_wav(job.folder / _path(word, job.voice, take), clip)
            samples += clip.size
    return samples


def _heard(clip: Audio, speech: Speech, rng: np.random.Generator) -> Audio:
    if rng.random() < speech.rooms:
        clip = scenes.in_room(clip, rng)
    return scenes.with_noise(clip, speech.noise_db, rng) if speech.noise_db else clip


def _speak_word(engine: Espeak, word: str, voice: Voice, rng: np.random.Generator) -> Audio:
    """One take: samples (N,), N at most one second. A word that is longer is said again, faster."""
    rate, pitch = voice.rate * rng.uniform(0.95, 1.05), voice.pitch + int(rng.integers(-4, 5))
    noise_seed = int(rng.integers(1, 2**31))
    for _ in range(6):
        audio = _trim(engine.say(word, voice.name, round(rate), pitch, noise_seed))
        if not audio.size:
            what = f"silence from espeak's {voice.accent}"
            refuse(f"word {word!r}", what, "something that can be spoken", "type another word or language")
        if audio.size <= scenes.MAX_SAMPLES:
            return audio
        rate = min(FASTEST, rate * 1.1 * audio.size / scenes.MAX_SAMPLES)
    found = f"{audio.size / codec.SAMPLE_RATE_HZ:.2f} s of {voice.accent} at its fastest"
    return refuse(f"word {word!r}", found, "at most 1 s", "type a shorter word, or one of that language")


def _trim(audio: Audio) -> Audio:
    """Cut what lies more than 50 dB below the peak off both ends, but keep 10 ms, for soft beginnings and ends."""
    loud = np.flatnonzero(np.abs(audio) > max(1e-4, 0.003 * float(np.abs(audio).max(initial=0))))
    return audio[max(0, loud[0] - 160) : loud[-1] + 161] if loud.size else audio[:0]


def _write_wav(path: Path, audio: Audio) -> None:
    path.write_bytes(codec.wav_bytes(np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16)))


# --- beside them -----------------------------------------------------------------------------------------------------


def _write_lists(folder: Path, speech: Speech, voices: Sequence[Voice]) -> None:
    for split in SPLITS[1:]:
        held = [voice for voice in voices if voice.split == split]
        paths = sorted(_path(*clip) for clip in product(speech.words, held, range(speech.takes)))
        (folder / f"{split}_list.txt").write_text("".join(f"{path}\n" for path in paths), "utf-8")


def _write_noises(folder: Path, engine: Espeak, speech: Speech, voices: Sequence[Voice]) -> None:
    rng, size = np.random.default_rng([_NOISE, speech.seed]), NOISE_SECONDS * codec.SAMPLE_RATE_HZ
    folder.mkdir()
    noises = {name: scenes.coloured(rng, slope, size) for name, slope in (("white_noise", 0), ("pink_noise", 1))}
    noises["rumble"] = scenes.coloured(rng, 2, size)
    noises["mains_hum"] = scenes.coloured(rng, 2, size, comb=50 * NOISE_SECONDS)  # 50 Hz and its overtones
    noises["babble"] = _babble(engine, voices, rng)
    made_for = counter_rng.digest(
        speech.seed, *speech.languages
    )  # in the names, so that folders can be packed together
    for name, noise in noises.items():
        _write_wav(
            folder / f"{name}_{made_for:016x}.wav", noise * min(NOISE_RMS / noise.std(), 0.9 / np.abs(noise).max())
        )


def _babble(engine: Espeak, voices: Sequence[Voice], rng: np.random.Generator) -> Audio:
    """Many talkers at once (N,), in made-up words so that no keyword is among them; held-out voices stay unheard."""
    size, syllables = NOISE_SECONDS * codec.SAMPLE_RATE_HZ, [a + b for a, b in product("bdfgklmnprst", "aeiou")]
    total = np.zeros(size, np.float32)
    for voice in rng.choice(np.array([voice for voice in voices if voice.split == "train"], object), TALKERS):
        text = " ".join("".join(rng.choice(syllables, 4)) for _ in range(40))
        speech = engine.say(text, voice.name, voice.rate, voice.pitch, int(rng.integers(1, 2**31)))
        total += np.roll(np.resize(speech / speech.std(), size), int(rng.integers(size)))
    return total


def _write_facts(path: Path, version: str, speech: Speech, voices: Sequence[Voice]) -> None:
    asked = {field.name: getattr(speech, field.name) for field in fields(speech)}
    about = {"made_by": f"espeak-ng {version}"} | asked | {"voices": [asdict(voice) for voice in voices]}
    path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
