"""What the machine refuses is blamed on what refused, with what to type: permissions, limits, disks, memory."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.errors import UsageError, unreadable, user_message
from tests.privileges import bound_by_permissions


def refused(number: int, path: object = "/nowhere/file") -> str:
    """The line for an OSError of this number."""
    line = user_message(OSError(number, os.strerror(number), path))
    assert line is not None
    return line


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max"), (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"), (errno.ENOSPC, "MB left"), (errno.ESTALE, "mount"), (errno.ENAMETOOLONG, "shorten"),
        (errno.EIO, "dmesg"), (errno.ENOMEM, "memory"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_type_and_names_the_file(number: int, wanted: str) -> None:
    assert refused(number).startswith("/nowhere/file: ")
    assert wanted in refused(number)


def test_a_failure_of_kws_itself_needs_its_traceback() -> None:
    for error in (
        OSError(errno.EINVAL, "Invalid argument"),
        OSError("no number"),
        RuntimeError("a bug"),
        KeyError("k"),
    ):
        assert user_message(error) is None


def test_full_disks_are_told_apart() -> None:
    assert "TMPDIR" in refused(errno.ENOSPC, f"{tempfile.gettempdir()}/scratch")
    assert "TMPDIR" not in refused(errno.ENOSPC, "/home/anna/run")


def test_memory_of_the_host_and_of_a_gpu_say_what_to_lower() -> None:
    with pytest.raises(RuntimeError) as host:
        torch.empty(1 << 60)
    with pytest.raises(MemoryError) as array:
        np.empty(1 << 58)
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")
    for error in (host.value, array.value, gpu, MemoryError()):
        line = user_message(error)
        assert line is not None
        assert "\n" not in line
        assert "train.micro_batch" in line


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB. Of the allocated "
        "memory 70 GiB is allocated by PyTorch. If reserved but unallocated memory is large try PYTORCH_ALLOC_CONF",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "NCCL error in: ProcessGroupNCCL.cpp:3700, unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'",
    ],
)
def test_memory_of_a_gpu_in_all_its_forms_says_what_to_lower(text: str) -> None:
    line = user_message(RuntimeError(text))
    assert line is not None
    assert "\n" not in line
    for setting in ("train.micro_batch", "train.gradient_checkpointing=true", "train.precision=bf16"):
        assert f"--set {setting}" in line
    assert "fragmentation" not in line
    assert "If reserved" not in line


def test_the_limit_of_open_files_is_the_one_of_this_process() -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert str(soft) in refused(errno.EMFILE)


_PERMISSIONS = """
import sys
from pathlib import Path
from kws.errors import user_message
for name in sys.argv[1:]:
    try:
        path = Path(name)
        list(path.iterdir()) if path.is_dir() else path.read_bytes()
    except OSError as error:
        print(user_message(error))
"""


def test_a_missing_permission_names_what_blocks_and_the_chmod_that_helps(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "inside").touch()
    (tmp_path / "file").touch(mode=0)
    (tmp_path / "list").mkdir()
    for name in ("closed", "list"):
        (tmp_path / name).chmod(0)
    paths = [str(tmp_path / name) for name in ("closed/inside", "file", "list")]
    done = subprocess.run(
        bound_by_permissions([sys.executable, "-c", _PERMISSIONS, *paths]), capture_output=True, text=True, check=True
    )
    closed, file, listed = done.stdout.splitlines()
    assert f"chmod u+x {tmp_path}/closed," in closed
    assert f"chmod u+r {tmp_path}/file," in file
    assert f"{tmp_path}/list," in listed


def test_an_input_that_cannot_be_read_is_named_with_the_reason() -> None:
    gone = unreadable(FileNotFoundError(errno.ENOENT, "No such file or directory", "a.toml"), wanted="wanted TOML")
    assert isinstance(gone, UsageError)
    assert "a.toml" in str(gone)
    assert "wanted TOML" in str(gone)
    stale = str(unreadable(OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "b.wav"))
    assert "b.wav: cannot be read" in stale
    assert "mount" in stale
