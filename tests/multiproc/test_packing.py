"""Killed packings: no unfinished corpus is visible, no process is left, and the same call ends with the same bytes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from kws.audio import codec
from kws.data import index
from kws.packing import pack, scan
from tests.conftest import tone, write_corpus

pytestmark = pytest.mark.multiproc
FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.dlsym"}
LONG_S = 12


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "wav", {"yes": 16, "no": 12}, speakers=28, samples=2000, noise_seconds=1)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    return add_words(tmp_path / "more", {"maybe": 6, "no": 4})


def add_words(root: Path, words: dict[str, int]) -> Path:
    """Clips that `source` does not have, by speakers it does not know."""
    for place, (word, clips) in enumerate(words.items()):
        (root / word).mkdir(parents=True)
        for take in range(clips):
            pcm = tone(2000 + 50 * place + take, 2000, seed=1000 + 10 * place + take)
            (root / word / f"new{take}_nohash_{place}.wav").write_bytes(codec.wav_bytes(pcm))
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def pack_until(event: int, sources: list[Path], out: Path, append: bool = False) -> int | None:
    """Packs in a process of its own, which kills itself before file operation number `event` (0: never). Returns the
    number of operations; None if it was killed."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            seen = 0

            def hook(name: str, _: object) -> None:
                nonlocal seen
                if name in FILE_EVENTS:
                    seen += 1
                    if seen == event:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            pack.pack(sources, out, pack.PackOptions(shard_bytes=30_000, append=append))
            os.write(there, str(seen).encode())
        finally:
            os._exit(0)
    os.close(there)
    _, status = os.waitpid(child, 0)
    with os.fdopen(here, "rb") as told:
        number = told.read()
    if os.WIFSIGNALED(status):
        return None
    assert number, "the packing failed"
    return int(number)


