"""Shards come whole or not at all, from folders, http, S3 and pipes, through real servers with real faults."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import multiprocessing
import os
import pickle
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.data import index
from kws.data.index import Index, Shard
from kws.data.plan import Plan, PlanSettings, Slot
from kws.data.reader import Reader, read_noise
from kws.data.shard_fetch import DamagedError, ShardSource
from kws.data.store import CacheSettings, ShardStore, require_room
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.errors import UsageError
from kws.packing import external_index, scan
from kws.transport import RetryPolicy
from tests.conftest import require
from tests.data.web import Web, serve

LABELS = (2, 0, 1)
SOON = RetryPolicy(timeout_s=0.3, delays_s=(0.01, 0.01, 0.01, 0.02, 0.02))
FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


@pytest.fixture
def caching(tmp_path: Path) -> CacheSettings:
    return CacheSettings(str(tmp_path / "cache"), retry=SOON, full_timeout_s=0.2)


@pytest.fixture
def web(tones: Index, tmp_path: Path) -> Iterator[Web]:
    """The corpus on an http server, without its index; the files are the test's to spoil."""
    folder = tmp_path / "served"
    shutil.copytree(tones.root, folder, ignore=shutil.ignore_patterns("index"))
    with serve(folder) as server:
        yield server


def shards_of(corpus: Index) -> tuple[Shard, ...]:
    return corpus.split("train").shards


def bytes_of(corpus: Index, shard: Shard) -> bytes:
    return (corpus.root / shard.name).read_bytes()


def cached_files(caching: CacheSettings) -> list[str]:
    return sorted(path.name for path in Path(caching.folder).rglob("*") if path.suffix in (".tar", ".part"))


# --- faults of transport ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize(
    "faults",
    [["drop"], ["truncate"], ["stall"], ["503"], ["429", "500"], ["drop", "503", "truncate", "stall", "drop"]],
    ids=" ".join,
)
def test_faults_that_pass_are_outlived(
    tones: Index, web: Web, caching: CacheSettings, faults: list[str], ranges: bool
) -> None:
    shard, web.ranges = shards_of(tones)[0], ranges
    web.faults[shard.name] = list(faults)
    assert ShardStore(tones.root, web.url, caching).map_shard(shard)[:] == bytes_of(tones, shard)
    assert web.served[shard.name] == len(faults) + 1
    if ranges:  # each half that came was kept: nothing was sent twice but what a reset lost on the way
        lost = faults.count("drop") * shard.bytes // 2
        assert web.sent[shard.name] <= shard.bytes + lost
    assert cached_files(caching) == [f"{shard.sha256}.tar"]


@pytest.mark.parametrize("code", ["404", "403", "401", "410"])
def test_what_is_not_there_fails_at_once_naming_shard_and_address(
    tones: Index, web: Web, caching: CacheSettings, code: str
) -> None:
    shard = shards_of(tones)[1]
    web.faults[shard.name] = [code]
    with pytest.raises(UsageError, match=rf"^{web.url}/{shard.name}: HTTP {code} .*; shard {shard.name} ") as caught:
        ShardStore(tones.root, web.url, caching).map_shard(shard)
    assert not isinstance(caught.value, DamagedError)
    assert str(tones.root / "index" / "index.json") in str(caught.value)
    assert web.served[shard.name] == 1
    assert cached_files(caching) == []


def test_what_fails_for_good_is_given_up_after_six_tries(tones: Index, web: Web, caching: CacheSettings) -> None:
    shard = shards_of(tones)[0]
    web.faults[shard.name] = ["503"] * 20
    with pytest.raises(UsageError, match=r"HTTP 503 Service Unavailable, tried 6 times; shard train/000000.tar"):
        ShardStore(tones.root, web.url, caching).map_shard(shard)
    assert web.served[shard.name] == 6
    assert cached_files(caching) == []


def test_nobody_listening_is_transport_too(tones: Index, caching: CacheSettings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"Connection refused.*tried 6 times"):
            ShardStore(tones.root, url, caching).map_shard(shards_of(tones)[0])


# --- other content ---------------------------------------------------------------------------------------------------


def spoil(web: Web, shard: Shard, how: str) -> None:
    path = web.folder / shard.name
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flipped": data, "shorter": data[:-512], "longer": data + b"\0" * 512}[how])


