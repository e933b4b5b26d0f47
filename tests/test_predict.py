import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kws
from kws import cli, evaluate, predict
from kws.audio import codec
from kws.data import index
from kws.data.stream import Reader
from kws.errors import UsageError
from kws.predict import Recognizer, find_audio, fit
from kws.runtime import Runtime

ROOT = Path(__file__).parent.parent
SETTINGS = [
    "model.name=tc_resnet8", "train.epochs=1", "train.global_batch=32", "train.micro_batch=8", "train.device=cpu",
    "train.threads=1", "train.warmup_epochs=0", "data.workers=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tones: index.Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: one epoch on the tones."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    settings = [f"--set={text}" for text in [*SETTINGS, f"data.shards={tones.root}"]]
    command = [sys.executable, "-m", "kws", "train", str(ROOT / "configs" / "quick.toml"), "--run", str(folder)]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def recognizer(run: Path) -> Recognizer:
    return kws.load(run)


def clip(tones: index.Index, number: int = 0) -> codec.Pcm:
    return Reader(tones, "test", range(len(tones.words)), 16000).read(number)


def write(path: Path, pcm: codec.Pcm) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codec.wav_bytes(pcm))
    return path


# --- fitting a clip -------------------------------------------------------------------------------------------


def test_a_short_clip_is_padded_behind() -> None:
    fitted, cut = fit(np.array([5, 6], dtype=np.int16), 4)
    assert (fitted.tolist(), cut) == ([5, 6, 0, 0], False)


def test_a_clip_of_the_right_length_stays() -> None:
    pcm = np.arange(-3, 4, dtype=np.int16)
    fitted, cut = fit(pcm, 7)
    assert np.array_equal(fitted, pcm)
    assert not cut


@pytest.mark.parametrize("at", [0, 13, 30])
def test_a_long_clip_is_cut_to_its_loudest_stretch(at: int) -> None:
    pcm = np.ones(40, dtype=np.int16)
    pcm[at : at + 10] = -32768
    fitted, cut = fit(pcm, 10)
    assert fitted.tolist() == [-32768] * 10
    assert cut


def test_a_cut_of_less_than_a_tenth_is_not_worth_a_word() -> None:
    assert [fit(np.ones(n, dtype=np.int16), 100)[1] for n in (101, 110, 111)] == [False, False, True]


# --- finding files --------------------------------------------------------------------------------------------


def test_files_are_taken_as_named_and_folders_searched_for_audio(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/1.flac", "b/deep/3.ogg", "b/notes.txt", "plain"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_audio([tmp_path / "plain", tmp_path / "b"])
    assert [path.name for path in found] == ["plain", "1.flac", "2.WAV", "3.ogg"]


def test_what_is_not_there_and_folders_without_audio_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none: no such file or folder; wanted audio"):
        find_audio([tmp_path / "none"])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"no audio there; wanted .*flac.*wav"):
        find_audio([tmp_path])


# --- a trained network ----------------------------------------------------------------------------------------


def test_a_recognizer_gives_every_word_once_best_first(recognizer: Recognizer, tones: index.Index) -> None:
    words = recognizer(clip(tones))
    assert sorted(word for word, _ in words) == sorted(tones.words) == list(recognizer.classes)
    chances = [p for _, p in words]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1.0, abs=1e-5)


