"""Rows of the table: what was checked, found and wanted, what to do, and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

Verdict = Literal["ok", "warning", "problem", "not checked"]
SITE = "slurm/site.sh"
"""The settings of a site, which advice names."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One row. `ranks`: those that a warning or a problem concerns; () where it concerns all, or none."""

    check: str
    verdict: Verdict
    found: str
    wanted: str = ""
    advice: str = ""
    ranks: tuple[int, ...] = ()


def ok(check: str, found: str, wanted: str = "") -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", found, wanted)


def not_checked(check: str, why: str, advice: str = "") -> Finding:
    """Could not be checked, and why."""
    return Finding(check, "not checked", why, advice=advice)


def warning(check: str, found: str, wanted: str, advice: str, ranks: Iterable[int] = ()) -> Finding:
    """Training works, but slower or with less certainty."""
    return Finding(check, "warning", found, wanted, advice, tuple(sorted(ranks)))


def problem(check: str, found: str, wanted: str, advice: str, ranks: Iterable[int] = ()) -> Finding:
    """A training would fail, or go wrong."""
    return Finding(check, "problem", found, wanted, advice, tuple(sorted(ranks)))


def size_text(count: float) -> str:
    """1,234,567 -> "1.23 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000.0:
            return f"{count:.3g} {unit}"
        count /= 1000.0
    return f"{count:.3g} TB"


def seconds_text(seconds: float) -> str:
    """0.00123 -> "1.2 ms"."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.2g} us" if seconds < 1e-4 else f"{1e3 * seconds:.2g} ms"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"
