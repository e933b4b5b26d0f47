"""Indexing shards that others packed, in all usual layouts: streaming, verifying, and reports of what is left out."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import webdataset as wds

from kws import cli
from kws.audio import codec
from kws.corpus.source import split_by_hash
from kws.data import index
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.plan import Plan, PlanSettings
from kws.data.reader import Reader
from kws.data.stream import SlotReader, stream_batches
from kws.errors import UsageError
from kws.packing import contents, external_index, scan
from kws.transport import RetryPolicy
from tests.conftest import tone

SAMPLES = 1600
Members = list[tuple[str, bytes]]


def wav(number: int = 0) -> bytes:
    return codec.wav_bytes(tone(300 + 50 * number, SAMPLES, seed=number))


def shard(path: Path, members: Members) -> Path:
    """A tar of these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def clips(count: int, label: str = "json", first: int = 0) -> Members:
    """Samples of two words with a label of that kind, or none."""
    members: Members = []
    for number in range(first, first + count):
        word = ("left", "right")[number % 2]
        content = {"json": json.dumps({"word": word, "speaker": f"s{number}"}), "txt": f"{word}\n", "cls": word}
        members.append((f"{number:04d}.wav", wav(number)))
        if label:
            members.append((f"{number:04d}.{label}", content[label].encode()))
    return members


def counts(corpus: Index) -> dict[str, int]:
    return {name: len(split) for name, split in corpus.splits.items() if len(split)}


def words_in(corpus: Index, split: str = "train") -> list[str]:
    return [corpus.words[word] for word in corpus.split(split).columns["word"]]


def one(tmp_path: Path, members: Members, **more: Any) -> Index:
    """The index of a single shard with these members."""
    shard(tmp_path / "src" / "0.tar", members)
    corpus, report = external_index.index_shards(str(tmp_path / "src"), **more)
    assert not report.skipped
    return corpus


def refused(tmp_path: Path, members: Members, match: str, **more: Any) -> None:
    """One line that names the shard; and no index, not even a part of one, is left."""
    path = shard(tmp_path / "src" / "0.tar", members)
    with pytest.raises(UsageError, match=match) as caught:
        external_index.index_shards(str(tmp_path / "src"), **more)
    assert "\n" not in str(caught.value)
    assert "0.tar: " in str(caught.value)
    assert list(path.parent.iterdir()) == [path]


# --- layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "txt", "cls"])
def test_a_label_may_be_a_json_txt_or_cls_member(tmp_path: Path, kind: str) -> None:
    corpus = one(tmp_path, clips(6, kind), split="train")
    assert corpus.words == ("left", "right")
    assert words_in(corpus) == ["left", "right"] * 3
    assert scan.verify(corpus, external_index.shards_of(corpus)) == (6, [])


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ({"label": "go"}, "go"),
        ({"keyword": " go "}, "go"),
        ({"class": "go", "id": 7}, "go"),
        ({"label": 3, "text": "go"}, "go"),
        ({"word": "", "transcript": "go"}, "go"),
        ("go", "go"),
        ({"text": "grün"}, "grün"),
        ({"label": 1}, "right"),
        (1, "right"),
    ],
)
def test_usual_json_keys_of_the_word(tmp_path: Path, label: object, word: str) -> None:
    members = [("a.wav", wav()), ("a.json", json.dumps(label).encode())]
    assert words_in(one(tmp_path, members, words=("left", "right", "go", "grün"))) == [word]


def test_a_number_is_an_index_into_the_words(tmp_path: Path) -> None:
    members = [("a.wav", wav()), ("a.cls", b"2\n"), ("b.cls", b"0"), ("b.wav", wav(1))]
    corpus = one(tmp_path, members, words=("yes", "no", "maybe"))
    assert corpus.words == ("yes", "no", "maybe")
    assert words_in(corpus) == ["maybe", "yes"]
    assert scan.verify(corpus) == (2, [])


def test_a_list_of_classes_beside_the_shards_is_found(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "classes.txt").write_text("yes\nno\n")
    assert words_in(one(tmp_path, [("a.wav", wav()), ("a.cls", b"1")])) == ["no"]


