"""Three hours of audio take no more memory than some minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
from pathlib import Path
from kws.streaming.events import DetectorSettings
from kws.streaming.recordings import RecordingReader
from kws.streaming.spotting import Spotter
from tests.streaming.learned import learned

spotter = Spotter(learned("tc_resnet8", updates=1), "window", hop_ms=1000)
for path in sys.argv[1:]:
    reader = RecordingReader(Path(path))
    events = list(spotter.events(reader.blocks(), DetectorSettings(0.999)))
    print(round(reader.seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, len(events))
"""


def silent_wav(path: Path, seconds: int) -> Path:
    """16 kHz mono PCM16, digital silence, as a sparse file."""
    size = seconds * 32_000
    sizes = [(36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")]
    form = bytes.fromhex("10000000 0100 0100 803e0000 007d0000 0200 1000")
    with path.open("wb") as file:
        file.write(b"RIFF" + sizes[0] + b"WAVEfmt " + form + b"data" + sizes[1])
        file.truncate(44 + size)
    return path


@pytest.mark.slow
def test_three_hours_take_the_memory_of_five_minutes(tmp_path: Path) -> None:
    paths = [silent_wav(tmp_path / "short.wav", 300), silent_wav(tmp_path / "long.wav", 3 * 3600)]
    command = [sys.executable, "-c", SCRIPT, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    short, long = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert (short[0], long[0]) == (300, 10_800)
    assert long[1] - short[1] < 40, "MB; the samples alone are 330"
