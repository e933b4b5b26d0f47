"""What the tests of training/ share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


class OneProcess:
    """Stands in for accelerate's Accelerator where there is one process."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    @contextlib.contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        yield
