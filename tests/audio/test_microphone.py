"""The microphone, with ALSA's file plugin for PortAudio: a file in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from kws.audio import codec, microphone
from tests.conftest import tone

Environment = Callable[..., dict[str, str]]
RECORD = """
import json, sys
import numpy as np
from kws.audio.microphone import Microphone

device, seconds, supported = json.loads(sys.argv[1])
Microphone._supports = lambda self, rate: supported
with Microphone(device) as opened:
    blocks = list(opened.blocks_16_khz(seconds))
sizes, rest = [len(block.pcm) for block in blocks], len(list(opened.blocks(1)))
print(json.dumps({"pcm": np.concatenate([block.pcm for block in blocks]).tolist(), "sizes": sizes, "rest": rest}))
"""


def record(env: dict[str, str], device: str, seconds: float, supported: bool = True) -> dict[str, list[int]]:
    """What a process of its own records: ALSA reads its configuration once."""
    done = subprocess.run(
        [sys.executable, "-c", RECORD, json.dumps([device, seconds, supported])],
        env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def test_a_device_by_name_records_blocks_of_50_ms_until_it_is_closed(microphone_file: Environment) -> None:
    pcm = tone(440, 16000)
    found = record(microphone_file(pcm, name="desk"), "desk", 0.33)
    assert found["pcm"] == pcm[:5280].tolist()
    assert found["sizes"] == [800] * 6 + [480]
    assert found["rest"] == 0


def test_a_stream_of_another_rate_equals_the_whole_recording_resampled(microphone_file: Environment) -> None:
    pcm = tone(440, 44100)
    found = record(microphone_file(pcm), "", 0.9, supported=False)
    wanted = codec.pcm_from_float(pcm[: round(0.9 * 44100)].astype(np.float32) / 32768, 44100)
    assert len(found["pcm"]) == len(wanted)
    assert np.abs(np.array(found["pcm"]) - wanted).max() <= 1


def test_levels_are_relative_to_full_scale() -> None:
    assert microphone.level_db(np.full(800, -32768, np.int16)) == 0.0
    assert microphone.level_db(np.zeros(800, np.int16)) == -96.0
    assert microphone.level_db(np.zeros(0, np.int16)) == -96.0
    assert microphone.level_db(np.full(800, 3277, np.int16)) == pytest.approx(-20, abs=0.01)
