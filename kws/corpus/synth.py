"""Words and a seed flow in, a Speech Commands folder of espeak-ng clips flows out.

    words, seed -> voices (accent x variant x rate x pitch) -> espeak-ng -> 16 kHz -> trim -> place -> WORD/*.wav

Library and data come with the wheel `espeakng_loader`; nothing is downloaded. The clips show that a pipeline works, but
an espeak variant (vocal tract) may be in two splits with another accent and rate: scores are kinder than on people.
"""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import NoReturn

import numpy as np
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from kws.errors import UsageError

Audio = NDArray[np.float32]  # one channel, full scale is 1.0
Progress = Callable[[int, int], None]  # (done, in all)

# Half of them in pairs that are easily taken for one another, so that a confusion matrix has something to show.
# fmt: off
DEFAULT_WORDS = ("yes", "no", "go", "up", "off", "on", "stop", "left", "right", "down",
                 "three", "tree", "four", "forward", "bed", "bird")
# fmt: on
SAMPLE_RATE, MIN_SAMPLES, MAX_SAMPLES = 16_000, 9_600, 16_000  # Hz; samples of 0.6 s and 1.0 s
SPLITS = ("train", "validation", "testing")

# Files of lang/gmw, also espeak's names; "en" is British. Not New York: half of DEFAULT_WORDS come out as in "en-US".
ACCENTS = ("en", "en-US", "en-029", "en-GB-scotland", "en-GB-x-rp", "en-GB-x-gbclan", "en-GB-x-gbcwmd")
# Files of voices/!v that sound like a person. Left out: whispers and croaks, robots and echoes, broken rhythm, near
# copies of one that is here, and those (Reed, caleb) whose breath comes from the C library's rand(), unseeded.
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Alex", "Andrea", "Annie", "Denis"),
    *("Diogo", "Gene2", "Michael", "Mike", "Nguyen", "adam", "aunty", "belinda", "benjamin", "david", "grandma"),
    *("grandpa", "linda", "max", "michel", "mike2", "paul", "quincy", "robert", "steph", "travis", "victor"),
)
RATES, PITCHES, FASTEST = range(130, 201, 10), range(30, 71, 5), 450  # words a minute; 0 to 99; espeak's limit
NOISE_SECONDS, NOISE_RMS, TALKERS = 20, 0.06, 8  # NOISE_RMS of full scale; TALKERS in the babble
_INSTALL = "type: pip install espeakng-loader==0.2.4"
_VOICES, _CLIP, _NOISE = range(3)  # first key of every generator: no two purposes share random numbers


@dataclass(frozen=True)
class Voice:
    """One made speaker: `rate` in words a minute, `pitch` on espeak's 0 to 99 scale, `split` one of SPLITS."""

    speaker: str
    accent: str
    variant: str
    rate: int
    pitch: int
    split: str


@dataclass(frozen=True)
class SynthSummary:
    """What was written: `seconds` of word clips (no background); clips and voices counted for each of SPLITS."""

    clips: int
    words: int
    voices: int
    seconds: float
    split_clips: dict[str, int]
    split_voices: dict[str, int]


def _refuse(where: str, found: object, wanted: str, todo: str) -> NoReturn:
    raise UsageError(f"{where}: found {found}, wanted {wanted}; {todo}")


