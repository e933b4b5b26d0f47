"""What a check is, what it gets, and what it returns. Free of torch, so that the runner starts at once."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
"""The project's tree."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """What a check gets.

    device: "cuda" or "cpu". quick: sizes for a self-test on two cores. out: folder of the whole acceptance run. data: a
    packed corpus of real clips, if one was given. deadline: time.monotonic() at which the check is ended.
    """

    device: str
    quick: bool
    out: Path
    data: Path | None
    deadline: float

    @property
    def on_gpu(self) -> bool:
        """Whether the check runs on a GPU; on a CPU speed is not judged."""
        return self.device == "cuda"

    @property
    def corpora(self) -> Path:
        """Folder of the corpora that check 0 makes."""
        return self.out / "corpora"

    @property
    def seconds_left(self) -> float:
        """Seconds until this check is ended."""
        return self.deadline - time.monotonic()

    def sized(self, full: int, quick: int) -> int:
        """`full`, or `quick` in the self-test."""
        return quick if self.quick else full


class Skip(Exception):  # noqa: N818  # not an error
    """Raised by a check that cannot run here; the text is the reason."""


@dataclasses.dataclass
class Finding:
    """What a check found: parts of a sentence, faults (each one fails the check), and figures for the JSON row."""

    parts: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, text: str, **figures: Any) -> None:
        """Adds something found, and prints it: a check that is killed has shown it."""
        print(text, flush=True)
        self.parts.append(text)
        self.figures |= figures

    def expect(self, condition: bool, fault: str) -> None:
        """Fails the check where the condition does not hold."""
        if not condition:
            print(f"fault: {fault}", flush=True)
            self.faults.append(fault)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the check whose failure must not hide the other parts."""
        try:
            yield
        except Skip as skip:
            self.add(f"{name}: skipped, {skip}")
        except Exception as error:  # noqa: BLE001  # any failure is a result here
            traceback.print_exc()
            self.expect(False, f"{name}: {type(error).__name__}: {last_line(str(error))}")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    function: MODULE:FUNCTION in this folder, called with a Context; a name, so that a module that cannot be imported
    fails its own check only. limit_s: the process is killed after this long. alone: it measures speed, so that nothing
    else runs beside it.
    """

    number: int
    name: str
    expected: str
    function: str
    limit_s: int
    alone: bool = False


def row_of(check: Check, verdict: str, found: str, seconds: float, figures: dict[str, Any]) -> dict[str, Any]:
    """The row of a check, as it is printed and written."""
    return {
        "number": check.number, "name": check.name, "expected": check.expected, "found": found, "verdict": verdict,
        "seconds": round(seconds, 1), "figures": figures,
    }  # fmt: skip


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
