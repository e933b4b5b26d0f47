"""Which clips may be in a stream, and in which order they are drawn."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from kws.audio import codec
from kws.data import index
from kws.data.index import Index
from kws.data.reader import Reader
from kws.errors import UsageError
from kws.packing import external_index
from kws.streaming.mixing.clips import ClipDraws, choose_words, usable_clips
from tests.streaming.mixing.conftest import noise, spoken


def draws(corpus: Index, words: tuple[str, ...] = (), seed: int = 0, split: str = "test") -> ClipDraws:
    targets, _ = choose_words(corpus, words)
    return ClipDraws(Reader(corpus, split), corpus, usable_clips(corpus, split), targets, ("target", seed))


def test_each_word_and_each_clip_is_drawn_equally_often(words: Index) -> None:
    found = draws(words)
    clips = len(words.split("test"))
    numbers = [found.clip(number)[0] for number in range(2 * clips)]
    assert set(collections.Counter(numbers).values()) == {2}
    assert found.most_uses == 2
    labels = words.split("test").values("word", numbers)
    assert all(set(labels[at : at + 3].tolist()) == {0, 1, 2} for at in range(0, 2 * clips, 3))


def test_a_draw_depends_on_seed_and_number_alone(words: Index) -> None:
    first, second, other = draws(words), draws(words), draws(words, seed=1)
    assert second.clip(7) == first.clip(7)
    assert [first.clip(number) for number in range(9)] == [second.clip(number) for number in range(9)]
    assert [first.clip(number) for number in range(9)] != [other.clip(number) for number in range(9)]


def tar(folder: Path, clips: list[tuple[str, bytes, str, str]]) -> None:
    """A shard: (key, audio, word, speaker)."""
    import io
    import json
    import tarfile

    folder.mkdir(parents=True)
    with tarfile.open(folder / "000000.tar", "w") as shard:
        for key, audio, word, speaker in clips:
            label = {"word": word} | ({"speaker": speaker} if speaker else {})
            for name, data in ((f"{key}.wav", audio), (f"{key}.json", json.dumps(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


@pytest.fixture
def leaky(tmp_path: Path) -> Index:
    """test has a speaker of train, a copy of a clip of train by a new name, an unknown speaker and two new ones; one
    clip is silent."""
    wav = [codec.wav_bytes(spoken(400, number)) for number in range(8)]
    tar(tmp_path / "train", [("a-0", wav[0], "go", "anna"), ("b-1", wav[1], "go", "bert")])
    silent = codec.wav_bytes(noise(1, level=3))
    tar(tmp_path / "test", [
        ("a-2", wav[2], "go", "anna"), ("c-3", wav[1], "go", "carl"), ("x-4", wav[4], "go", ""),
        ("d-5", wav[5], "go", "dora"), ("d-6", silent, "go", "dora"), ("d-7", silent, "quiet", "dora"),
    ])  # fmt: skip
    corpus, _ = external_index.index_shards(str(tmp_path))
    return corpus


def test_no_speaker_and_no_recording_of_train_is_in_a_test_stream(leaky: Index) -> None:
    usable = usable_clips(leaky, "test")
    assert (usable.speakers_in_train, usable.copies_in_train, usable.unknown_speakers) == (1, 1, 1)
    reader = Reader(leaky, "test")
    assert sorted(reader.name(int(row)) for row in usable.rows) == ["d-5", "d-6", "d-7", "x-4"]
    notes = " ".join(usable.notes())
    assert all(part in notes for part in ("in train", "same recordings", "not known"))


def test_a_silent_clip_is_left_out_and_counted_and_a_silent_word_is_an_error(leaky: Index) -> None:
    found = draws(leaky, ("go",))
    names = {Reader(leaky, "test").name(found.clip(number)[0]) for number in range(6)}
    assert names == {"d-5", "x-4"}
    assert len(found.inaudible) == 1
    with pytest.raises(UsageError, match="quiet"):
        draws(leaky, ("quiet",)).clip(0)


def test_a_split_of_speakers_of_train_alone_is_refused(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        tar(tmp_path / split, [(f"a-{number}", codec.wav_bytes(spoken(400, number)), "go", "anna")])
    corpus, _ = external_index.index_shards(str(tmp_path))
    with pytest.raises(UsageError, match="speakers"):
        usable_clips(corpus, "test")
    assert len(usable_clips(corpus, "train").rows) == 1
    assert any("not for testing" in note for note in usable_clips(corpus, "train").notes())


def test_the_choice_does_not_depend_on_the_shards(words: Index, tmp_path: Path) -> None:
    from kws.packing import pack

    options = pack.PackOptions(percents=(20.0, 30.0), shard_bytes=200_000, audio_format="flac")
    again, _ = pack.pack([words.root.parent / "wav"], tmp_path / "shards", options, processes=1)
    names = [
        [Reader(corpus, "test").name(draws(corpus).clip(number)[0]) for number in range(12)]
        for corpus in (words, index.load(again.root))
    ]
    assert names[0] == names[1]


def test_an_unknown_word_is_refused_with_the_nearest(words: Index) -> None:
    with pytest.raises(UsageError, match="stop"):
        choose_words(words, ("stopp",))
    assert choose_words(words, ("stop",)) == ([1], [0, 2])
