"""The stages that each rank carries out at the request of rank 0. Whatever may hang is done in child processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from kws.config import Config
from kws.doctor import local_facts
from kws.doctor.child_process import Answer, Child, ChildError, ask_once
from kws.doctor.gathering import Stages
from kws.doctor.identity import Identity

_STEP_LIMITS = 3
"""The first slot may compile, so a step may take so many times the limit of a check."""
TRAINING_LIMITS = 2 + _STEP_LIMITS
"""How many times that limit the last stage may take."""
_FOLDER, _SHARDS, _TORCH = "kws.doctor.folder_probe", "kws.doctor.shard_probe", "kws.doctor.torch_probe"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examined:
    """What the command examines. `config`: the settings, None without CONFIG; path, overrides: where they
    came from. run: the run folder."""

    run: Path
    config: Config | None = None
    path: Path | None = None
    overrides: tuple[str, ...] = ()
    limit_s: float = 60.0
    """Longest time of one check."""


class RankChecks:
    """The stages of this rank. torch is imported from the beginning on, in a child process."""

    def __init__(self, examined: Examined, identity: Identity) -> None:
        self._examined, self._identity, self._limit_s = examined, identity, examined.limit_s
        task = {
            "config": str(examined.path) if examined.path else None,
            "overrides": list(examined.overrides),
            "run": str(examined.run),
            "device": examined.config.train.device if examined.config else "auto",
        }
        self._torch: Child | None = Child(_TORCH, task)

    @property
    def stages(self) -> Stages:
        """By name, in the order of an examination."""
        return {
            "machine": self.machine, "folders": self.folders, "shards": self.shards, "training": self.training
        }  # fmt: skip

    def close(self) -> None:
        """Ends the child process."""
        if self._torch:
            self._torch.end()
            self._torch = None

    def machine(self, _: Answer) -> Answer:
        """Versions, limits, GPUs; whether the names of this host and of rank 0's are known here."""
        names = [self._identity.host, *([self._identity.address] if self._identity.world_size > 1 else [])]
        return {
            **local_facts.describe(self._identity),
            "addresses": local_facts.resolve(names, min(15.0, self._limit_s)),
            "run": str(self._examined.run.absolute()),
            "torch": self._torch_answer(),
        }

    def folders(self, task: Answer) -> Answer:
        """Whether this rank sees rank 0's marker (task: its "folder" and "token"; folder "": it made none), and how
        rank 0 writes the run folder."""
        answer: dict[str, Any] = {}
        if task["folder"] and self._examined.run.absolute().is_relative_to(task["folder"]):
            look = {"do": "look", "folder": task["folder"], "token": task["token"], "rank": self._identity.rank}
            answer["look"] = ask_once(_FOLDER, look, self._limit_s)
        if self._identity.rank == 0 and task["folder"]:
            write = {"do": "write", "folder": str(self._examined.run)}
            answer["write"] = ask_once(_FOLDER, write, self._limit_s)
        return answer

    def shards(self, task: Answer) -> Answer:
        """How fast this rank reads shards, and the first rank of each host (task["writers"]) writes its cache."""
        if self._examined.config is None:
            return {}
        if not self._examined.config.data.shards:
            return {"read": {"error": "data.shards: not set; use --set data.shards=DIR, a folder made by kws pack"}}
        data, rank = self._examined.config.data, self._identity.rank
        read = {"shards": data.shards, "rank": rank, "world_size": self._identity.world_size}
        answer = {"read": ask_once(_SHARDS, read, self._limit_s)}
        if rank in task["writers"] and "error" not in answer["read"]:
            cache = {"do": "cache", "shards": data.shards, "cache_dir": data.cache_dir, "cache_gb": data.cache_gb}
            answer["cache"] = ask_once(_FOLDER, cache, self._limit_s)
        return answer

    def training(self, _: Answer) -> Answer:
        """Process group, all-reduce, and with a config a few slots: as many of these answers as there are."""
        answer: dict[str, Any] = {}
        wanted = ["group", "all_reduce", *(["step"] if self._examined.path else [])]
        if self._torch:
            self._torch.send({"go": True})
        for name in wanted:
            found = self._torch_answer(_STEP_LIMITS if name == "step" else 1)
            if "error" in found:
                return answer | {name: found}
            answer |= found
        return answer

    def mark(self, token: str) -> Answer:
        """Rank 0: makes the marker that the other ranks look for."""
        return ask_once(_FOLDER, {"do": "mark", "folder": str(self._examined.run), "token": token}, self._limit_s)

    def collect(self, folder: str, token: str, ranks: list[int]) -> Answer:
        """Rank 0: the ranks whose files it sees beside the marker, which is removed."""
        return ask_once(_FOLDER, {"do": "collect", "folder": folder, "token": token, "ranks": ranks}, self._limit_s)

    def _torch_answer(self, limits: int = 1) -> Answer:
        if self._torch is None:
            return {"error": "torch did not work before"}
        try:
            return self._torch.answer(limits * self._limit_s)
        except ChildError as error:
            self._torch = None
            return {"error": str(error)}
