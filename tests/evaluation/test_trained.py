"""What a run carries of its corpus: normalised features go with it wherever it goes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.audio import codec
from kws.audio.features import Features
from kws.config import Config
from kws.data import index, normalisation
from kws.data.index import Index
from kws.data.reader import Reader
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import evaluate
from kws.evaluation.predict import Recognizer
from kws.evaluation.trained import Trained
from kws.run.checkpoint import Checkpoint, Checkpoints
from tests.multiproc.launching import ALONE, SETTINGS, finish, kill, start, steps_done, wait_until

pytestmark = pytest.mark.xdist_group("trained")  # what they share is made once

CPU = torch.device("cpu")
ALSO = ("frontend.normalise=corpus", "frontend.augment=none", "data.workers=0")


@dataclasses.dataclass
class Moved:
    """A run whose corpus is gone: what it was normalised by at first, the test clips, and how likely it found each
    class of theirs while there was a corpus."""

    run: Path
    first: list[list[float]]
    clips: list[codec.Pcm]
    probabilities: np.ndarray


@pytest.fixture(scope="module")
def moved(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """Stopped after some steps, resumed beside statistics that have become others, evaluated, moved."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = index.load(Path(shutil.copytree(tones.root, folder / "shards")))
    normalisation.measure_and_save(corpus, 16000)
    config, run = folder / "tiny.toml", folder / "run"
    config.write_text(SETTINGS.replace("[data]", f'[data]\nshards = "{corpus.root}"'))
    process = start(ALONE, config, run, *ALSO, "train.epochs=1000")  # it must not be done before the stop is seen
    try:
        wait_until(lambda: steps_done(run) > 0, process)
        (run / "stop").touch()
        code, output = finish(process)
    finally:
        kill(process)
    assert code == 75, output
    first = Checkpoints(run).find("last").state["normal"]
    kept = corpus.root / "index" / "features.json"
    tree = json.loads(kept.read_text())
    tree["features"]["mel32"] = [[-1.0] * 32, [2.0] * 32]
    kept.write_text(json.dumps(tree))
    epochs = Checkpoints(run).find("last").state["epoch"] + 2
    code, output = finish(start(ALONE, config, run, *ALSO, f"train.epochs={epochs}", "train.allow_change=epochs"))
    assert code == 0, output
    alone = Ranks(0, 1, CPU, 1, None)
    evaluate.evaluate_run(run, "test", "last", None, alone)
    probabilities = np.load(run / "eval" / "test.clips.npz")["probabilities"]
    reader = Reader(corpus, "test")
    clips = [reader.read(clip).copy() for clip in range(len(corpus.split("test")))]
    shutil.rmtree(corpus.root)
    return Moved(Path(shutil.move(run, folder / "elsewhere")), first, clips, probabilities)


def test_a_checkpoint_holds_what_the_features_were_normalised_by(moved: Moved, tones: Index) -> None:
    assert moved.first == list(normalisation.measure(tones, ("mel32",), 16000)["mel32"])


def test_a_resumed_run_keeps_it_whatever_lies_beside_the_corpus_by_then(moved: Moved) -> None:
    states = [Checkpoints(moved.run).find(name).state for name in ("last", "best_loss")]
    assert [state["normal"] for state in states] == [moved.first] * 2


def test_a_run_predicts_without_its_corpus_what_it_was_evaluated_to(moved: Moved) -> None:
    recognizer = Recognizer(Trained.from_run(moved.run, "last", CPU))
    for clip, chances in zip(moved.clips, moved.probabilities, strict=True):
        found = dict(recognizer(clip))
        assert [found[word] for word in recognizer.classes] == pytest.approx(chances.tolist(), abs=1e-5)


def test_its_features_are_normalised_and_those_of_a_run_without_are_not(moved: Moved) -> None:
    trained = Trained.from_run(moved.run, "last", CPU)
    wave = torch.from_numpy(np.stack(moved.clips))
    mean, deviation = (torch.tensor(values)[None, None, :, None] for values in moved.first)
    wanted = (Features("mel32")(wave) - mean) / deviation
    torch.testing.assert_close(trained.features(wave), wanted, rtol=1e-4, atol=1e-4)
    state = dict(trained.checkpoint.state)
    del state["normal"]  # as runs before there was such a thing
    older = Trained(trained.config, dataclasses.replace(trained.checkpoint, state=state), CPU)
    assert torch.equal(older.features(wave), Features("mel32")(wave))


def test_a_checkpoint_of_an_older_kws_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of an older kws, which kept no task; train again with this one"):
        Trained(Config(), Checkpoint(tmp_path, {"classes": ["a", "b"]}), CPU)
