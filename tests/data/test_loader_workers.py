"""Loader workers without room in /dev/shm, without descriptors, and killed ones: the training ends with a line."""

from __future__ import annotations

import gc
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kws.data import loader_workers
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.plan import Slot
from kws.data.reader import Reader
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.errors import UsageError, user_message
from tests.conftest import require, tiny_settings

FILLING = "(sleep 6; while :; do head -c 9000000 /dev/zero > /dev/shm/other; sleep 0.05; done) & "
"""Another program that uses all of /dev/shm."""


def slots(count: int) -> list[Slot]:
    """Slots of 8 clips each."""
    return [Slot(step, 0, np.arange(8) + 8 * step, np.arange(8) + 8 * (step % 4)) for step in range(count)]


def batches(index: Index, count: int) -> Iterator[Batch]:
    reader = SlotReader(Reader(index, "train"), [0] * len(index.words), Excerpt(16000))
    return stream_batches(lambda: slots(count), reader, workers=1)


def children() -> list[int]:
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def message_after_a_kill(index: Index) -> str:
    """The message of a training whose loader worker was killed. torch raises it from a signal handler, at any line."""
    before = set(children())
    stream = batches(index, 1000)
    next(stream)
    (worker,) = set(children()) - before
    try:
        os.kill(worker, signal.SIGKILL)
        list(stream)
    except (UsageError, RuntimeError) as error:
        return user_message(error) or str(error)
    raise AssertionError("the worker was killed")


def test_a_killed_worker_is_an_error_that_names_memory(tones: Index) -> None:
    message = message_after_a_kill(tones)
    gc.collect()  # the loader, with what torch knows of the dead worker
    assert re.search(r"memory.*data\.workers", message)


def test_batches_that_do_not_fit_are_refused_with_the_numbers() -> None:
    free = shutil.disk_usage("/dev/shm").free
    loader_workers.require_shared_memory(2, 4, 1000)
    with pytest.raises(UsageError, match=r"MB free.*--shm-size=.*data\.workers=0"):
        loader_workers.require_shared_memory(2, 4, free // 9)


def test_a_worker_without_descriptors_is_an_error_that_names_the_limit(tones: Index) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    stream = batches(tones, 1000)
    next(stream)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    try:
        with pytest.raises(UsageError, match=r"ulimit -n.*data\.workers"):
            list(stream)  # a list keeps the batches, and each of them has descriptors of shared memory
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.multiproc
@pytest.mark.parametrize("megabytes", [1, 4])
def test_a_training_in_a_small_dev_shm_ends_with_the_line_that_helps(
    megabytes: int, tones: Index, tmp_path: Path
) -> None:
    """As in a container. 1 MB is refused before the start; of 4 MB, another program takes most while it runs."""
    require("root", os.geteuid() == 0 and shutil.which("unshare") is not None, "only root can mount another /dev/shm")
    (tmp_path / "tiny.toml").write_text(tiny_settings(tones.root, epochs=500, global_batch=32))
    train = f"{sys.executable} -m kws train {tmp_path}/tiny.toml --run {tmp_path}/run --set data.workers=2"
    fill = "" if megabytes == 1 else FILLING
    line = f"mount -t tmpfs -o size={megabytes}m none /dev/shm && {{ {fill}{train}; code=$?; kill $! ; exit $code; }}"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", line],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "--shm-size" in done.stderr
    assert "Traceback" not in done.stderr
