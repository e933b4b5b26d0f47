"""The formats of the packed files: counted by word and split, kept when a corpus grows, never taken for another's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws import cli
from kws.packing import external_index, pack, source_formats
from kws.packing.pack import PackOptions

PLAIN = "16 kHz, 1 channel, WAV PCM_16"


def write(
    folder: Path, word: str, ending: str = "wav", rate_hz: int = 16_000, channels: int = 1, seed: int = 0
) -> Path:
    """Twelve clips of noise by as many speakers."""
    (folder / word).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *word.encode()])
    for take in range(12):
        sound = 0.1 * rng.standard_normal((rate_hz // 4, channels))
        soundfile.write(folder / word / f"s{take}_nohash_{seed}.{ending}", sound, rate_hz)
    return folder


def of_word(corpus: pack.Index, word: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for (name, _), counts in source_formats.load(corpus).items():
        for kind, clips in counts.items():
            total[kind] = total.get(kind, 0) + clips * (name == word)
    return {kind: clips for kind, clips in total.items() if clips}


def test_formats_are_counted_kept_when_a_corpus_grows_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(write(tmp_path / "a", "yes"), "go", "flac", 44_100, 2)
    corpus, _ = pack.pack([source], tmp_path / "out")
    flac = "44.1 kHz, 2 channels, FLAC PCM_16"
    assert [of_word(corpus, word) for word in corpus.words] == [{flac: 12}, {PLAIN: 12}]
    assert sum(sum(counts.values()) for counts in source_formats.load(corpus).values()) == 24
    assert cli.main(["inspect", str(corpus.root), "--conditions"]) == 0
    shown = capsys.readouterr().out
    assert "'go' can be recognised by its source format" in shown
    assert f"{flac}: 12 clips, of go" in shown, "once, not in each row"
    mp3 = write(tmp_path / "b", "go", "mp3", 16_000, 1, seed=1)
    larger, _ = pack.pack([mp3], corpus.root, PackOptions(append=True))
    assert of_word(larger, "go") == {flac: 12, "16 kHz, 1 channel, MP3 MPEG_LAYER_III": 12}
    assert source_formats.load(corpus) == {}, "the file is the larger corpus's now"


@pytest.mark.slow
def test_the_index_of_parts_adds_up_what_each_of_them_says(tmp_path: Path) -> None:
    source, out = write(write(tmp_path / "a", "yes"), "go", "flac", 44_100, 2), tmp_path / "out"
    parts = [
        pack.pack([source], out / f"part-{number}-of-2", PackOptions(part=(number, 2)))[0].root for number in (1, 2)
    ]
    corpus, _ = external_index.index_shards(str(out))
    assert of_word(corpus, "go") == {"44.1 kHz, 2 channels, FLAC PCM_16": 12}
    assert of_word(corpus, "yes") == {PLAIN: 12}
    (corpus.root / source_formats.NAME).unlink()
    (parts[0] / source_formats.NAME).unlink()
    corpus, _ = external_index.index_shards(str(out))
    assert source_formats.load(corpus) == {}, "nothing rather than a part"


def test_a_corpus_without_the_file_or_with_a_damaged_one_is_inspected(tmp_path: Path) -> None:
    corpus, _ = pack.pack([write(tmp_path / "a", "yes")], tmp_path / "out")
    file = corpus.root / source_formats.NAME
    for content in ("", "[]", '{"content_id": "other", "formats": []}'):
        file.write_text(content)
        assert source_formats.load(corpus) == {}
    file.unlink()
    assert cli.main(["inspect", str(corpus.root), "--conditions", "--json"]) == 0