def test_the_folder_is_the_word_where_there_is_no_label(tmp_path: Path) -> None:
    names = ("right/abc_nohash_0", "right/abc_nohash_1", "./left/def_nohash_0", "_background_noise_/hiss")
    corpus = one(tmp_path, [(f"{name}.wav", wav(number)) for number, name in enumerate(names)])
    assert corpus.words == ("left", "right")
    assert len(corpus.split("noise")) == 1
    assert len(corpus.split(split_by_hash("abc"))) >= 2, "the speaker before _nohash_ decides the split"
    assert {speaker.decode() for speaker in corpus.speakers} == {"abc", "def", ""}
    assert scan.verify(corpus) == (4, [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # WebDataset leaves the file open
def test_a_key_ends_at_its_first_dot_as_in_webdataset(tmp_path: Path) -> None:
    members = [("v1.2/a.16k.wav", wav()), ("v1.2/a.16k.json", b'{"word": "go"}'), ("v1.2/b.WAV", wav(1)),
               ("v1.2/b.TXT", b"go"), ("__meta__/x.json", b"?"), ("v1.2/._b.wav", b"mac"), ("NO", b"?")]  # fmt: skip
    corpus = one(tmp_path, members)
    assert words_in(corpus) == ["go", "go"]
    url = str(tmp_path / "src" / "0.tar")
    keys = [sample["__key__"] for sample in wds.WebDataset(url, shardshuffle=False) if "/._" not in sample["__key__"]]
    assert [key for key in keys if not key.endswith("/")] == ["v1.2/a", "v1.2/b"]


@pytest.mark.parametrize(("ending", "kind"), [("flac", "FLAC"), ("ogg", "OGG"), ("mp3", "MP3"), ("opus", "OPUS")])
def test_any_audio_that_soundfile_reads_is_streamed(tmp_path: Path, ending: str, kind: str) -> None:
    buffer = io.BytesIO()
    shape: dict[str, Any] = {"format": "OGG", "subtype": "OPUS"} if kind == "OPUS" else {"format": kind}
    soundfile.write(buffer, np.stack([tone(440, 24000)] * 2, 1), 24000, **shape)
    corpus = one(tmp_path, [(f"go/a.{ending}", buffer.getvalue())])
    split = corpus.split("train")
    assert not split.columns["plain"][0]
    assert split.columns["samples"][0] == len(codec.decode(buffer.getvalue())) == pytest.approx(16000, abs=1200)
    assert np.array_equal(Reader(corpus, "train").read(0), codec.decode(buffer.getvalue()))


def test_shards_of_stock_webdataset_stream_unchanged(tmp_path: Path) -> None:
    waves = [tone(200 + number, SAMPLES, seed=number) for number in range(30)]
    (tmp_path / "src").mkdir()
    with wds.ShardWriter(str(tmp_path / "src" / "kws-train-%06d.tar"), maxcount=8, verbose=0) as sink:
        for number, wave in enumerate(waves):
            sink.write({"__key__": f"clip{number}", "wav": codec.wav_bytes(wave), "cls": number % 3})
    corpus, report = external_index.index_shards(str(tmp_path / "src"), tmp_path / "out", words=("no", "up", "yes"))
    assert (counts(corpus), report.skipped) == ({"train": 30}, [])
    assert not (tmp_path / "src" / "index").exists()
    plan = Plan(corpus.split("train"), range(3), PlanSettings("natural", 1, 30, 0), 0)
    (batch,) = stream_batches(
        lambda: plan.rank_slots(0, 1), SlotReader(Reader(corpus, "train"), range(3), Excerpt(SAMPLES))
    )
    for clip, label, wave in zip(batch.clips.tolist(), batch.labels.tolist(), batch.wave.numpy(), strict=True):
        assert label == clip % 3
        assert np.array_equal(wave, waves[clip])


# --- splits ---------------------------------------------------------------------------------------------------


def test_folders_and_names_of_shards_name_the_split(tmp_path: Path) -> None:
    names = ("training/0.tar", "val/0.tar", "x/dev-1.tar", "testing/0.tar", "train/part-000001.tar", "noise/0.tar")
    for number, name in enumerate(names):
        shard(tmp_path / name, clips(2, "" if "noise" in name else "txt", 10 * number))
    corpus, report = external_index.index_shards(str(tmp_path))
    assert counts(corpus) == {"train": 4, "valid": 4, "test": 2, "noise": 2}
    assert (report.skipped, report.notes) == ([], [])
    assert scan.verify(corpus) == (12, [])


def test_one_shard_may_hold_several_splits_by_the_hash_of_the_speakers(tmp_path: Path) -> None:
    corpus = one(tmp_path, clips(60))
    wanted = [split_by_hash(f"s{number}") for number in range(60)]
    assert counts(corpus) == {name: wanted.count(name) for name in ("train", "valid", "test")}
    assert all(len(split.shards) == 1 for name, split in corpus.splits.items() if name != "noise")
    for split in ("train", "valid", "test"):
        numbers = [number for number, name in enumerate(wanted) if name == split]
        reader = Reader(corpus, split)
        assert [reader.name(clip) for clip in range(len(numbers))] == [f"{number:04d}" for number in numbers]
    assert scan.verify(corpus) == (60, [])


def test_clips_without_speaker_and_split_are_used_for_training_and_noted(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", clips(4, "txt"))
    corpus, report = external_index.index_shards(str(tmp_path))
    assert counts(corpus) == {"train": 4}
    assert len(report.notes) == 2
    assert "--split" in report.notes[0]
    assert report.notes[1].endswith("valid, test")
    assert counts(external_index.index_shards(str(tmp_path), split="test")[0]) == {"test": 4}


# --- what is wrong with them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("a.wav", b""), ("a.xyz", b"?")], r"sample a: no label in \.wav, \.xyz"),
        ([("a.wav", b""), ("a.json", b'{"id": 1}')], r"sample a: no label in \.wav, \.json"),
        ([("a.wav", b""), ("a.json", b"{")], "sample a: its json is damaged"),
        ([("a.wav", b""), ("a.txt", b"two\nlines")], r"sample a: .*'two\\nlines'"),
        ([("a.wav", b""), ("a.cls", b"7")], "sample a: .*number 7.* --words"),
        ([("j.s_1.wav", b""), ("j.s_2.wav", b"")], r"sample j: 2 audio members.*\.s_1\.wav, \.s_2\.wav"),
        ([("a.wav", b""), ("a.wav", b"")], r"sample a: two members \.wav"),
    ],
)
def test_a_sample_without_a_usable_label_is_refused_with_one_line(tmp_path: Path, members: Members, match: str) -> None:
    refused(tmp_path, members, match)


def test_words_outside_the_list_and_numbers_beyond_it_are_refused(tmp_path: Path) -> None:
    members = [("a.wav", wav()), ("a.txt", b"perhaps")]
    refused(
        tmp_path, members, "sample a: the word is 'perhaps', wanted one of the 2 given: yes, no", words=("yes", "no")
    )
    refused(
        tmp_path, [("a.wav", wav()), ("a.cls", b"2")], "number 2, wanted 0 to 1 for the 2 words", words=("yes", "no")
    )


def test_damaged_samples_are_left_out_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shard(tmp_path / "train" / "0.tar", [*clips(2), ("up/cut.wav", wav()[:999]), ("up/note.txt", b"no sound")])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("up/link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "0000.wav"
        tar.addfile(link)
    assert cli.main(["index", str(tmp_path)]) == cli.FAILED
    out, err = capsys.readouterr()
    assert "2 train" in out
    left_out = sorted(line.partition("0.tar: ")[2] for line in err.splitlines() if "0.tar: " in line)
    assert [line.rpartition(": ")[0] for line in left_out[1:]] == ["sample up/note", "up/link.wav"]
    assert left_out[0].startswith("clip up/cut: damaged audio")
    assert scan.verify(index.load(tmp_path)) == (2, []), "what the index left out is not damage"


@pytest.mark.parametrize("change", ["flipped", "zeros", "cut", "no end"])
def test_a_damaged_tar_is_refused(tmp_path: Path, change: str) -> None:
    path = shard(tmp_path / "src" / "0.tar", clips(6))
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        at, end = tar.getmembers()[5].offset, tar.getmembers()[-1].offset + 1024
    if change == "flipped":
        data[at + 1] ^= 1
    elif change == "zeros":
        data[at : at + 512] = bytes(512)
    else:
        del data[at + 700 if change == "cut" else end :]
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"src/0.tar: damaged tar \(.* at byte \d+"):
        external_index.index_shards(str(tmp_path / "src"))
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_without_tars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none: no such folder"):
        external_index.index_shards(str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"no .tar file below it"):
        external_index.index_shards(str(tmp_path))
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(UsageError, match=r"0.tar.gz is compressed"):
        external_index.index_shards(str(tmp_path))


def test_shards_without_a_readable_clip_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", [("up/a.wav", b"no sound")])
    with pytest.raises(UsageError, match="no readable clip"):
        external_index.index_shards(str(tmp_path))


def test_an_unwritable_index_folder_is_refused_with_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = shard(tmp_path / "0.tar", clips(2))
    monkeypatch.setattr(index, "write", refuse)
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\).*--out"):
        external_index.index_shards(str(tmp_path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("given", ["yes,no,yes", ",", " "])
def test_a_repeated_or_empty_word_list_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match=r"--words .*: (yes|empty)"):
        external_index.read_words(given)


# --- elsewhere ------------------------------------------------------------------------------------------------


class Flaky(http.server.SimpleHTTPRequestHandler):
    """Files with ranges; the first answer for each file breaks off in the middle."""

    seen: set[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        breaks = self.path not in self.seen
        self.seen.add(self.path)
        self.wfile.write(data[start : start + len(data) // 2] if breaks else data[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address."""
    handler = functools.partial(type("Mine", (Flaky,), {"seen": set()}), directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield tmp_path / "www", f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_shards_on_a_server_are_indexed_and_verified(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_index, "RETRY_POLICY", RetryPolicy(delays_s=(0.0, 0.0)))
    folder, address = served
    for number, name in enumerate(("train/00.tar", "train/01.tar", "valid/00.tar")):
        shard(folder / name, clips(4, "txt", 4 * number))
    patterns = ["train/{00..01}.tar", f"{address}/valid/00.tar"]
    corpus, report = external_index.index_shards(address, tmp_path / "out", patterns)
    assert (counts(corpus), report.skipped) == ({"train": 8, "valid": 4}, [])
    assert corpus.source == address
    assert scan.verify(corpus, external_index.shards_of(corpus)) == (12, [])
    local, _ = external_index.index_shards(str(folder), tmp_path / "local")
    assert local.content_id == corpus.content_id, "wherever the shards lie"
    (folder / "train" / "01.tar").unlink()
    (fault,) = scan.verify(corpus, external_index.shards_of(corpus)).faults
    assert fault.startswith(f"{address}/train/01.tar: cannot be read (HTTP 404 Not Found)")


def test_shards_may_be_listed_in_a_file(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    shard(folder / "b.tar", clips(2, "txt"))
    (tmp_path / "list.txt").write_text(f"{address}/b.tar\n\nb.tar\n")
    assert external_index.expand(address, [str(tmp_path / "list.txt")]) == ["b.tar"]


def test_a_missing_shard_is_reported_with_one_line(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, address = served
    arguments = ["index", address, "--shards", "train/{0..1}.tar", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == cli.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"kws: {address}/train/0.tar: cannot be read (HTTP 404 Not Found)")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["http://host"], "--out DIR"),
        (["http://host", "--out", "x"], "--shards 'train/{000000..000012}.tar'"),
        (["http://host", "--out", "x", "--shards", "{0..1.tar"], "--shards {0..1.tar: Unbalanced braces"),
        (["http://host", "--out", "x", "--shards", "http://other/0.tar"], "--shards http://other/0.tar: not below"),
        (["http://host", "--out", "x", "--shards", "../0.tar"], "--shards ../0.tar: not below http://host"),
    ],
)
def test_a_wrong_command_is_refused_with_one_line(
    arguments: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["index", *arguments]) == cli.USAGE
    said = capsys.readouterr().err
    assert said.startswith("kws: ")
    assert match in said
    assert said.count("\n") == 1


def test_shards_may_come_from_a_command(tmp_path: Path) -> None:
    shard(tmp_path / "src" / "train" / "0.tar", clips(3, "txt"))
    corpus, _ = external_index.index_shards(f"pipe:cat {tmp_path}/src/{{}}", tmp_path / "out", ["train/0.tar"])
    assert counts(corpus) == {"train": 3}
    assert scan.verify(corpus, external_index.shards_of(corpus)) == (3, [])


# --- the command ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_reports_the_quality_of_the_shuffle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = codec.wav_bytes(tone(300, 40))
    for place, word in enumerate(("left", "right")):
        shard(tmp_path / "train" / f"{place}.tar", [(f"{word}/{number}.wav", short) for number in range(4096)])
    assert cli.main(["index", str(tmp_path), "--out", str(tmp_path / "out")]) == cli.OK
    out = capsys.readouterr().out
    assert "8192 train, 0 valid, 0 test, 0 noise; 2 words" in out
    assert "train hold 0.0% of the class entropy" in out
    assert cli.main(["index", str(tmp_path), "--json"]) == cli.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["clips"] == {"train": 8192, "valid": 0, "test": 0, "noise": 0}
    assert (facts["words"], facts["faults"], facts["notes"]) == (["left", "right"], [], ["no clips in valid, test"])


def test_indexing_again_gives_the_same_index(tones: Index, tmp_path: Path) -> None:
    again, report = external_index.index_shards(str(tones.root), tmp_path / "out")
    assert (again.content_id, again.words, report.skipped) == (tones.content_id, tones.words, [])
    assert again.source == str(tones.root)
    for name, split in tones.splits.items():
        assert all(
            np.array_equal(again.splits[name].columns[column], split.columns[column]) for column in split.columns
        )
    assert np.array_equal(again.speakers, tones.speakers)
    assert contents.corpus_facts(again) == contents.corpus_facts(tones)


KEYS = {
    "word": ("{word}/{number}", ""),
    "split_word": ("{split}/{word}/{number}", ""),
    "speaker_word": ("{speaker}/{word}/{number}", "p1"),
    "word_speaker": ("{word}/{speaker}/{number}", "p1"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_folders_in_keys_are_read_as_packing_reads_folders(tmp_path: Path, kind: str) -> None:
    pattern, speaker = KEYS[kind]
    members = [
        (pattern.format(word=word, split=split, speaker=person, number=f"{split}{person}") + ".wav", wav())
        for split in ("train", "val", "test") for word in ("yes", "no") for person in ("p1", "p2", "p3")
    ]  # fmt: skip
    shard(tmp_path / "0.tar", members)
    corpus, _ = external_index.index_shards(str(tmp_path))
    assert corpus.words == ("no", "yes")
    assert set(corpus.speakers) >= {speaker.encode()}
    if kind == "split_word":
        assert [len(corpus.splits[split]) for split in ("train", "valid", "test")] == [6, 6, 6]
    assert scan.verify(corpus, external_index.shards_of(corpus)).faults == []


def test_folders_in_keys_that_may_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    keys = [f"{person}/{word}/1.wav" for person in ("anna", "bert") for word in ("licht", "lampe")]
    shard(tmp_path / "0.tar", [(key, wav()) for key in keys])
    with pytest.raises(UsageError, match="which folder is the word"):
        external_index.index_shards(str(tmp_path))
    assert not (tmp_path / "index").exists()
    corpus, _ = external_index.index_shards(str(tmp_path), names="{speaker}/{word}/{}")
    assert corpus.words == ("lampe", "licht")
    assert set(corpus.speakers) >= {b"anna", b"bert"}


def test_transcripts_that_are_sentences_are_noted(tmp_path: Path) -> None:
    members = [(f"{number}.{kind}", data) for number in range(12)
               for kind, data in (("wav", wav(number)), ("txt", f"he said yes {number} times".encode()))]  # fmt: skip
    shard(tmp_path / "a.tar", members)
    _, report = external_index.index_shards(str(tmp_path))
    assert any("12 words" in note for note in report.notes)