@pytest.mark.parametrize("how", ["flipped", "shorter", "longer"])
def test_a_changed_file_is_damage_after_one_fresh_try(tones: Index, web: Web, caching: CacheSettings, how: str) -> None:
    shard = shards_of(tones)[0]
    spoil(web, shard, how)
    store = ShardStore(tones.root, web.url, caching)
    what = "sha256 differs" if how == "flipped" else "bytes, the index has"
    for _ in range(2):
        with pytest.raises(DamagedError, match=rf"{shard.name}: .*{what}"):
            store.map_shard(shard)
    assert web.served[shard.name] == 2  # found out once, and remembered
    assert cached_files(caching) == []


def test_a_file_that_changes_between_two_tries_is_fetched_from_its_start(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    shard = shards_of(tones)[0]
    spoil(web, shard, "flipped")
    web.faults[shard.name] = ["truncate"]

    def mend() -> None:
        shutil.copy(tones.root / shard.name, web.folder / shard.name)

    data = bytearray(bytes_of(tones, shard))
    data[0] ^= 1
    (web.folder / shard.name).write_bytes(data)  # the first half is wrong, and its second half never comes
    store = ShardStore(tones.root, web.url, dataclasses.replace(caching, retry=RetryPolicy(0.3, (0.2,))))
    timer = threading.Timer(0.1, mend)
    timer.start()
    assert store.map_shard(shard)[:] == bytes_of(tones, shard)
    timer.join()
    assert web.served[shard.name] == 3


# --- kinds of sources ------------------------------------------------------------------------------------------------


def test_local_shards_are_mapped_where_they_lie_unless_a_cache_is_named(
    tones: Index, caching: CacheSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "default"))
    shard = shards_of(tones)[0]
    direct, copied = ShardStore(tones.root), ShardStore(tones.root, "", caching)
    assert direct.map_shard(shard)[:] == copied.map_shard(shard)[:] == bytes_of(tones, shard)
    assert (direct.cached, copied.cached) == (False, True)
    assert not (tmp_path / "default").exists()
    assert cached_files(caching) == [f"{shard.sha256}.tar"]


def test_remote_shards_go_to_the_default_folder(
    tones: Index, web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "default"))
    ShardStore(tones.root, web.url).map_shard(shards_of(tones)[0])
    assert len(list((tmp_path / "default").rglob("*.tar"))) == 1


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("", "/corpus/train/0 1.tar"),
        ("../there", "/corpus/../there/train/0 1.tar"),
        ("/there", "/there/train/0 1.tar"),
        ("http://h/x/", "http://h/x/train/0%201.tar"),
        ("https://u:p@h/{}?sig=1", "https://u:p@h/train/0%201.tar?sig=1"),
        ("s3://bucket/x", "s3://bucket/x/train/0 1.tar"),
        ("pipe:cat /x/{} | cat", "cat /x/'train/0 1.tar' | cat"),
    ],
)
def test_addresses_are_joined_from_the_source_and_the_name(base: str, address: str) -> None:
    assert ShardSource(Path("/corpus"), base).address("train/0 1.tar") == address


def test_messages_show_no_passwords_or_signatures() -> None:
    assert ShardSource(Path("/c"), "https://u:p@h:1/x/{}?sig=1").shown("a.tar") == "https://h:1/x/a.tar"


@pytest.mark.parametrize("base", ["gs://bucket", "pipe:cat /x", "HTTP://h"])
def test_a_source_of_no_known_kind_is_refused(base: str) -> None:
    with pytest.raises(UsageError, match=r"^/corpus/index/index.json: source "):
        ShardSource(Path("/corpus"), base)


def test_the_index_keeps_its_source_and_the_content_id_does_not_hang_on_it(tones: Index, tmp_path: Path) -> None:
    speakers = [name.decode() for name in tones.speakers]
    for source in ("", "s3://bucket/x"):
        written = index.write(tmp_path / "i", tones.words, speakers, tones.splits, source)
        assert (written.source, written.content_id) == (source, tones.content_id)
        head = json.loads((tmp_path / "i" / "index" / "index.json").read_text())
        assert ("source" in head) == bool(source)
    assert tones.source == ""


