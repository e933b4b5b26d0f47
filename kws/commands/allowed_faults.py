"""`--allow-faults`: how many recordings a packing may leave out and still end with exit code 0, for scripts."""

from __future__ import annotations

import dataclasses
import math

from kws.commands.terminal import FAILED, OK
from kws.errors import UsageError


@dataclasses.dataclass(frozen=True)
class AllowedFaults:
    """A number of recordings, or with `percent` a percentage of all of them."""

    most: float = 0.0
    percent: bool = False

    @classmethod
    def parse(cls, text: str | None) -> AllowedFaults:
        """5 -> 5 recordings; 0.5% -> half a percent. Raises UsageError for anything else."""
        if text is None:
            return cls()
        digits, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
        try:
            most = float(digits) if percent else int(digits)
        except ValueError:
            most = -1
        if not (math.isfinite(most) and 0 <= most <= (100 if percent else math.inf)):
            raise UsageError(f"--allow-faults {text}: wanted a number of recordings, or a percentage such as 1%")
        return cls(most, percent)

    def exit_code(self, faults: int, packed: int) -> int:
        """OK where so many faults beside so many packed clips are allowed, else FAILED."""
        limit = self.most / 100.0 * (faults + packed) if self.percent else self.most
        return OK if faults <= limit else FAILED

    def line(self, faults: int, packed: int) -> str:
        """The lines printed below the faults."""
        if self.exit_code(faults, packed) == OK:
            return f"{faults} left out, which --allow-faults allows: exit code 0"
        return f"{faults} left out: exit code 1; --allow-faults {faults} ends with 0 for as many"


NONE_ALLOWED = AllowedFaults()
