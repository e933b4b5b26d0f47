from typing import Any

import pytest

from kws.run.environment import environment_notes


def described(
    gpu: str | None = None, torch_version: str = "2.13.0", cpu: str = "EPYC", cudnn: int = 9
) -> dict[str, Any]:
    """The parts of run.json that the bits of a run depend on."""
    hardware: dict[str, Any] = {"cpu": cpu, "cores": 2, "host": "node1"}
    if gpu:
        hardware |= {"gpu": gpu, "cuda": "13.0", "cudnn": cudnn}
    return {"hardware": hardware, "versions": {"torch": torch_version}}


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
        (described(), described(torch_version="2.14.0"), ("torch", "2.14.0")),
    ],
)
def test_what_changes_the_bits_is_named(before: dict[str, Any], now: dict[str, Any], named: tuple[str, str]) -> None:
    (note,) = environment_notes(before, now, deterministic=True)
    assert all(part in note for part in named)


def test_where_no_bits_are_promised_nothing_is_noted() -> None:
    assert environment_notes(described("A100"), described("H100"), deterministic=False) == []
    assert environment_notes({}, described(), deterministic=True) == []  # a run.json of before hardware was recorded
