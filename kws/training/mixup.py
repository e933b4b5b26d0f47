"""Mixup: a clip's features and label are blended with those of another clip of the same slot. Drawn from (seed, step,
slot).

Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, arXiv 1710.09412; one weight a clip.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from kws import counter_rng
from kws.config import FrontEndConfig


@dataclasses.dataclass(frozen=True)
class Mixup:
    """The blend of one slot of B clips."""

    partner: Tensor
    """The clip that each is blended with, (B,) int64."""
    left: Tensor
    """Each clip's own weight, (B,) float32."""

    @classmethod
    def draw(cls, settings: FrontEndConfig, seed: int, step: int, slot: int, clips: int) -> Mixup:
        """For a slot of B = `clips` clips, on the host."""
        from scipy.special import betaincinv  # type: ignore[import-untyped]  # 0.4 s that runs without mixup do not need

        key = ("mixup", seed, step, slot)
        chosen, place = counter_rng.uniforms(np.arange(clips), 2, *key).T
        # Beta(alpha, alpha) by its inverse distribution function: one uniform number a clip, no sampler with a state.
        weight = betaincinv(settings.mixup_alpha, settings.mixup_alpha, place)
        left = np.where(chosen < settings.mixup_probability, weight, 1.0)
        partner = counter_rng.permutation(clips, *key, "partner")
        return cls(torch.from_numpy(partner), torch.from_numpy(left.astype(np.float32)))

    def features(self, features: Tensor) -> Tensor:
        """(B, 1, F, N) -> blended features of the same shape."""
        return torch.lerp(features[self.partner], features, self.left[:, None, None, None])

    def loss(self, logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """Cross entropy against both labels, weighted, summed over the clips, ()."""
        each, other = (
            nn.functional.cross_entropy(logits, truth, reduction="none", label_smoothing=label_smoothing)
            for truth in (labels, labels[self.partner])
        )
        return torch.lerp(other, each, self.left).sum()

    def correct(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Correct predictions, each label counted with its weight, summed over the clips, ()."""
        found = logits.argmax(dim=1)
        return torch.lerp((found == labels[self.partner]).float(), (found == labels).float(), self.left).sum()
