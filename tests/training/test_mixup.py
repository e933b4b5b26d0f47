"""Mixup: weights, partners, the loss against the soft-label cross entropy, and what it hangs on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
import torch
from torch import nn

from kws.config import FrontEndConfig, preset
from kws.training.mixup import Mixup

CLASSES = 7


def mixup(clips: int = 12, probability: float = 1.0, alpha: float = 2.0, seed: int = 0, step: int = 0, slot: int = 0):
    settings: FrontEndConfig = preset("none", mixup_probability=probability, mixup_alpha=alpha)
    return Mixup.draw(settings, seed, step, slot, clips)


def outcome(clips: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and labels (B,)."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(clips, CLASSES, generator=generator) * 3
    return logits, torch.randint(0, CLASSES, (clips,), generator=generator)


def soft(labels: torch.Tensor, mixed: Mixup) -> torch.Tensor:
    """Both labels by their weights, (B, C)."""
    one, other = nn.functional.one_hot(labels, CLASSES), nn.functional.one_hot(labels[mixed.partner], CLASSES)
    return mixed.left[:, None] * one + (1 - mixed.left[:, None]) * other


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0, 8.0])
def test_weights_are_of_the_beta_distribution(alpha: float) -> None:
    weights = np.concatenate([mixup(64, alpha=alpha, step=step).left.numpy() for step in range(40)])
    assert scipy.stats.kstest(weights.astype(np.float64), scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert weights.min() >= 0.0
    assert weights.max() <= 1.0


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_share_of_mixed_clips_is_the_probability(probability: float) -> None:
    left = torch.cat([mixup(64, probability, step=step).left for step in range(40)])
    assert abs((left < 1.0).float().mean() - probability) < 0.04


def test_every_clip_is_the_partner_of_one() -> None:
    for clips in (1, 2, 7, 64):
        assert sorted(mixup(clips).partner.tolist()) == list(range(clips))
    firsts = [int(mixup(8, step=step).partner[0]) for step in range(400)]
    assert np.bincount(firsts, minlength=8).min() > 25  # of 50


def test_features_are_mixed_by_weight() -> None:
    features = torch.randn(12, 1, 5, 9, generator=torch.Generator().manual_seed(0))
    mixed = mixup()
    found = mixed.features(features)
    for row in range(12):
        weight = mixed.left[row]
        wanted = weight * features[row] + (1 - weight) * features[mixed.partner[row]]
        torch.testing.assert_close(found[row], wanted, rtol=1e-5, atol=1e-6)


def test_a_clip_that_is_not_mixed_and_one_alone_are_themselves_bit_for_bit() -> None:
    features = torch.randn(12, 1, 5, 9)
    mixed = mixup(probability=0.5)
    whole = mixed.left == 1.0
    assert 0 < whole.sum() < 12
    assert torch.equal(mixed.features(features)[whole], features[whole])
    assert torch.equal(mixup(clips=1).features(features[:1]), features[:1])
    logits, labels = outcome(1)
    plain = nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert torch.equal(mixup(clips=1).loss(logits, labels, 0.0), plain)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_of_soft_labels(smoothing: float) -> None:
    logits, labels = outcome()
    mixed = mixup()
    wanted = nn.functional.cross_entropy(logits, soft(labels, mixed), reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(mixed.loss(logits, labels, smoothing), wanted, rtol=1e-5, atol=1e-5)


def test_correct_predictions_count_for_both_labels() -> None:
    logits, labels = outcome()
    mixed = mixup()
    wanted = soft(labels, mixed).gather(1, logits.argmax(dim=1)[:, None]).sum()
    torch.testing.assert_close(mixed.correct(logits, labels), wanted)
    both = torch.where(mixed.left >= 0.5, labels, labels[mixed.partner])
    sure = nn.functional.one_hot(both, CLASSES).float()
    assert 0.5 * 12 <= mixed.correct(sure, labels) <= 12
    assert mixup(probability=0.0).correct(nn.functional.one_hot(labels, CLASSES).float(), labels) == 12


def test_the_blend_depends_on_seed_step_and_slot_only() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    one = mixup(32, seed=3, step=5, slot=2)
    torch.manual_seed(2)
    np.random.seed(2)
    again = mixup(32, seed=3, step=5, slot=2)
    assert torch.equal(one.left, again.left)
    assert torch.equal(one.partner, again.partner)
    for other in (mixup(32, seed=4, step=5, slot=2), mixup(32, seed=3, step=6, slot=2), mixup(32, seed=3, step=5)):
        assert not torch.equal(one.left, other.left)
        assert not torch.equal(one.partner, other.partner)
