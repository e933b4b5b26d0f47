"""Commands of a user whom permissions bind: root, as in many containers, may read everything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from tests.conftest import require


def bound_by_permissions(command: Sequence[str]) -> list[str]:
    """The command as this user, but without root's right to ignore permissions."""
    if os.geteuid() != 0:
        return list(command)
    require("setpriv", shutil.which("setpriv") is not None, "root ignores permissions, and setpriv is not installed")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