def test_floats_and_another_rate_are_the_same_sound(recognizer: Recognizer, tones: index.Index) -> None:
    pcm = clip(tones)
    wanted = dict(recognizer(pcm))
    assert dict(recognizer(pcm / 32768)) == wanted
    assert dict(recognizer((pcm / 32768).astype(np.float32), 16000)) == wanted
    assert dict(recognizer(list(pcm / 32768))) == wanted
    doubled = np.repeat(pcm / 32768, 2)
    assert dict(recognizer(doubled, 32000)) == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize(
    ("wave", "rate", "says"),
    [
        (np.zeros(0, np.int16), 16000, r"shape \(0,\)"),
        (np.zeros((2, 100), np.int16), 16000, r"shape \(2, 100\), wanted one channel"),
        (np.zeros(100, np.int32), 16000, "type int32, wanted int16, or float"),
        (np.full(100, np.nan), 16000, "not finite"),
        (np.zeros(100), 0, "0 Hz"),
    ],
)
def test_a_wave_that_is_none_is_refused(recognizer: Recognizer, wave: np.ndarray, rate: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recognizer(wave, rate)


def test_prediction_and_evaluation_say_the_same(run: Path, recognizer: Recognizer, tones: index.Index) -> None:
    alone = Runtime(0, 1, torch.device("cpu"), 1, None)
    summary = evaluate.evaluate_run(run, "test", "best_accuracy", None, alone)
    saved = np.load(run / "eval" / "test.clips.npz")
    assert summary["n"] == len(tones.split("test")) == len(saved["clips"])
    assert json.loads((run / "eval" / "test.json").read_text())["accuracy"] == summary["accuracy"]
    losses = -np.log(saved["probabilities"][np.arange(summary["n"]), saved["truth"]])
    assert summary["loss"] == pytest.approx(losses.mean(), abs=1e-4)
    for number, chances in zip(saved["clips"], saved["probabilities"], strict=True):
        found = dict(recognizer(clip(tones, int(number))))
        assert [found[word] for word in recognizer.classes] == pytest.approx(chances.tolist(), abs=1e-5)


def test_a_corpus_that_moved_is_taken_and_another_refused(run: Path, tones: index.Index, tmp_path: Path) -> None:
    alone = Runtime(0, 1, torch.device("cpu"), 1, None)
    moved, other = tmp_path / "moved", tmp_path / "other"
    moved.symlink_to(tones.root)
    assert evaluate.evaluate_run(run, "valid", "last", moved, alone)["split"] == "valid"
    subprocess.run(["cp", "-r", str(tones.root), str(other)], check=True)
    head = json.loads((other / "index" / "index.json").read_text())
    (other / "index" / "index.json").write_text(json.dumps({**head, "content_id": "0" * 32}))
    with pytest.raises(UsageError, match=r"corpus 0+, .* was trained on .*--shards"):
        evaluate.evaluate_run(run, "test", "last", other, alone)


@pytest.mark.parametrize(("split", "says"), [("noise", "no words to recognise"), ("tset", "splits with clips: train")])
def test_a_split_without_words_is_refused(run: Path, split: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        evaluate.evaluate_run(run, split, "last", None, Runtime(0, 1, torch.device("cpu"), 1, None))


def test_more_files_than_a_batch_come_in_order_and_as_one_by_one(
    recognizer: Recognizer, tones: index.Index, tmp_path: Path
) -> None:
    clips = [clip(tones, number % len(tones.split("test"))) for number in range(predict.BATCH + 3)]
    paths = [write(tmp_path / f"{number:03}.wav", pcm) for number, pcm in enumerate(clips)]
    skipped: list[str] = []
    found = list(recognizer.files(paths, skipped))
    assert [item.path for item in found] == paths
    assert not skipped
    for item, pcm in list(zip(found, clips, strict=True))[:: predict.BATCH]:
        assert dict(item.words) == pytest.approx(dict(recognizer(pcm)), abs=1e-5)


def test_files_that_cannot_be_read_are_left_out_with_the_reason(recognizer: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "folder.wav").mkdir()
    skipped: list[str] = []
    assert not list(recognizer.files([tmp_path / "text.wav", tmp_path / "folder.wav", tmp_path / "gone.wav"], skipped))
    assert [line.split(": ")[1].partition(" (")[0] for line in skipped] == [
        "not readable as audio",
        "Is a directory",
        "No such file or directory",
    ]


# --- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tones: index.Index, tmp_path: Path) -> Path:
    """Folders of known words, of none, one file that is no audio, and names that would do harm elsewhere."""
    write(tmp_path / "low" / "a.wav", clip(tones, 0))
    write(tmp_path / "high" / "b.wav", clip(tones, 1))
    write(tmp_path / "mine" / "<img src=x onerror=alert(1)>.wav", clip(tones, 2))
    write(tmp_path / "mine" / "long.wav", np.tile(clip(tones, 2), 3))
    write(tmp_path / "mine" / os.fsdecode(b"\xff\xfe.wav"), clip(tones, 2))
    (tmp_path / "mine" / "broken.wav").write_bytes(b"RIFF")
    return tmp_path


def test_predict_prints_truth_where_the_folder_names_a_word_and_says_what_it_left_out(
    run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(run), str(recordings)]) == cli.FAILED
    out, err = capsys.readouterr()
    by_name = {line.partition("  ")[0].rpartition("/")[2]: line for line in out.splitlines()}
    assert all(
        by_name[name].endswith(("  right", f"  wrong, is {word}"))
        for name, word in (("a.wav", "low"), ("b.wav", "high"))
    )
    assert by_name["<img src=x onerror=alert(1)>.wav"].endswith("%")
    assert "longer than 1 s: its loudest part" in by_name["long.wav"]
    assert "\\udcff\\udcfe.wav" in by_name
    assert " of 2 files in folders of known words" in out
    assert err.startswith(f"left out: {recordings}/mine/broken.wav: not readable as audio")


def test_predict_as_json_is_an_object_a_line(run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), str(recordings / "low"), "--json", "--top", "2"]) == cli.OK
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["path"], row["truth"], row["note"], len(row["words"])) == (f"{recordings}/low/a.wav", "low", None, 2)


def test_an_unknown_checkpoint_is_one_line(run: Path, recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(run), str(recordings / "low"), "--checkpoint", "best"]) == cli.USAGE
    assert "no checkpoint 'best'; there are: best_accuracy, best_loss, last, step-" in capsys.readouterr().err


def test_report_of_a_run_is_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(run)]) == cli.OK
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").stat().st_size > 1000