class Espeak:
    """espeak-ng in this process, with nothing left over from earlier use. Close it after use.

    Even espeak_Terminate leaves state standing (wave phase, flutter), so each object loads its own copy of the file:
    equal calls in equal order give equal samples. Raises UsageError when it cannot be loaded.
    """

    def __init__(self) -> None:
        library, data = _find_espeak()
        self._folder = tempfile.TemporaryDirectory(prefix="kws-espeak-")
        self._heard = bytearray()
        # espeak cuts data paths at 160 characters, which a deep venv exceeds: hand it a short link instead.
        link, copy = Path(self._folder.name, "espeak-ng-data"), Path(self._folder.name, "espeak.so")
        try:
            link.symlink_to(data)
            self._lib = ctypes.CDLL(str(shutil.copy(library, copy)))
            self._lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
            # 2: synchronous, no sound device; 0x8000: return an error instead of ending the process.
            self.sample_rate = int(self._lib.espeak_Initialize(2, 0, str(link).encode(), 0x8000))
            if self.sample_rate <= 0:
                raise OSError(f"espeak_Initialize returned {self.sample_rate} for {data}")
        except (OSError, AttributeError) as error:
            self._folder.cleanup()
            _refuse(str(library), error, "a loadable espeak-ng 1.52", _INSTALL)
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self.version: str = self._lib.espeak_Info(None).decode()
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._hear)  # kept: ctypes frees a callback that nobody holds
        self._lib.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._heard += ctypes.string_at(samples, 2 * count)
        return 0  # go on

    def _call(self, name: str, *args: object) -> None:
        if code := getattr(self._lib, name)(*args):
            raise RuntimeError(f"{name}{args} returned {code}")

    def say(self, text: str, voice: Voice, rate: int, pitch: int, seed: int) -> Audio:
        """Speak `text` with the voice's accent and variant: samples (N,) at 16 kHz, perhaps none.

        Raises RuntimeError when espeak returns an error code. An unknown variant is no error to espeak.
        """
        self._heard.clear()
        self._call("espeak_SetVoiceByName", f"{voice.accent}+{voice.variant}".encode())
        self._lib.espeak_ng_SetRandSeed(seed)
        for number, value in ((1, rate), (2, 50), (3, pitch)):  # rate, volume (100 drives some variants too far), pitch
            self._call("espeak_SetParameter", number, value, 0)
        self._call("espeak_Synth", text.encode(), len(text.encode()) + 1, 0, 1, 0, 1, None, None)  # last 1: UTF-8
        self._call("espeak_Synchronize")
        heard = np.frombuffer(bytes(self._heard), "<i2").astype(np.float32) / 32768
        return np.asarray(soxr.resample(heard, self.sample_rate, SAMPLE_RATE), np.float32)

    def close(self) -> None:  # also removes the copy
        self._lib.espeak_Terminate()
        self._folder.cleanup()


def _find_espeak() -> tuple[Path, Path]:
    try:
        import espeakng_loader  # type: ignore[import-untyped]
    except ImportError as error:
        _refuse("synthesize", error, "the package espeakng_loader", _INSTALL)
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def plan_voices(num_voices: int, seed: int) -> list[Voice]:
    """Draw `num_voices` different voices and give each one split; the same arguments give the same list.

    No (accent, variant) pair comes twice before all came once. Raises UsageError below 3 or above what can be made.
    """
    data = _find_espeak()[1]
    accents = [name for name in ACCENTS if (data / "lang" / "gmw" / name).is_file()]
    # espeak speaks its plain voice for a variant that it does not know, so the files are looked for here.
    variants = [name for name in VARIANTS if (data / "voices" / "!v" / name).is_file()]
    pairs, prosody = list(product(accents, variants)), list(product(RATES, PITCHES))
    most = len(pairs) * len(prosody)
    if not 3 <= num_voices <= most:
        _refuse("voices", num_voices, f"3 (one for each split) to {most}", "type another number of voices")
    rng = np.random.default_rng([_VOICES, seed])
    order, turn = rng.permutation(len(pairs)), rng.permutation(len(prosody))
    held = [*["validation"] * max(1, round(num_voices / 10)), *["testing"] * max(1, round(num_voices / 8))]
    splits = rng.permutation([*held, *["train"] * (num_voices - len(held))])
    voices = []
    for index, speaker in enumerate(rng.choice(2**32, num_voices, replace=False)):
        again, at = divmod(index, len(pairs))
        rate, pitch = prosody[int(turn[(again + at) % len(turn)])]  # another one each time that a pair comes again
        voices.append(Voice(f"{speaker:08x}", *pairs[int(order[at])], rate, pitch, str(splits[index])))
    return voices


