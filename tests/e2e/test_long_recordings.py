"""Recordings that are longer than a second: training, evaluation and prediction use the same part of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from kws import cli
from kws.audio.codec import Pcm
from kws.data import index
from kws.data.index import Index
from kws.data.reader import Reader
from kws.distributed.ranks import Ranks
from kws.evaluation.evaluate import RunEvaluation, evaluate_run
from kws.evaluation.predict import Recognizer
from kws.run import folder as run_folder
from tests.conftest import tone, train_here

pytestmark = pytest.mark.xdist_group("long")
WORDS = {"low": 300.0, "high": 1200.0}


def late_word(hz: float, number: int) -> Pcm:
    """Half a second of a tone that begins after a second or later, 1.6 to 2.2 s in all; every fourth is short."""
    if number % 4 == 3:
        return tone(hz, 9000 + 1000 * (number % 8), seed=number)
    quiet = np.random.default_rng(number).standard_normal(25_600 + 100 * (number * 37 % 97)) * 20
    at = 16_000 + number * 53 % 1500
    quiet[at : at + 8000] += tone(hz, 8000, seed=number)
    return quiet.astype(np.int16)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Recordings at 16 and 44.1 kHz, packed by the command."""
    folder = tmp_path_factory.mktemp("long")
    for word, hz in WORDS.items():
        (folder / "wav" / word).mkdir(parents=True)
        for number in range(40):
            rate = 44_100 if number % 3 == 0 else 16_000
            wave = soxr.resample(late_word(hz * (1 + number % 5 / 50), number) / 32768, 16_000, rate)
            name = f"s{number % 20:02}_nohash_{number}.wav"
            soundfile.write(folder / "wav" / word / name, wave, rate, subtype="PCM_16")
    assert cli.main(["pack", str(folder / "wav"), str(folder / "shards")]) == cli.OK
    return index.load(folder / "shards")


def train(folder: Path, corpus: Index, *settings: str) -> tuple[Path, str]:
    code, output = train_here(
        folder / "run",
        f"data.shards={corpus.root}",
        "train.epochs=4",
        "train.global_batch=16",
        "frontend.augment=none",
        "train.lr=0.01",
        *settings,
    )
    assert code == 0, output
    return folder / "run", output


@pytest.fixture(scope="module")
def one_second(corpus: Index, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with clips of a second, and its output."""
    return train(tmp_path_factory.mktemp("one"), corpus, "data.clip_seconds=1", "train.epochs=2")


def test_the_share_of_longer_recordings_is_said(one_second: tuple[Path, str]) -> None:
    run, output = one_second
    for part in ("75 % of 80 recordings", "data.clip_seconds = 1", "the loudest 1 s", "auto would take 2.2"):
        assert part in output
    facts = json.loads((run / "run.json").read_text())
    assert (facts["clip_seconds"], facts["excerpt"]) == (1.0, "loudest")
    assert cli.main(["report", str(run)]) == cli.OK
    assert "75 % of 80 recordings" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_word_after_the_first_second_is_learned(corpus: Index, tmp_path: Path) -> None:
    run, _ = train(tmp_path, corpus, "data.clip_seconds=1", "train.epochs=10")
    assert evaluate_run(RunEvaluation(run=run), Ranks(0, 1, torch.device("cpu"), 1, None))["accuracy"] > 0.7


def test_evaluation_and_prediction_give_the_same_answer(
    one_second: tuple[Path, str], corpus: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = one_second
    evaluate_run(RunEvaluation(run=run, split="train"), Ranks(0, 1, torch.device("cpu"), 1, None))
    saved, reader = np.load(run / "eval" / "train.clips.npz"), Reader(corpus, "train")
    capsys.readouterr()
    assert cli.main(["predict", str(run), str(corpus.root.parent / "wav"), "--json", "--top", "9"]) == cli.OK
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    predicted = {"_".join(Path(row["path"]).parts[-2:]).removesuffix(".wav"): row for row in rows}
    recognizer = Recognizer.from_run(run)
    assert any(row["start_s"] > 0.5 for row in rows)
    for clip, chances in zip(saved["clips"].tolist(), saved["probabilities"], strict=True):
        row = predicted[reader.name(clip)]
        found = {each["word"]: each["probability"] for each in row["words"]}
        assert [found[word] for word in recognizer.classes] == pytest.approx(chances.tolist(), abs=1e-5)
        assert row["words"][0]["word"] == recognizer.classes[int(chances.argmax())]
        assert (row["note"] is not None) == (len(reader.read(clip)) > 16_160)
        assert dict(recognizer(reader.read(clip))) == pytest.approx(found, abs=1e-5)


def test_by_default_the_length_is_taken_from_the_corpus_recorded_and_kept(corpus: Index, tmp_path: Path) -> None:
    run, output = train(tmp_path, corpus, "train.epochs=1")
    assert "clips of 2.2 s" in output
    assert run_folder.read_config(run).data.clip_seconds == 2.2
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("clip_seconds = 2.2", "clip_seconds = 2.1"))
    assert "already finished" in train(tmp_path, corpus, "train.epochs=1")[1]
    assert "clip_seconds = 2.1" in (run / "config.toml").read_text()


@pytest.mark.slow
def test_an_older_run_resumes_with_the_start_of_each_recording(corpus: Index, tmp_path: Path) -> None:
    """Its config.toml lacks data.excerpt, and it was trained on the first second."""
    settings = ("data.clip_seconds=1", "data.excerpt=start")
    run, _ = train(tmp_path, corpus, *settings, "train.epochs=1")
    text = (run / "config.toml").read_text()
    assert 'excerpt = "start"\n' in text
    (run / "config.toml").write_text(text.replace('excerpt = "start"\n', ""))
    code, output = train_here(
        run, f"data.shards={corpus.root}", "train.epochs=2", "train.global_batch=16", "frontend.augment=none",
        "train.lr=0.01", "train.allow_change=epochs",
    )  # fmt: skip
    assert code == 0, output
    assert "resuming from" in output
    assert "the first 1 s of each is used" in output
    assert evaluate_run(RunEvaluation(run=run), Ranks(0, 1, torch.device("cpu"), 1, None))["accuracy"] < 1.0
    data = run_folder.read_config(run).data
    assert (data.clip_seconds, data.excerpt) == (1.0, "start")


def test_inspect_and_check_say_how_long_the_clips_are(corpus: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(corpus.root)]) == cli.OK
    assert "clips of 2.2 s (data.clip_seconds = auto)" in capsys.readouterr().out