def test_a_missing_file_of_a_slow_folder_fails_at_once(tones: Index, caching: CacheSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No such file or directory; shard train/000000.tar cannot be fetched"):
        ShardStore(tones.root, str(tmp_path), caching).map_shard(shards_of(tones)[0])


def test_pipes_give_the_shard_and_quote_its_name(tones: Index, caching: CacheSettings) -> None:
    store = ShardStore(tones.root, f"pipe:cat {shlex.quote(str(tones.root))}/{{}} | cat", caching)
    for shard in shards_of(tones):
        assert store.map_shard(shard)[:] == bytes_of(tones, shard)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("echo no such {} >&2; exit 3", "exit code 3: no such train/000000.tar, tried 6 times"),
        ("no-such-command {}", "exit code 127: .*not found;"),
        ("sleep 60; : {}", "no data for 0.3 s, tried 2 times"),
        ("printf half; : {}", "ends after 4 of [0-9]* bytes, tried 2 times"),
    ],
)
def test_pipes_that_fail_say_why(tones: Index, caching: CacheSettings, command: str, fault: str) -> None:
    if "tried 2" in fault:
        caching = dataclasses.replace(caching, retry=RetryPolicy(0.3, (0.01,)))
    with pytest.raises(UsageError, match=fault):
        ShardStore(tones.root, f"pipe:{command}", caching).map_shard(shards_of(tones)[0])


def test_pipes_of_other_content_are_damage(tones: Index, caching: CacheSettings) -> None:
    with pytest.raises(DamagedError, match=r"more than [0-9]* bytes"):
        ShardStore(tones.root, "pipe:cat /dev/zero; : {}", caching).map_shard(shards_of(tones)[0])


# --- S3 --------------------------------------------------------------------------------------------------------------

