"""Shards are fetched complete or not at all, from folders, http, S3 and pipes: real servers with real faults."""

from __future__ import annotations

import dataclasses
import importlib.util
import multiprocessing
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kws.data.index import Index
from kws.data.shard_fetch import DamagedError, ShardSource
from kws.data.store import CacheSettings, ShardStore
from kws.errors import UsageError
from kws.packing import external_index, scan
from kws.transport import RetryPolicy
from tests.conftest import require
from tests.data.samples import bytes_of, change_file, shards_of
from tests.data.web import Web

IMPATIENT = RetryPolicy(timeout_s=0.5, delays_s=(0.01, 0.01, 0.01, 0.02, 0.02))
FORK = multiprocessing.get_context("fork")
MOTO = """
from moto.server import ThreadedMotoServer
import logging, sys, threading
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""
"""An S3-compatible server."""


def cached_files(caching: CacheSettings) -> list[str]:
    return sorted(path.name for path in Path(caching.folder).rglob("*") if path.suffix in (".tar", ".part"))


@pytest.mark.parametrize(
    "ranges", [pytest.param(True, id="ranges"), pytest.param(False, id="no ranges", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "faults",
    [["drop"], ["truncate"], ["stall"], ["503"], ["429", "500"], ["drop", "503", "truncate", "stall", "drop"]],
    ids=" ".join,
)
def test_temporary_faults_are_retried(
    tones: Index, web: Web, caching: CacheSettings, faults: list[str], ranges: bool
) -> None:
    shard, web.ranges = shards_of(tones)[0], ranges
    web.faults[shard.name] = list(faults)
    if "stall" in faults:
        caching = dataclasses.replace(caching, retry=IMPATIENT)
    assert ShardStore(tones.root, web.url, caching).map_shard(shard)[:] == bytes_of(tones, shard)
    assert web.served[shard.name] >= len(faults) + 1
    if ranges and "stall" not in faults:  # what arrived was kept: only bytes that a reset lost are sent twice
        lost = faults.count("drop") * shard.bytes // 2
        assert web.sent[shard.name] <= shard.bytes + lost
    assert cached_files(caching) == [f"{shard.sha256}.tar"]


@pytest.mark.parametrize("code", ["404", "403", "401", "410"])
def test_a_missing_shard_fails_at_once_naming_its_address_and_the_index(
    tones: Index, web: Web, caching: CacheSettings, code: str
) -> None:
    shard = shards_of(tones)[1]
    web.faults[shard.name] = [code]
    with pytest.raises(UsageError, match=rf"^{web.url}/{shard.name}: HTTP {code} ") as caught:
        ShardStore(tones.root, web.url, caching).map_shard(shard)
    assert not isinstance(caught.value, DamagedError)
    assert str(tones.root / "index" / "index.json") in str(caught.value)
    assert web.served[shard.name] == 1
    assert cached_files(caching) == []


def test_a_lasting_fault_is_given_up_after_six_tries(tones: Index, web: Web, caching: CacheSettings) -> None:
    shard = shards_of(tones)[0]
    web.faults[shard.name] = ["503"] * 20
    with pytest.raises(UsageError, match=r"HTTP 503 .*6 times.* train/000000.tar"):
        ShardStore(tones.root, web.url, caching).map_shard(shard)
    assert web.served[shard.name] == 6
    assert cached_files(caching) == []


def test_a_refused_connection_is_a_fault_of_transport(tones: Index, caching: CacheSettings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match=r"Connection refused.*6 times"):
            ShardStore(tones.root, url, caching).map_shard(shards_of(tones)[0])


@pytest.mark.parametrize("how", ["flipped", "shorter", "longer"])
def test_changed_content_is_damage_after_one_fresh_try(
    tones: Index, web: Web, caching: CacheSettings, how: str
) -> None:
    shard = shards_of(tones)[0]
    change_file(web.folder / shard.name, how)
    store = ShardStore(tones.root, web.url, caching)
    for _ in range(2):
        with pytest.raises(DamagedError, match=rf"{shard.name}: .*{'sha256' if how == 'flipped' else 'bytes'}"):
            store.map_shard(shard)
    assert web.served[shard.name] == 2  # not fetched again for the second call
    assert cached_files(caching) == []


def test_a_file_that_changes_between_two_tries_is_fetched_from_its_start(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    shard = shards_of(tones)[0]
    change_file(web.folder / shard.name, "flipped")
    web.faults[shard.name] = ["truncate"]
    web.after_fault = lambda: shutil.copy(tones.root / shard.name, web.folder / shard.name)
    data = bytearray(bytes_of(tones, shard))
    data[0] ^= 1
    (web.folder / shard.name).write_bytes(data)  # the first half is wrong; its second half is never sent
    assert ShardStore(tones.root, web.url, caching).map_shard(shard)[:] == bytes_of(tones, shard)
    assert web.served[shard.name] == 3


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
def test_a_source_of_an_unknown_kind_is_refused(base: str) -> None:
    with pytest.raises(UsageError, match=r"^/corpus/index/index.json: "):
        ShardSource(Path("/corpus"), base)


def test_a_missing_file_of_a_slow_folder_fails_at_once(tones: Index, caching: CacheSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No such file or directory.* train/000000.tar"):
        ShardStore(tones.root, str(tmp_path), caching).map_shard(shards_of(tones)[0])


def test_pipes_give_the_shard_and_quote_its_name(tones: Index, caching: CacheSettings) -> None:
    store = ShardStore(tones.root, f"pipe:cat {shlex.quote(str(tones.root))}/{{}} | cat", caching)
    for shard in shards_of(tones):
        assert store.map_shard(shard)[:] == bytes_of(tones, shard)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("echo no such {} >&2; exit 3", "exit code 3: no such train/000000.tar.* 6 times"),
        ("no-such-command {}", "exit code 127: .*not found"),
        ("sleep 60; : {}", "0.5 s"),
        ("printf half; : {}", "ends after 4 of [0-9]* bytes"),
    ],
)
def test_pipes_that_fail_say_why(tones: Index, caching: CacheSettings, command: str, fault: str) -> None:
    if command.startswith("sleep"):
        caching = dataclasses.replace(caching, retry=RetryPolicy(0.5, ()))
    with pytest.raises(UsageError, match=fault):
        ShardStore(tones.root, f"pipe:{command}", caching).map_shard(shards_of(tones)[0])


def test_pipes_of_other_content_are_damage(tones: Index, caching: CacheSettings) -> None:
    with pytest.raises(DamagedError, match=r"more than"):
        ShardStore(tones.root, "pipe:cat /dev/zero; : {}", caching).map_shard(shards_of(tones)[0])


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
    """Runs work(number) in forked processes."""
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
        with pytest.raises(UsageError, match=rf"^{source}/train/000000.tar: HTTP 404 .*AWS_PROFILE"):
            ShardStore(tones.root, source, caching).map_shard(shards_of(tones)[0])


def test_a_part_left_by_a_killed_process_is_fetched_again(tones: Index, web: Web, caching: CacheSettings) -> None:
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
