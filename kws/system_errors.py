"""Errors of the operating system as one line: what refused, and what to type.

    OSError, MemoryError, torch's errors of memory -> text, or None for a failure of kws itself

Recognises torch's errors by their text, because this module, like everything below it, does not import torch.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path

_AGAIN = "then run the same command again"
_MANY_FILES = 65_536
_LESS_MEMORY = (
    "use a smaller --set train.micro_batch=... in a new --run (train.global_batch can stay), or "
    "--set train.gradient_checkpointing=true, which a run may also resume with"
)
_LESS_GPU_MEMORY = (
    f"{_LESS_MEMORY}, or --set train.precision=bf16 in a new --run; kws evaluate and predict, whose batches are fixed, "
    "run on the CPU with CUDA_VISIBLE_DEVICES= before the command; or end other programs on the GPU (nvidia-smi)"
)
_GPU_MEMORY_TEXTS = re.compile(
    r"(CUDA|HIP) (error: )?out of memory|(CUBLAS|CUDNN|CUSOLVER|CUFFT)_(STATUS_)?ALLOC_FAILED|"
    r"Cuda failure.*out of memory"
)
_MEMORY_TEXTS = re.compile(
    rf"{_GPU_MEMORY_TEXTS.pattern}|can't allocate memory|out of memory|Unable to allocate|[Cc]annot allocate memory"
)


def system_message(error: BaseException) -> str | None:
    """The line for an error that the state of the machine explains; None for any other error."""
    if isinstance(error, OSError):
        reason = refusal(error)
        return None if reason is None else f"{error.filename or 'a file'}: {reason}, {_AGAIN}"
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY_TEXTS.search(text)):
        return _memory_message(text)
    return None


def refusal(error: OSError) -> str | None:
    """What the system refused, and what to type; without the file's name. None where the error explains nothing."""
    fix = advice(error)
    return f"{error.strerror}; {fix}" if fix else None


def advice(error: OSError) -> str:
    """What to type where the system refused; "" where nothing is known about it."""
    name, path = errno.errorcode.get(error.errno or 0, ""), error.filename
    if name in ("EACCES", "EPERM"):
        return _permission(path)
    if name == "EMFILE":
        return _open_files_advice()
    if name in ("ENOSPC", "EDQUOT", "EROFS"):
        return _disk(name, path)
    return _ADVICE.get(name, "")


_BROKEN = "the disk or the file server failed: check it (dmesg, df), or copy the file to another disk"
_ADVICE = {
    "ENFILE": "this machine has too many open files: end other programs or raise fs.file-max",
    "ENOMEM": "memory is short: end other programs or use fewer processes",
    "EAGAIN": "no more processes or threads may be started: end others, or raise ulimit -u",
    "ENAMETOOLONG": "shorten the name",
    "EIO": _BROKEN,
    "EREMOTEIO": _BROKEN,
    "ENXIO": _BROKEN,
    "ENODEV": _BROKEN,
    "ESTALE": "the file server has another file there now: check the mount",
    "ETIMEDOUT": "the file server does not answer: check the mount",
    "EHOSTDOWN": "the file server does not answer: check the mount",
    "ENOTCONN": "the file server is not connected: mount it again",
    "EFBIG": "the file system or ulimit -f allows no larger file: use another folder or ulimit -f unlimited",
    "ELOOP": "a link leads to itself: fix or remove it",
    "ETXTBSY": "a program uses the file: end it",
}


def _permission(path: object) -> str:
    """Who may use the file, and what to type."""
    if not isinstance(path, str | bytes | os.PathLike):
        return "fix the permissions (chmod, chown)"
    blocking, wanted = _blocked_at(Path(os.fsdecode(path)))
    if not wanted:
        return f"{blocking} may be used by its mode, so look at what else forbids it (ls -lZ, mount, root on NFS)"
    try:
        found = blocking.stat()
    except OSError:
        return f"fix the permissions of {blocking}"
    mode = f"belongs to user {_user_name(found.st_uid)} and has mode {found.st_mode & 0o7777:04o}"
    return f"{blocking} {mode}, and this is user {_user_name(os.geteuid())}: chmod u+{wanted} {blocking}, or chown it"


def _blocked_at(path: Path) -> tuple[Path, str]:
    """The file, or the folder above it that forbids its use, and the letters of the missing rights ("": none is)."""
    for folder in reversed(path.absolute().parents):
        if not os.access(folder, os.X_OK):
            return folder, "x"
    if not os.path.lexists(path):
        above = next(folder for folder in path.absolute().parents if folder.exists())
        return above, "" if os.access(above, os.W_OK) else "wx"
    if not os.access(path, os.R_OK):
        return path, "rx" if path.is_dir() else "r"
    if not os.access(path, os.W_OK):
        return path, "wx" if path.is_dir() else "w"
    return path, ""


def _user_name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _open_files_advice() -> str:
    """What to type where a process may not open more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(_MANY_FILES, hard)
    more = f"raise it: ulimit -n {most}" if most > soft else "ask the administrator to raise it (nofile)"
    return f"one process may have {soft} files open (ulimit -n): {more}"


def _disk(name: str, path: object) -> str:
    if name == "EROFS":
        return "it is mounted read-only: use another folder or mount it writable"
    if name == "EDQUOT":
        return "this user's quota is used up, though the disk may have room (quota -s): remove files of your own"
    if not isinstance(path, str | bytes | os.PathLike) or path in ("stdout", "stderr"):
        return "free some space"
    place = Path(os.fsdecode(path)).absolute()
    elsewhere = "; for temporary files: TMPDIR=DIR" if place.is_relative_to(tempfile.gettempdir()) else ""
    return f"free some space ({_free(place)}{elsewhere})"


def _free(path: Path) -> str:
    """What is left on the disk of a path; inodes too, which many small files use up."""
    here = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    try:
        space, files = shutil.disk_usage(here), os.statvfs(here)
    except OSError:
        return f"df {here} shows it"
    if files.f_files and not files.f_favail:
        return f"{space.free / 1e6:,.0f} MB left, but no more files are allowed there: df -i {here}"
    return f"{space.free / 1e6:,.0f} MB left: df {here}"


def _memory_message(detail: str) -> str:
    """The line for memory that could not be allocated, on the host or on a GPU."""
    first = detail.strip().splitlines()[0] if detail.strip() else "no more memory"
    first = first.partition(" Of the allocated memory")[0][:300]  # what follows is advice on fragmentation
    if _GPU_MEMORY_TEXTS.search(detail):
        return f"the GPU is out of memory ({first}); {_LESS_GPU_MEMORY}"
    return f"out of memory ({first}); {_LESS_MEMORY}; or end other programs"
