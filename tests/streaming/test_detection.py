"""Options of a command become the settings of a detector, with a threshold of a known source."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kws.errors import UsageError
from kws.streaming import thresholds
from kws.streaming.counting import RULES
from kws.streaming.detection import DetectionOptions, detection
from kws.streaming.events import PRESETS
from kws.streaming.thresholds import ThresholdFile

NETWORK = {"name": "net", "checkpoint": "step-00000010", "scorer": "window"}
WORDS = ["yes", "happy"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with stored thresholds, chosen for one false accept in two hours."""
    kept = dataclasses.asdict(PRESETS["kws"])
    del kept["threshold"]
    stored = ThresholdFile(
        network=NETWORK, settings=kept, rules=RULES["kws"], words=tuple(WORDS), recordings={"valid.flac": "ab"},
        hours=2.0, spoken=10, staircase=((0, 0.9, 5), (1, 0.8, 3), (20, 0.6, 1)), per_hour=0.5,
    )  # fmt: skip
    thresholds.save(tmp_path / thresholds.FILE, stored)
    return tmp_path


@pytest.mark.parametrize(("options", "wanted"), [
    (DetectionOptions(), 0.8), (DetectionOptions(per_hour=0.1), 0.9), (DetectionOptions(per_hour=10), 0.6),
    (DetectionOptions(threshold="0.7"), 0.7),
    (DetectionOptions(threshold="yes=0.7,happy=0.6"), {"yes": 0.7, "happy": 0.6}),
])  # fmt: skip
def test_the_threshold_is_the_given_or_the_stored_one(run: Path, options: DetectionOptions, wanted: object) -> None:
    found = detection(run, options, NETWORK, WORDS)
    assert found.settings.threshold == wanted
    assert (found.stored is None) == bool(options.threshold)
    assert "valid.flac" in found.source or options.threshold


def test_without_stored_thresholds_the_default_is_used_and_said(run: Path, tmp_path: Path) -> None:
    found = detection(tmp_path / "other", DetectionOptions(), NETWORK, WORDS)
    assert found.settings.threshold == 0.5
    assert "--at" in found.source
    with pytest.raises(UsageError, match="--truth"):
        detection(tmp_path / "other", DetectionOptions(per_hour=1), NETWORK, WORDS)


@pytest.mark.parametrize(("network", "options"), [
    ({**NETWORK, "checkpoint": "step-00000020"}, DetectionOptions()), (NETWORK, DetectionOptions(smooth_ms=100)),
    (NETWORK, DetectionOptions(preset="openwakeword")),
])  # fmt: skip
def test_thresholds_of_another_network_or_smoothing_are_not_used(
    run: Path, network: dict[str, str], options: DetectionOptions
) -> None:
    found = detection(run, options, network, WORDS)
    assert (found.stored, found.settings.threshold) == (None, 0.5)
    assert any(name in found.source for name in ("checkpoint", "smooth_ms"))
    with pytest.raises(UsageError, match=r"--at 1.*(checkpoint|smooth_ms)"):
        detection(run, dataclasses.replace(options, per_hour=1.0), network, WORDS)


def test_a_preset_brings_its_smoothing_and_its_counting(run: Path) -> None:
    found = detection(run, DetectionOptions(preset="esphome", refractory_ms=20), NETWORK, WORDS)
    assert found.settings == dataclasses.replace(PRESETS["esphome"], refractory_ms=20)
    assert found.rules == RULES["esphome"]


@pytest.mark.parametrize(("options", "says"), [
    (DetectionOptions(preset="esphom"), "did you mean esphome"),
    (DetectionOptions(threshold="high"), "--threshold high"),
    (DetectionOptions(threshold="2"), "threshold"),
    (DetectionOptions(threshold="yes=0.5,hapy=1"), "did you mean happy"),
    (DetectionOptions(threshold="yes=0.5"), "happy"), (DetectionOptions(smooth_ms=-1), "smooth_ms"),
])  # fmt: skip
def test_mistakes_are_named(run: Path, options: DetectionOptions, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        detection(run, options, NETWORK, WORDS)
