"""Published accuracies, shown beside those of a run on the same task.

A task is identified by its name (shards/tasks) and by the number of test clips that it has on the official corpus.
"""

from __future__ import annotations

from typing import NamedTuple

_COURSE = "2024 course report, 12-label map of v0.01's whole test list"
TEST_CLIPS = {"v2-12": 4890, "v2-35": 11005, "v1-12-full": 6835}
"""Number of test clips on the official corpus, of the tasks with published accuracies."""


class Published(NamedTuple):
    """A network's accuracy in percent, its accuracy with crops, and the source."""

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
PUBLISHED = {
    **{(name, "v1-12-full"): Published(*pair, _COURSE) for name, pair in _COURSE_FIGURES.items()},
    ("bcresnet_1", "v2-12"): Published(96.9, None, "arXiv 2106.04140, 12 words of v0.02"),
    ("bcresnet_8", "v2-12"): Published(98.7, None, "arXiv 2106.04140, 12 words of v0.02"),
    ("matchboxnet_3x2x64", "v2-35"): Published(97.3, None, "arXiv 2004.08531, 35 words of v0.02"),
}


def published_accuracy(network: str, task: str, clips: int) -> Published | None:
    """The published accuracy of a network on a task; None where there is none, or the test has other clips."""
    return PUBLISHED.get((network, task)) if TEST_CLIPS.get(task) == clips else None
