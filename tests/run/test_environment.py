from typing import Any

import pytest

from kws.run.environment import environment_notes


def described(*gpus: str, torch: str = "2.13.0", cpu: str = "EPYC", cudnn: int = 9) -> dict[str, Any]:
    """The parts of run.json that the bits of a run depend on; `gpus`: those of ranks 0, 1, ..."""
    hardware: dict[str, Any] = {"cpu": cpu, "cores": 2, "host": "node1"}
    devices = [f"cuda:{number} {gpu}" for number, gpu in enumerate(gpus)] or ["cpu"]
    if gpus:
        hardware |= {"gpu": gpus[0], "cuda": "13.0", "cudnn": cudnn}
    return {"hardware": hardware, "versions": {"torch": torch}, "ranks": [{"device": device} for device in devices]}


def test_the_same_machine_is_not_noted() -> None:
    assert environment_notes(described(), described(), deterministic=False) == []
    assert environment_notes(described("H100"), described("H100", cpu="Xeon"), deterministic=True) == []


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        (described("A100"), described("H100"), ("A100", "H100")),
        (described("H100", cudnn=9), described("H100", cudnn=10), ("cuDNN", "10")),
        (described(), described("H100"), ("EPYC", "H100")),
        (described("H100"), described(), ("H100", "EPYC")),
        (described(), described(cpu="Xeon"), ("EPYC", "Xeon")),
        (described("H100", "H100"), described("H100", "A100"), ("H100 before", "A100")),
        (described(), described(torch="2.14.0"), ("torch", "2.14.0")),
    ],
)
def test_what_changes_the_bits_is_named(before: dict[str, Any], now: dict[str, Any], named: tuple[str, str]) -> None:
    note = environment_notes(before, now, deterministic=True)[-1]
    assert all(part in note for part in named)


def test_where_no_bits_are_promised_nothing_is_noted() -> None:
    assert environment_notes(described("A100"), described("H100"), deterministic=False) == []
    assert environment_notes({}, described(), deterministic=True) == []  # a new run


def test_gpus_of_several_models_are_noted_where_bits_are_promised() -> None:
    mixed = described("A100", "H100")
    (note,) = environment_notes(mixed, mixed, deterministic=True)
    assert "A100, H100" in note
    assert environment_notes({}, mixed, deterministic=True) == [note]
    assert environment_notes({}, mixed, deterministic=False) == []