MOTO = """
from moto.server import ThreadedMotoServer
import logging, sys, threading
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3-compatible server in a process of its own."""
    there = all(importlib.util.find_spec(name) for name in ("moto", "flask", "flask_cors", "s3fs"))
    require("s3", there, "moto[s3], flask, flask-cors or s3fs is not installed")
    command = [sys.executable, "-c", MOTO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        host, port = server.stdout.readline().split()
        yield f"http://{host}:{port}"
        server.communicate()


@pytest.fixture(scope="module")
def stored(s3: str, tones: Index) -> str:
    """The corpus in a bucket."""
    put(f"{s3}/corpus", b"")
    for shard in shards_of(tones):
        put(f"{s3}/corpus/v1/{shard.name}", bytes_of(tones, shard))
    return s3


@pytest.fixture
def bucket(stored: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its address; the environment as a user of that server has it."""
    settings = {"ENDPOINT_URL": stored, "DEFAULT_REGION": "us-east-1"}
    for name, value in (settings | {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return "s3://corpus/v1"


def put(url: str, data: bytes) -> None:
    request = urllib.request.Request(url, data, {"Content-Type": "application/octet-stream"}, method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def in_children(count: int, work: Callable[[int], None]) -> None:
    """Runs work(number) in forked processes, as loader workers are."""
    processes = [FORK.Process(target=work, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count


def test_two_ranks_share_a_cache_of_s3_shards(tones: Index, bucket: str, caching: CacheSettings) -> None:
    store = ShardStore(tones.root, bucket, caching)
    first, *others = shards_of(tones)
    assert store.map_shard(first)[:] == bytes_of(tones, first)  # before the fork: s3fs does not survive one

    def rank(number: int) -> None:
        for shard in others if number else reversed(others):
            assert store.map_shard(shard)[:] == bytes_of(tones, shard)

    in_children(2, rank)
    assert cached_files(caching) == sorted(f"{shard.sha256}.tar" for shard in shards_of(tones))


def test_a_bucket_is_indexed_as_what_lies_in_it(tones: Index, bucket: str, tmp_path: Path) -> None:
    names = [shard.name for shard in shards_of(tones)]
    corpus, report = external_index.index_shards(bucket, tmp_path / "theirs", names)
    local, _ = external_index.index_shards(str(tones.root), tmp_path / "ours", names)
    assert (corpus.source, report.skipped) == (bucket, [])
    assert corpus.content_id == local.content_id
    assert scan.verify(corpus, external_index.shards_of(corpus)).faults == []


def test_a_missing_key_and_a_missing_bucket_fail_at_once(tones: Index, bucket: str, caching: CacheSettings) -> None:
    for source in ("s3://corpus/v2", "s3://nowhere"):
        with pytest.raises(UsageError, match=rf"^{source}/train/000000.tar: HTTP 404 [^,]*; .*AWS_PROFILE"):
            ShardStore(tones.root, source, caching).map_shard(shards_of(tones)[0])


# --- several processes -----------------------------------------------------------------------------------------------


def test_processes_that_share_a_cache_fetch_each_shard_once(tones: Index, web: Web, caching: CacheSettings) -> None:
    def rank(number: int) -> None:
        store = ShardStore(tones.root, web.url, caching)
        for shard in shards_of(tones):
            assert store.map_shard(shard)[:] == bytes_of(tones, shard)

    in_children(3, rank)
    assert web.served == {shard.name: 1 for shard in shards_of(tones)}


def test_a_downloader_killed_in_mid_download_leaves_nothing_that_is_believed(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    shard = shards_of(tones)[0]
    web.faults[shard.name] = ["stall"]
    patient = dataclasses.replace(caching, retry=RetryPolicy(60.0))
    process = FORK.Process(target=lambda: ShardStore(tones.root, web.url, patient).map_shard(shard), daemon=True)
    process.start()
    assert web.stalled.wait(30)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert cached_files(caching) == [f"{shard.sha256}.part"]
    assert ShardStore(tones.root, web.url, caching).map_shard(shard)[:] == bytes_of(tones, shard)
    assert cached_files(caching) == [f"{shard.sha256}.tar"]


# --- batches ---------------------------------------------------------------------------------------------------------


def plan_of(corpus: Index, **settings: int) -> Plan:
    return Plan(
        corpus.split("train"), LABELS, PlanSettings("natural", slots=2, micro_batch=8, seed=0, **settings), epoch=0
    )


def batches(
    corpus: Index, workers: int = 0, caching: CacheSettings | None = None, with_plan: bool = True, window: int = 32
) -> list[Batch]:
    plan = plan_of(corpus, window=window)
    reader = SlotReader(Reader(corpus, "train", cache_settings=caching or CacheSettings()), LABELS, 16000)
    stretches = (lambda: plan.needed_shards(0, 1)) if with_plan else None
    return list(stream_batches(lambda: plan.rank_slots(0, 1), reader, workers, needed_shards=stretches))


def same(one: Batch, other: Batch) -> bool:
    return (one.step, one.slot) == (other.step, other.slot) and all(
        torch.equal(a, b) for a, b in zip(one[2:], other[2:], strict=True)
    )


def test_batches_from_http_are_those_from_disk(tones: Index, web: Web, caching: CacheSettings) -> None:
    remote, wanted = dataclasses.replace(tones, source=web.url), batches(tones)
    for workers, with_plan in ((0, True), (2, True), (0, False)):
        found = batches(remote, workers, caching, with_plan)
        assert len(found) == len(wanted)
        assert all(same(*pair) for pair in zip(found, wanted, strict=True))
    assert web.served == {shard.name: 1 for shard in shards_of(tones)}
    (noise,) = read_noise(remote, "train", caching)
    assert np.array_equal(noise, read_noise(tones, "train")[0])


def test_batches_are_right_in_a_cache_with_room_for_one_shard_only(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    """Below what `require_room` asks for, everything is slow, and nothing wrong or stuck."""
    largest = max(shard.bytes for shard in shards_of(tones))
    small = dataclasses.replace(caching, gigabytes=largest / 1e9, full_timeout_s=30.0)
    remote = dataclasses.replace(tones, source=web.url)
    plan = plan_of(tones, window=32)
    slots = list(plan.rank_slots(0, 1))[:6]
    for workers in (0, 1):
        reader = SlotReader(Reader(remote, "train", cache_settings=small), LABELS, 16000)
        found = list(stream_batches(lambda: slots, reader, workers, needed_shards=lambda: plan.needed_shards(0, 1)))
        assert all(same(*pair) for pair in zip(found, batches(tones)[:6], strict=True))
    assert sum(path.stat().st_size for path in (Path(caching.folder) / "shards").iterdir()) <= largest


def test_a_transport_fault_ends_the_stream_in_one_line(tones: Index, web: Web, caching: CacheSettings) -> None:
    name = shards_of(tones)[2].name
    web.faults[name] = ["404"] * 9
    for workers in (0, 1):
        with pytest.raises(UsageError, match=rf"^{web.url}/{name}: HTTP 404"):
            batches(dataclasses.replace(tones, source=web.url), workers, caching)


def test_a_cache_too_small_is_refused_with_the_size_needed(tones: Index, web: Web, caching: CacheSettings) -> None:
    plan, total = plan_of(tones, window=32), sum(shard.bytes for shard in shards_of(tones))
    needed = plan.bytes_at_once(range(2), 2)
    assert 0 < needed <= total
    small = dataclasses.replace(caching, gigabytes=needed / 1e9 / 2)
    with pytest.raises(UsageError, match=r"^data.cache_gb: 0.00\d+, but .* --set data.cache_gb=0.01"):
        require_room(tones.root, web.url, small, needed)
    require_room(tones.root, web.url, caching, needed)
    require_room(tones.root, "", CacheSettings(gigabytes=1e-9), needed)  # local shards are not copied
    with pytest.raises(UsageError, match="no room for train/"):
        ShardStore(tones.root, web.url, dataclasses.replace(caching, gigabytes=1e-6)).map_shard(shards_of(tones)[0])


def test_a_store_goes_to_other_processes(tones: Index, web: Web, caching: CacheSettings) -> None:
    shard, store = shards_of(tones)[0], ShardStore(tones.root, web.url, caching)
    store.map_shard(shard)
    assert pickle.loads(pickle.dumps(store)).map_shard(shard)[:] == bytes_of(tones, shard)


# --- on_bad = skip ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tones: Index, tmp_path: Path) -> Index:
    return index.load(Path(shutil.copytree(tones.root, tmp_path / "copy")))


def flip(corpus: Index, clip: int) -> None:
    columns = corpus.split("train").columns
    with (corpus.root / shards_of(corpus)[columns["shard"][clip]].name).open("r+b") as file:
        file.seek(int(columns["offset"][clip]) + 5000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def skipping(corpus: Index, workers: int, caching: CacheSettings | None = None) -> tuple[list[Batch], list[int]]:
    plan = plan_of(corpus, window=32)
    reader = SlotReader(
        Reader(corpus, "train", on_bad="skip", cache_settings=caching or CacheSettings()), LABELS, 16000
    )
    found = list(stream_batches(lambda: plan.rank_slots(0, 1), reader, workers))
    return found, reader.skipped.tolist()


def without(batch: Batch, bad: list[int]) -> Batch:
    kept = ~torch.isin(batch.clips, torch.tensor(bad))
    return Batch(batch.step, batch.slot, *(tensor[kept] for tensor in batch[2:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_damaged_clips_out_and_all_else_as_it_is(copy: Index, workers: int) -> None:
    whole, bad = batches(copy), [3, 7, 100]
    for clip in bad:
        flip(copy, clip)
    found, skipped = skipping(copy, workers)
    assert skipped == bad
    assert all(same(one, without(other, bad)) for one, other in zip(found, whole, strict=True))
    with pytest.raises(DamagedError):
        batches(copy, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_out_a_shard_of_another_size(copy: Index, workers: int) -> None:
    whole, shard = batches(copy), shards_of(copy)[1]
    (copy.root / shard.name).write_bytes(bytes_of(copy, shard)[:-512])
    bad = list(range(shard.start, shard.start + shard.clips))
    found, skipped = skipping(copy, workers)
    assert skipped == bad
    assert all(same(one, without(other, bad)) for one, other in zip(found, whole, strict=True))


def test_skip_leaves_out_what_changed_on_the_server_and_asks_for_it_once(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    shard = shards_of(tones)[1]
    spoil(web, shard, "flipped")
    found, skipped = skipping(dataclasses.replace(tones, source=web.url), 0, caching)
    assert skipped == list(range(shard.start, shard.start + shard.clips))
    assert len(found) == len(batches(tones))
    assert web.served[shard.name] <= 4  # twice by who reads, and perhaps twice ahead of it


def test_skip_never_passes_over_transport(tones: Index, web: Web, caching: CacheSettings, copy: Index) -> None:
    web.faults[shards_of(tones)[1].name] = ["404"] * 9
    with pytest.raises(UsageError, match="HTTP 404"):
        skipping(dataclasses.replace(tones, source=web.url), 0, caching)
    (copy.root / shards_of(copy)[0].name).unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        skipping(copy, 0)


def test_a_slot_of_damaged_clips_only_is_an_empty_batch(copy: Index) -> None:
    for clip in (3, 4):
        flip(copy, clip)
    ids = np.array([3, 4])
    batch = SlotReader(Reader(copy, "train", on_bad="skip"), LABELS, 16000).batch(Slot(0, 0, ids, ids))
    assert [len(tensor) for tensor in batch[2:]] == [0] * 5
    assert batch.wave.shape == (0, 16000)