def _trim(audio: Audio) -> Audio:
    """Cut what lies more than 50 dB below the peak off both ends, but keep 10 ms, for soft beginnings and ends."""
    loud = np.flatnonzero(np.abs(audio) > max(1e-4, 0.003 * float(np.abs(audio).max(initial=0))))
    return audio[max(0, loud[0] - 160) : loud[-1] + 161] if loud.size else audio[:0]


def _speak_word(engine: Espeak, word: str, voice: Voice, rng: np.random.Generator) -> Audio:
    """One take: samples (N,), N at most one second. A word that is longer is said again, faster."""
    rate, pitch = voice.rate * rng.uniform(0.95, 1.05), voice.pitch + int(rng.integers(-4, 5))
    noise_seed = int(rng.integers(1, 2**31))
    for _ in range(6):
        audio = _trim(engine.say(word, voice, round(rate), pitch, noise_seed))
        if not audio.size:
            _refuse(f"word {word!r}", "silence from espeak", "something that can be spoken", "type another word")
        if audio.size <= MAX_SAMPLES:
            return audio
        rate = min(FASTEST, rate * 1.1 * audio.size / MAX_SAMPLES)
    _refuse(f"word {word!r}", f"{audio.size / SAMPLE_RATE:.2f} s at its fastest", "at most 1 s", "type a shorter word")


def _place(word: Audio, rng: np.random.Generator) -> Audio:
    """Put the word at a random place and gain over a faint noise floor: samples (N,), 0.6 s <= N <= 1 s."""
    length = max(int(rng.integers(MIN_SAMPLES, MAX_SAMPLES + 1)), word.size)
    start = int(rng.integers(0, length - word.size + 1))
    peak, floor = 10 ** (rng.uniform(-24, -3) / 20), 10 ** (rng.uniform(-75, -60) / 20)
    clip = floor * rng.standard_normal(length, np.float32)
    clip[start : start + word.size] += peak * word / np.abs(word).max()
    return clip


def _write_wav(path: Path, audio: Audio) -> None:
    soundfile.write(path, np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")


def _coloured(rng: np.random.Generator, slope: float, comb: int = 1) -> Audio:
    """Noise (N,) whose power falls as frequency to the -slope from 20 Hz up; only every `comb`-th bin of 1/20 Hz."""
    size = NOISE_SECONDS * SAMPLE_RATE
    spectrum, freqs = np.fft.rfft(rng.standard_normal(size)), np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum *= np.where(freqs < 20, 0, np.maximum(freqs, 20) ** (-slope / 2))
    spectrum[np.arange(spectrum.size) % comb != 0] = 0
    return np.fft.irfft(spectrum, size).astype(np.float32)


def _babble(engine: Espeak, voices: Sequence[Voice], rng: np.random.Generator) -> Audio:
    """Many talkers at once (N,), in made-up words so that no keyword is among them; held-out voices stay unheard."""
    size, syllables = NOISE_SECONDS * SAMPLE_RATE, [a + b for a, b in product("bdfgklmnprst", "aeiou")]
    total = np.zeros(size, np.float32)
    for voice in rng.choice(np.array([voice for voice in voices if voice.split == "train"], object), TALKERS):
        text = " ".join("".join(rng.choice(syllables, 4)) for _ in range(40))
        speech = engine.say(text, voice, voice.rate, voice.pitch, int(rng.integers(1, 2**31)))
        total += np.roll(np.resize(speech / speech.std(), size), int(rng.integers(size)))
    return total


def _write_noises(folder: Path, engine: Espeak, voices: Sequence[Voice], seed: int) -> None:
    rng = np.random.default_rng([_NOISE, seed])
    folder.mkdir()
    noises = {"white_noise": _coloured(rng, 0), "pink_noise": _coloured(rng, 1), "rumble": _coloured(rng, 2)}
    hum = _coloured(rng, 2, comb=50 * NOISE_SECONDS)  # 50 Hz and its overtones
    for name, noise in {**noises, "mains_hum": hum, "babble": _babble(engine, voices, rng)}.items():
        _write_wav(folder / f"{name}.wav", noise * min(NOISE_RMS / noise.std(), 0.9 / np.abs(noise).max()))


def _check_arguments(out: Path, words: Sequence[str], takes: int, seed: int) -> None:
    wrong = [word for word in words if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9 '-]*[A-Za-z0-9'])?", word)]
    if wrong:
        _refuse("words", wrong, "letters, digits, spaces, - and ', first a letter or digit", "type them as spelt")
    if not words or len({word.casefold() for word in words}) < len(words):
        _refuse("words", list(words), "at least one word and none twice", "type each word once")
    if takes < 1 or seed < 0:
        _refuse("takes, seed", f"{takes}, {seed}", "takes of 1 or more, a seed of 0 or more", "type other numbers")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        _refuse(str(out), "something there already", "a new or empty folder", "type another folder or remove this one")


