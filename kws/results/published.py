"""What others reported, to stand beside one's own figures: only where the task is the same.

A task is known by its classes and by the size of its official test list, on which no other task has as many clips.
"""

from __future__ import annotations

from typing import NamedTuple

_COURSE = "2024 course report, 12-label map of v0.01's whole test list"
_WORDS12, _WORDS35 = (frozenset({12}), 4890), (frozenset({35}), 11005)
_COURSE12 = (frozenset({11, 12}), 6835)
"""Classes and test clips. Without silence the 12-label map leaves 11."""


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
    **{(name, _COURSE12): Published(*pair, _COURSE) for name, pair in _COURSE_FIGURES.items()},
    ("bcresnet_1", _WORDS12): Published(96.9, None, "arXiv 2106.04140, 12 words of v0.02"),
    ("bcresnet_8", _WORDS12): Published(98.7, None, "arXiv 2106.04140, 12 words of v0.02"),
    ("matchboxnet_3x2x64", _WORDS35): Published(97.3, None, "arXiv 2004.08531, 35 words of v0.02"),
}


def figure(network: str, classes: int, clips: int) -> Published | None:
    """What was reported of this network on a test of so many classes and clips, if anything was."""
    for (name, (counts, size)), found in _FIGURES.items():
        if name == network and size == clips and classes in counts:
            return found
    return None
