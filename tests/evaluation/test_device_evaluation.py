"""Evaluation on a GPU that is not there (tests/fake_cuda.py): the host waits for results only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kws.audio.features import Features
from kws.corpus import tasks
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.stream import SlotReader
from kws.distributed.ranks import Ranks
from kws.evaluation.evaluate import BATCH, EvaluationData, Views, crops, evaluate_split, whole_clip
from tests.fake_cuda import DEVICE, fake_cuda, real_tensors, to_fake_cuda

pytestmark = pytest.mark.xdist_group("device")  # torch imports its compiler for fake tensors: once


class Bands(nn.Module):
    """Logits from the mean of each band."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(32, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features.mean(dim=(1, 3)))
        return logits


@pytest.mark.parametrize("views", [pytest.param(whole_clip, marks=pytest.mark.slow), crops])
def test_a_batch_on_a_device_waits_for_nothing(tones: Index, monkeypatch: pytest.MonkeyPatch, views: Views) -> None:
    task = tasks.resolve(tasks.words_task(tones.words), tones.words)
    data = EvaluationData(index=tones, split="train", task=task, excerpt=Excerpt(16000), views=views)
    network, features = Bands(len(task.classes)), Features("mel32")
    monkeypatch.setattr(SlotReader, "_read", real_tensors()(SlotReader._read))
    with fake_cuda(monkeypatch) as copies:
        to_fake_cuda(network)
        to_fake_cuda(features)
        result = evaluate_split(network, features, data, Ranks(0, 1, DEVICE, 1, None))  # type: ignore[arg-type]
    batches = -(-len(result.clips) // BATCH)
    assert batches > 1
    assert len(copies.uploads) == 2 * batches  # waves, labels
    assert len(copies.downloads) == 2 * batches  # probabilities, loss
    assert result.probabilities.shape == (len(result.clips), len(task.classes))
    assert torch.get_default_device() == torch.device("cpu")
