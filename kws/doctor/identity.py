"""Which rank this process is, and where it meets rank 0: from the variables of srun, torchrun and accelerate launch."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket

from kws.distributed import slurm
from kws.errors import UsageError

_FIRST_PORT, _PORTS, _LAST_PORT = 1, 4, 65_535


@dataclasses.dataclass(frozen=True)
class Identity:
    """This process as rank `rank` of `world_size`. address, port: where the ranks of a training would meet."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    host: str = dataclasses.field(default_factory=socket.gethostname)
    address: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def from_environment(cls) -> Identity:
        """As a training would find it. Raises UsageError where a variable is not a number."""
        slurm.adopt_srun_step()
        return cls(
            rank=_number("RANK", 0),
            world_size=_number("WORLD_SIZE", 1),
            local_rank=_number("LOCAL_RANK", 0),
            address=os.environ.get("MASTER_ADDR", "127.0.0.1"),
            port=_number("MASTER_PORT", 29_500),
        )

    @property
    def ports(self) -> list[int]:
        """Ports on which rank 0 may listen: those after MASTER_PORT, which a launcher or torch itself uses."""
        first = self.port + _FIRST_PORT if self.port + _FIRST_PORT + _PORTS <= _LAST_PORT else self.port - _PORTS
        return list(range(first, first + _PORTS))

    @property
    def token(self) -> str:
        """Equal on the ranks of one start, so that two starts on one machine do not mix."""
        job = [os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID")]
        return hashlib.sha256(repr([self.address, self.port, self.world_size, job]).encode()).hexdigest()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise UsageError(f"{name}: {text!r} in the environment; wanted a number, as launchers set it") from None
