"""A trained run that is moved away from its corpus keeps the statistics that normalise its features."""

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
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.reader import Reader
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import evaluate
from kws.evaluation.predict import Recognizer
from kws.evaluation.trained import Trained
from kws.run.checkpoint import Checkpoint, Checkpoints
from tests.conftest import train_here

pytestmark = pytest.mark.xdist_group("trained")  # the shared fixture is made once

CPU = torch.device("cpu")
ALSO = ("frontend.normalise=corpus", "frontend.augment=none")


@dataclasses.dataclass
class Moved:
    """A run whose corpus was deleted after an evaluation."""

    run: Path
    first: list[list[float]]
    """The statistics in its first checkpoint."""
    clips: list[codec.Pcm]
    """The test clips, with their probabilities in that evaluation."""
    probabilities: np.ndarray


@pytest.fixture(scope="module")
def moved(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """A run that ended, was resumed after the corpus's statistics had changed, evaluated, and moved."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = index.load(Path(shutil.copytree(tones.root, folder / "shards")))
    normalisation.measure_and_save(corpus, Excerpt(16000))
    run, settings = folder / "run", (f"data.shards={corpus.root}", *ALSO)
    assert train_here(run, *settings, "train.epochs=1")[0] == 0
    first = Checkpoints(run).find("last").state["normal"]
    kept = corpus.root / "index" / "features.json"
    tree = json.loads(kept.read_text())
    tree["features"]["mel32"] = [[-1.0] * 32, [2.0] * 32]
    kept.write_text(json.dumps(tree))
    assert train_here(run, *settings, "train.epochs=2", "train.allow_change=epochs")[0] == 0
    alone = Ranks(0, 1, CPU, 1, None)
    evaluate.evaluate_run(evaluate.RunEvaluation(run=run, checkpoint="last"), alone)
    probabilities = np.load(run / "eval" / "test.clips.npz")["probabilities"]
    reader = Reader(corpus, "test")
    clips = [reader.read(clip).copy() for clip in range(len(corpus.split("test")))]
    shutil.rmtree(corpus.root)
    return Moved(Path(shutil.move(run, folder / "elsewhere")), first, clips, probabilities)


def test_a_checkpoint_holds_the_statistics_of_the_corpus(moved: Moved, tones: Index) -> None:
    assert moved.first == list(normalisation.measure(tones, ("mel32",), Excerpt(16000))["mel32"])


def test_a_resumed_run_keeps_its_statistics_where_those_of_the_corpus_changed(moved: Moved) -> None:
    states = [Checkpoints(moved.run).find(name).state for name in ("last", "best_loss")]
    assert [state["normal"] for state in states] == [moved.first] * 2


def test_without_its_corpus_a_run_predicts_the_evaluated_probabilities(moved: Moved) -> None:
    recognizer = Recognizer(Trained.from_run(moved.run, "last", CPU))
    for clip, chances in zip(moved.clips, moved.probabilities, strict=True):
        found = dict(recognizer(clip))
        assert [found[word] for word in recognizer.classes] == pytest.approx(chances.tolist(), abs=1e-5)


def test_features_are_normalised_only_where_the_checkpoint_has_statistics(moved: Moved) -> None:
    trained = Trained.from_run(moved.run, "last", CPU)
    wave = torch.from_numpy(np.stack(moved.clips))
    mean, deviation = (torch.tensor(values)[None, None, :, None] for values in moved.first)
    wanted = (Features("mel32")(wave) - mean) / deviation
    torch.testing.assert_close(trained.features(wave), wanted, rtol=1e-4, atol=1e-4)
    state = dict(trained.checkpoint.state)
    del state["normal"]  # as in checkpoints of older versions
    older = Trained(trained.config, dataclasses.replace(trained.checkpoint, state=state), CPU)
    assert torch.equal(older.features(wave), Features("mel32")(wave))


def test_a_checkpoint_without_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="task"):
        Trained(Config(), Checkpoint(tmp_path, {"classes": ["a", "b"]}), CPU)
