"""Recording takes from a file in place of a microphone, with ALSA's file plugin for PortAudio."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.corpus import takes
from kws.corpus.source import NOISE_FOLDER, Sources
from kws.corpus.takes import RecordingSession
from kws.errors import UsageError
from tests.conftest import require, tone
from tests.terminal import run_on_terminal

Command = Callable[..., subprocess.CompletedProcess[str]]
WAIT = np.zeros(int(takes.COUNTDOWN_S * len(takes.COUNTDOWN) * 16000), np.int16)
SILENT, CLIPPED = (
    (tone(440) // 1000).astype(np.int16),
    np.clip(tone(300).astype(int) * 9, -32768, 32767).astype(np.int16),
)
HIGH, LOW = tone(800, seed=1), tone(200, seed=2)


@pytest.fixture
def fake_microphone(microphone_file: Callable[..., dict[str, str]]) -> Callable[..., dict[str, str]]:
    """The environment in which the microphone records these takes, each after its countdown."""

    def environment(*recorded: codec.Pcm) -> dict[str, str]:
        return microphone_file(np.concatenate([part for take in recorded for part in (WAIT, take)]))

    return environment


def samples(path: Path) -> list[int]:
    data = path.read_bytes()
    assert codec.is_plain_wav(data)
    return codec.decode(data).tolist()


def test_silent_and_clipped_takes_are_repeated_and_others_kept_unchanged(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path, kws: Command
) -> None:
    env, out = fake_microphone(SILENT, HIGH, CLIPPED, LOW), tmp_path / "mine"
    done = kws("record", "turn left", out, "--count", 2, "--speaker", "anna", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}/turn left: 2 takes kept")
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" silent", " clipped"]
    place = out / "turn left"
    assert {path.name for path in place.iterdir()} == {"anna_nohash_0.wav", "anna_nohash_1.wav"}
    assert samples(place / "anna_nohash_0.wav") == HIGH.tolist()
    assert samples(place / "anna_nohash_1.wav") == LOW.tolist()
    assert {(r.word, r.speaker) for r in Sources([out])} == {("turn left", "anna")}


@pytest.mark.slow
def test_numbering_continues_after_existing_files(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path, kws: Command
) -> None:
    (tmp_path / "yes").mkdir()
    for name in ("anna_nohash_6.wav", "anna_nohash_2.flac", "bert_nohash_9.wav"):
        (tmp_path / "yes" / name).write_bytes(b"mine")
    done = kws("record", "yes", tmp_path, "--count", 1, "--speaker", "anna", "--json", env=fake_microphone(HIGH))
    assert json.loads(done.stdout) == {"kept": 1, "files": [f"{tmp_path}/yes/anna_nohash_7.wav"]}
    assert (tmp_path / "yes" / "anna_nohash_6.wav").read_bytes() == b"mine"


@pytest.mark.slow
def test_noise_may_be_silent_and_of_any_length(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path, kws: Command
) -> None:
    done = kws("record", "noise", tmp_path, "--count", 1, "--seconds", 2.5, env=fake_microphone(np.tile(SILENT, 3)))
    assert done.returncode == 0, done.stderr
    assert len(samples(tmp_path / NOISE_FOLDER / "me_nohash_0.wav")) == 40000


def test_a_silent_microphone_ends_the_recording(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path, kws: Command
) -> None:
    done = kws("record", "yes", tmp_path / "mine", env=fake_microphone(HIGH, *[SILENT] * 6))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"kws: {tmp_path}/mine/yes: 5 takes in a row")
    assert "silent" in last
    assert "1 are kept" in last
    assert len(list((tmp_path / "mine" / "yes").iterdir())) == 1


@pytest.mark.slow
def test_ctrl_c_keeps_the_takes(fake_microphone: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    env = {**os.environ, **fake_microphone(*[np.tile(LOW, 4)] * 2)}
    command = [sys.executable, "-m", "kws", "record", "yes", str(tmp_path / "mine"), "--count", "1000000"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    place, until = tmp_path / "mine" / "yes", time.monotonic() + 60
    while not (place / "me_nohash_2.wav").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    files = list(place.iterdir())
    assert len(files) >= 3
    assert out.startswith(f"{place}: {len(files)} takes kept")
    assert all(len(samples(path)) == 16000 for path in files)


@pytest.mark.slow
def test_a_terminal_shows_countdown_word_and_level(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "kws", "record", "yes", str(tmp_path / "mine"), "--count", "1"]
    code, shown = run_on_terminal(command, fake_microphone(HIGH), stdout=subprocess.DEVNULL)
    assert code == 0, shown
    assert shown.index("take 1 of 1  3 ") < shown.index("take 1 of 1  1 ") < shown.index("take 1 of 1  say yes ")
    assert f"{'·' * 30}  -96 dB" in shown
    assert f"{'█' * 23}{'·' * 7}  -13 dB" in shown


def test_a_microphone_of_another_rate_is_resampled(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    time_s = np.arange(3 * 44100) / 44100
    env = {**os.environ, **fake_microphone((9000 * np.sin(2 * np.pi * 440 * time_s)).astype(np.int16))}
    code = (
        "from kws.audio import microphone; from kws.corpus import takes; from pathlib import Path\n"
        "microphone.Microphone._supports = lambda self, rate: False\n"
        "with microphone.Microphone() as open_one:\n"
        "    assert open_one._rate == 44100, open_one._rate\n"
        f"    list(takes.record(takes.RecordingSession('yes', Path({str(tmp_path)!r}), 'me', 1), open_one))\n"
    )
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
    pcm = np.array(samples(tmp_path / "yes" / "me_nohash_0.wav"))
    spectrum = np.abs(np.fft.rfft(pcm[4000:12000]))  # 2 Hz a bin
    assert len(pcm) == 16000
    assert spectrum.argmax() * 2 == 440


def no_microphone() -> bool:
    cards = Path("/proc/asound/cards")
    return not cards.exists() or "no soundcards" in cards.read_text()


@pytest.mark.skipif(not no_microphone(), reason="this machine has a sound card")
def test_without_a_microphone_recording_is_refused(
    fake_microphone: Callable[..., dict[str, str]], tmp_path: Path, kws: Command
) -> None:
    env = fake_microphone(HIGH)
    Path(env["ALSA_CONFIG_PATH"]).write_text("pcm.!default { type asym playback.pcm { type null } }\n")
    done = kws("record", "yes", tmp_path / "mine", env=env)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kws: no microphone")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("absent", "says"),
    [
        ("sys.modules['sounddevice'] = None", "pip install 'kws[record]'"),
        ("import ctypes.util; ctypes.util.find_library = lambda name: None", "apt-get install libportaudio2"),
    ],
)
def test_without_library_or_portaudio_the_message_says_what_to_install(absent: str, says: str, tmp_path: Path) -> None:
    if "find_library" in absent:
        require("microphone", find_spec("sounddevice") is not None, "sounddevice is absent")
    code = f"import sys; {absent}; from kws import cli; sys.exit(cli.main(['record', 'yes', {str(tmp_path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("kws: the microphone needs ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("session", "says"),
    [
        (("", "me"), "record: no word"),
        (("a/b", "me"), "record: the word 'a/b'"),
        (("yes", "a b"), "--speaker 'a b'"),
        (("yes", "a_nohash_b"), "--speaker 'a_nohash_b'"),
        (("yes", "../me"), "--speaker '../me'"),
        (("yes", "me", 0), "--count 0"),
        (("yes", "me", 1, 0.0), "--seconds 0"),
        (("yes", "me", 1, float("nan")), "--seconds nan"),
    ],
)
def test_impossible_names_and_takes_are_refused(session: tuple[str, ...], says: str, tmp_path: Path) -> None:
    word, *rest = session
    with pytest.raises(UsageError, match=says.replace("(", r"\(")):
        RecordingSession(word, tmp_path, *rest)  # type: ignore[arg-type]
