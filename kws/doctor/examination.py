"""The whole examination: every rank carries out the stages, rank 0 collects the answers and makes the table's rows.

    connect -> clocks -> machine -> marker, folders -> shards -> training (process group, all-reduce, slots) -> findings

Each stage has the limit of a check, so the examination ends after a few of these limits, whatever fails.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

from kws.doctor import cluster_findings, software_findings, speed_findings
from kws.doctor.answers import Answers
from kws.doctor.findings import Finding, problem
from kws.doctor.gathering import Leader, follow
from kws.doctor.identity import Identity
from kws.doctor.rank_checks import TRAINING_LIMITS, Examined, RankChecks
from kws.errors import StoppedError

Show = Callable[[str], object]
"""Receives what is being checked."""
_SILENT_LIMITS = TRAINING_LIMITS + 1
"""Rank 0 may be silent for so many times the limit of a check."""


def examine(examined: Examined, identity: Identity, show: Show) -> Answers | None:
    """The answers of all ranks on rank 0; None on the others. Raises RankError where rank 0 cannot be reached."""
    checks = RankChecks(examined, identity)
    try:
        if identity.rank:
            follow(identity, checks.stages, examined.limit_s, _SILENT_LIMITS * examined.limit_s)
            return None
        return _Examination(examined, identity, checks, show).run()
    finally:
        checks.close()


class _Examination:
    """The examination as rank 0 leads it."""

    def __init__(self, examined: Examined, identity: Identity, checks: RankChecks, show: Show) -> None:
        self._examined, self._checks, self._show = examined, checks, show
        self._leader = Leader(identity)
        self._answers = Answers(
            world_size=identity.world_size, config=examined.config, run=examined.run,
            hosts=self._leader.hosts, lost=self._leader.lost,
        )  # fmt: skip

    def run(self) -> Answers:
        """All stages; on SIGTERM, which a launcher sends where another rank has failed, those that were done."""
        limit_s, leader = self._examined.limit_s, self._leader
        try:
            leader.wait_for_ranks(limit_s, lambda found, all_: self._show(f"{found} of {all_} processes"))
            self._answers.clocks = leader.clock_offsets()
            self._answers.machine = self._stage("machine", {}, limit_s + 1.0)
            self._folders()
            self._answers.shards = self._stage("shards", {"writers": self._first_of_hosts()}, 2 * limit_s)
            self._training()
        except StoppedError as error:
            self._answers.stopped = str(error)
        finally:
            leader.close()
        return self._answers

    def _stage(self, name: str, task: dict[str, Any], limit_s: float) -> dict[int, dict[str, Any]]:
        self._show(name)
        return self._leader.run_stage(name, task, self._checks.stages[name], limit_s)

    def _first_of_hosts(self) -> list[int]:
        hosts = self._leader.hosts
        return sorted({hosts[rank]: rank for rank in reversed(self._leader.present)}.values())

    def _folders(self) -> None:
        token = secrets.token_hex(8)
        self._answers.marker = mark = self._checks.mark(token)
        folder = mark.get("folder", "")
        limit_s = 2 * self._examined.limit_s
        answered: list[int] = []
        try:
            self._answers.folders = self._stage("folders", {"folder": folder, "token": token}, limit_s)
            answered = list(self._answers.folders)
        finally:  # also after Ctrl-C, so that the marker is removed
            if folder:
                self._answers.collected = self._checks.collect(folder, token, answered)

    def _training(self) -> None:
        """Only with all ranks: joining a process group waits for each of them."""
        answers = self._answers
        without_torch = [rank for rank, found in answers.machine.items() if "error" in found["torch"]]
        if self._leader.lost or without_torch:
            return
        answers.training = self._stage("training", {}, TRAINING_LIMITS * self._examined.limit_s)


def findings(answers: Answers) -> list[Finding]:
    """All rows, in the order of the checks."""
    rows = cluster_findings.rank_rows(answers)
    rows += software_findings.rows(answers)
    rows += cluster_findings.folder_rows(answers)
    rows += speed_findings.rows(answers)
    if answers.stopped:
        rows.append(
            problem("examination", answers.stopped, "all checks", "see what the launcher and other ranks print")
        )
    return rows


def as_json(answers: Answers) -> dict[str, Any]:
    """All answers, for programs."""
    found = dataclasses.asdict(dataclasses.replace(answers, config=None))
    del found["config"]
    return found | {"run": str(answers.run)}