def moments(total: int, step: int) -> Iterator[int]:
    """Some of the operations from the first to the last; more of the last ones, which publish the corpus."""
    yield from range(1, total - 60, step)
    yield from range(max(1, total - 60), total + 1, max(1, step // 3))


EVERY = pytest.mark.parametrize(
    "step", [200, pytest.param(40, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.heavy)]
)
"""Kills before every so many operations."""


@EVERY
def test_a_packing_killed_at_any_operation_resumes_to_the_same_bytes(source: Path, tmp_path: Path, step: int) -> None:
    clean, _ = pack.pack([source], tmp_path / "clean", pack.PackOptions(shard_bytes=30_000))
    total = pack_until(0, [source], tmp_path / "counted")
    assert total is not None
    assert total > 100
    for number in moments(total, step):
        out = tmp_path / f"out{number}"
        assert pack_until(number, [source], out) is None
        if (out / "index" / "index.json").exists():
            assert scan.verify(index.load(out)) == (29, []), "complete, except for the scratch folder"
            if not (out / ".packing" / "journal").exists():
                assert not any((out / ".packing").glob("*")), "the journal is removed last"
                continue  # as if it had not been killed
        corpus, _ = pack.pack([source], out, pack.PackOptions(shard_bytes=30_000))
        assert files(corpus.root) == files(clean.root), f"killed before operation {number}"


@EVERY
def test_an_append_killed_at_any_operation_leaves_the_old_or_the_new_corpus_and_resumes(
    source: Path, more: Path, tmp_path: Path, step: int
) -> None:
    old, _ = pack.pack([source], tmp_path / "old", pack.PackOptions(shard_bytes=30_000))
    shutil.copytree(old.root, tmp_path / "new")
    total = pack_until(0, [more], tmp_path / "new", append=True)
    assert total is not None
    new = index.load(tmp_path / "new")
    for number in moments(total, step):
        out = tmp_path / "out"
        shutil.copytree(old.root, out)
        assert pack_until(number, [more], out, append=True) is None
        found = index.load(out)
        assert found.content_id in (old.content_id, new.content_id)
        assert scan.verify(found).faults == []
        pack.pack([more], out, pack.PackOptions(shard_bytes=30_000, append=True))
        assert files(out) == files(new.root), f"killed before operation {number}"
        shutil.rmtree(out)


@pytest.mark.slow
def test_a_packing_killed_many_times_finishes(source: Path, tmp_path: Path) -> None:
    clean, _ = pack.pack([source], tmp_path / "clean", pack.PackOptions(shard_bytes=30_000))
    kills = 0
    for operations in range(20, 1000, 20):  # more each time, because the index is written in one go
        if pack_until(operations, [source], tmp_path / "out") is not None:
            break
        kills += 1
    assert kills > 3
    assert files(tmp_path / "out") == files(clean.root)


# --- the command, with its workers ----------------------------------------------------------------------------


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """Recordings in stereo at 44.1 kHz, a chunk each, whose decoding takes a while."""
    rng = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / "long" / "talk" / f"s{number}_nohash_0.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, (44100 * LONG_S, 2)), 44100, subtype="PCM_16")
    return tmp_path / "long"


Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started(long: Path, tmp_path: Path) -> Iterator[Started]:
    """started() runs `kws pack` on the long recordings with two processes until some are decoded, and stops it there
    with SIGSTOP, so that it cannot finish before the test acts. SIGCONT continues it."""
    begun: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kws", "pack", long, tmp_path / "out", "--processes", "2", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        begun.append(process)
        deadline = time.monotonic() + 120
        # So many that some are in the journal, which adds them in order.
        while sum(f.stat().st_size for f in (tmp_path / "out" / ".packing").glob("*.pcm")) < 10 * LONG_S * 32000:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def no_process_is_left(family: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(family, timeout=30)
    return not alive


def resumes_to_the_same_bytes(long: Path, tmp_path: Path) -> bool:
    """Packs again: the bytes equal those of an uninterrupted packing. Returns whether it resumed."""
    corpus, report = pack.pack([long], tmp_path / "out")
    clean, _ = pack.pack([long], tmp_path / "clean")
    assert files(corpus.root) == files(clean.root)
    return " of 24 recordings were decoded already" in report.notes[0]


@pytest.mark.parametrize(
    ("number", "code"),
    [("SIGTERM", 75), *(pytest.param(*end, marks=pytest.mark.slow) for end in (("SIGINT", 75), ("SIGKILL", -9)))],
)
def test_a_signal_stops_all_processes(started: Started, long: Path, tmp_path: Path, number: str, code: int) -> None:
    process = started()
    family = children(process)
    assert len(family) >= 2
    if number == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    else:
        process.send_signal(signal.Signals[number])
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, (output, errors)
    assert no_process_is_left(family)
    assert output == ""
    assert errors.startswith(f"kws: {tmp_path / 'out'}: stopped") or number == "SIGKILL"
    assert not (tmp_path / "out" / "index").exists()
    assert resumes_to_the_same_bytes(long, tmp_path)


@pytest.mark.slow
def test_a_killed_worker_ends_the_packing_with_one_line(started: Started, long: Path, tmp_path: Path) -> None:
    process = started()
    family = children(process)
    worker = next(one for one in family if "spawn_main" in " ".join(one.cmdline()))
    worker.kill()
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"kws: {tmp_path / 'out'}: a worker process" in errors
    assert "Traceback" not in errors
    assert no_process_is_left(family)
    assert resumes_to_the_same_bytes(long, tmp_path)


@pytest.mark.slow
def test_two_packings_into_one_folder_are_refused(
    started: Started, kws: Callable[..., subprocess.CompletedProcess[str]], long: Path, tmp_path: Path
) -> None:
    process = started()
    second = kws("pack", long, tmp_path / "out")
    assert second.returncode == 2
    assert "in use by another kws pack" in second.stderr
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (output, errors)
    assert scan.verify(index.load(tmp_path / "out")) == (24, [])


@pytest.mark.slow
def test_no_torch_in_a_worker(started: Started) -> None:
    family = children(started())
    workers = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
    assert workers
    assert not [m.path for one in workers for m in one.memory_maps() if "libtorch" in m.path]


def test_a_packing_resumes_after_a_full_disk(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"yes": 100, "no": 100}, speakers=28, samples=4000, noise_seconds=0)
    clean, _ = pack.pack([source], tmp_path / "clean")
    done = subprocess.run(
        [sys.executable, "-m", "kws", "pack", source, tmp_path / "out", "--processes", "1"],
        capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{tmp_path / 'out'}: cannot be written (File too large)" in done.stderr
    assert f"rm -r {tmp_path / 'out' / '.packing'}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out" / "index").exists()
    corpus, report = pack.pack([source], tmp_path / "out")
    assert "128 of 200 recordings were decoded already" in report.notes[0]
    assert files(corpus.root) == files(clean.root)