def _write_clips(
    folder: Path, engine: Espeak, words: Sequence[str], voices: Sequence[Voice], takes: int, seed: int, tell: Progress
) -> int:
    """Write every clip and both lists below `folder`; returns the number of samples."""
    for word in words:
        (folder / word.replace(" ", "_")).mkdir(parents=True)
    paths: dict[str, list[str]] = {split: [] for split in SPLITS}
    samples, every = 0, list(product(enumerate(voices), enumerate(words), range(takes)))
    for done, ((v, voice), (w, word), take) in enumerate(every, start=1):
        rng = np.random.default_rng([_CLIP, seed, v, w, take])
        clip = _place(_speak_word(engine, word, voice, rng), rng)
        path = f"{word.replace(' ', '_')}/{voice.speaker}_nohash_{take}.wav"
        _write_wav(folder / path, clip)
        paths[voice.split].append(path)
        samples += clip.size
        tell(done, len(every))
    for split in SPLITS[1:]:
        (folder / f"{split}_list.txt").write_text("".join(f"{path}\n" for path in sorted(paths[split])), "utf-8")
    return samples


def synthesize(
    out: Path,
    words: Sequence[str] = DEFAULT_WORDS,
    num_voices: int = 96,
    takes: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> SynthSummary:
    """Write `len(words) * num_voices * takes` clips, both lists, `_background_noise_/` and `synth.json` to `out`.

    The folder is made beside `out` and renamed when whole, so what stands at `out` is never half made. `progress` is
    called with (clips done, clips in all). Same arguments and same espeak-ng, same bytes. Raises UsageError for what
    the caller can mend: bad words or numbers, `out` in use or not writable, no espeak-ng.
    """
    out = Path(out).resolve()
    _check_arguments(out, words, takes, seed)
    voices = plan_voices(num_voices, seed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".synth-", dir=out.parent) as temp, closing(Espeak()) as engine:
            part = Path(temp, "corpus")
            samples = _write_clips(part, engine, words, voices, takes, seed, progress or (lambda _done, _total: None))
            _write_noises(part / "_background_noise_", engine, voices, seed)
            about = {"made_by": f"espeak-ng {engine.version}", "words": list(words), "takes": takes, "seed": seed}
            about["voices"] = [asdict(voice) for voice in voices]
            (part / "synth.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            part.rename(out)
    except OSError as error:
        _refuse(str(out), error, "a folder that can be written", "type another folder")
    count = {split: sum(voice.split == split for voice in voices) for split in SPLITS}
    clips = {split: len(words) * takes * number for split, number in count.items()}
    return SynthSummary(sum(clips.values()), len(words), num_voices, samples / SAMPLE_RATE, clips, count)
