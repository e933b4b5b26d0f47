"""In a child process: a folder that a run writes to. Its type and free space, how fast it is written, and whether other
ranks see the same folder: rank 0 makes a marker in it, each rank looks for that and leaves a file beside it.

    python -m kws.doctor.folder_probe    task: {"do": "mark" | "look" | "collect" | "write" | "cache", ...}
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from kws.data import index as index_file
from kws.data.shard_fetch import ShardSource
from kws.data.store import CacheSettings
from kws.doctor.child_process import Answer, Send, answer_parent
from kws.files import nearest_existing

WRITTEN_BYTES, _BLOCK, _MOST_S = 64 << 20, 4 << 20, 3.0
_LOOK_S = 5.0
"""A network file system may show a new file to other hosts only after a few seconds."""


def marker(folder: Path, token: str) -> Path:
    """The folder that rank 0 makes for the time of the check."""
    return folder / f".kws-doctor-{token[:16]}"


def work(task: Answer, send: Send) -> None:
    """One of the tasks above."""
    do = {"mark": _mark, "look": _look, "collect": _collect, "write": _write, "cache": _write_cache}[task["do"]]
    send(do(task))


def _mark(task: Answer) -> Answer:
    """Makes the marker in the run folder, or in the nearest folder above it that exists; the run folder itself is not
    created."""
    folder = nearest_existing(Path(task["folder"]))
    if not folder.is_dir():
        return {"error": f"{folder} is a file"}
    marker(folder, task["token"]).mkdir()
    return {"folder": str(folder)}


def _look(task: Answer) -> Answer:
    """Whether this rank sees the marker, and what its file system is."""
    folder, file = Path(task["folder"]), marker(Path(task["folder"]), task["token"]) / str(task["rank"])
    deadline = time.monotonic() + _LOOK_S
    while not file.parent.is_dir() and time.monotonic() < deadline:
        time.sleep(0.2)
    sees = file.parent.is_dir()
    if sees:
        file.touch()
    return {"sees": sees, "exists": folder.is_dir(), "type": file_system(folder), **_space(folder)}


def _collect(task: Answer) -> Answer:
    """The ranks whose files rank 0 sees; removes the marker."""
    place = marker(Path(task["folder"]), task["token"])
    deadline = time.monotonic() + _LOOK_S
    while True:
        seen = sorted(int(path.name) for path in place.iterdir() if path.name.isdigit())
        if set(seen) >= set(task["ranks"]) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    shutil.rmtree(place, ignore_errors=True)
    return {"seen": seen}


def _write(task: Answer) -> Answer:
    """Bytes a second of a file that is written and flushed to the disk, and space. The file is removed."""
    folder = nearest_existing(Path(task["folder"]))
    space = _space(folder)
    size = min(WRITTEN_BYTES, space["free"] // 4) // _BLOCK * _BLOCK
    if not size:
        return space | {"folder": str(folder), "type": file_system(folder), "bytes_s": None}
    block = os.urandom(_BLOCK)  # a file system may compress
    path = folder / f".kws-doctor-{os.getpid()}-{os.urandom(4).hex()}"
    written, began = 0, time.perf_counter()
    try:
        with path.open("wb", buffering=0) as file:
            while written < size and time.perf_counter() - began < _MOST_S:
                written += file.write(block)
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
    finally:
        path.unlink(missing_ok=True)
    return space | {"folder": str(folder), "type": file_system(folder), "bytes_s": written / seconds}


def _write_cache(task: Answer) -> Answer:
    """As `_write`, for the cache of the corpus in the folder "shards", with its size; {} where it uses none."""
    index = index_file.load(Path(task["shards"]))
    settings = CacheSettings(task["cache_dir"], task["cache_gb"])
    if not settings.is_used(ShardSource(index.root, index.source)):
        return {}
    found = _write({"folder": str(settings.cache_folder)})
    return found | {"folder": str(settings.cache_folder), "needed": settings.max_bytes}


def _space(folder: Path) -> dict[str, int]:
    place = nearest_existing(folder)
    found = os.statvfs(place)
    return {"free": found.f_bavail * found.f_frsize, "free_files": found.f_favail if found.f_files else -1}


def file_system(folder: Path) -> str:
    """The type of the file system that holds a folder: ext4, nfs4, lustre, tmpfs; "" where /proc does not show it."""
    place = nearest_existing(folder).resolve()
    found, longest = "", -1
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].encode().decode("unicode_escape")  # a space is written \040
        if place.is_relative_to(point) and len(point) >= longest:  # of two mounts on one point the later one counts
            found, longest = rest.split()[0], len(point)
    return found


if __name__ == "__main__":
    answer_parent(work)
