"""What others reported, to stand beside one's own figures: only where the task is the same.

A task is known by its name (shards/tasks), and tried on the official corpus where its test has the official size.
"""

from __future__ import annotations

from typing import NamedTuple

_COURSE = "2024 course report, 12-label map of v0.01's whole test list"
TEST_CLIPS = {"v2-12": 4890, "v2-35": 11005, "v1-12-full": 6835}
"""Of the tasks for which figures are known, on the official corpus."""


class Published(NamedTuple):
    """A network's accuracy in percent, `crop` that with crops, and who reported it."""

    accuracy: float
    crop: float | None
    source: str


_COURSE_FIGURES = {
    "vgg19_bn": (97.337, 97.527),
    "resnet32": (96.181, 96.196),
    "wrn_28_10": (97.937, 97.922),
    "wrn_28_10_dropout": (97.703, 97.718),
    "wrn_52_10": (98.040, 97.981),
    "resnext29_8x64": (97.191, 97.162),
    "dpn92": (97.191, 97.249),
    "densenet_bc_100_12": (97.162, 97.147),
    "densenet_bc_190_40": (97.118, 97.147),
}
_FIGURES = {
    **{(name, "v1-12-full"): Published(*pair, _COURSE) for name, pair in _COURSE_FIGURES.items()},
    ("bcresnet_1", "v2-12"): Published(96.9, None, "arXiv 2106.04140, 12 words of v0.02"),
    ("bcresnet_8", "v2-12"): Published(98.7, None, "arXiv 2106.04140, 12 words of v0.02"),
    ("matchboxnet_3x2x64", "v2-35"): Published(97.3, None, "arXiv 2004.08531, 35 words of v0.02"),
}


def figure(network: str, task: str, clips: int) -> Published | None:
    """What was reported of this network on the test of that task, if anything was, and this one has as many clips."""
    return _FIGURES.get((network, task)) if TEST_CLIPS.get(task) == clips else None
