"""Fetching shards over HTTP and S3 (loopback) into the cache, compared with curl: MB/s.

    python benchmarks/remote.py [--quick] [--data DIR]

- ours         the shard store fetches shard after shard into an empty cache: received, sha256 checked, fsynced,
               renamed, mapped
- no cache     the same download and sha256 into a plain file, without fsync: the difference is the cost of the cache
- curl         curl -o FILE, one process per shard, without any check
- sha256       of the same bytes in memory: the part that curl does not do

The HTTP server is a separate process that uses sendfile; the S3 server is moto's (in the dev extra; without it
ratio_curl_s3 is null), and curl gets signed URLs. The ways are measured in alternating rounds, and the fastest of each
counts, because other programs can only slow it down. Without --data, the shards are random bytes in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from kws.data import index, shard_fetch
from kws.data.index import Shard
from kws.data.shard_fetch import ShardSource
from kws.data.store import CacheSettings, ShardStore
from kws.transport import RetryPolicy

HTTP = """
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def copyfile(self, source, target):
        target.flush()
        self.connection.sendfile(source)
    def log_message(self, *_):
        pass
def handler(*a):
    return Handler(*a, directory=sys.argv[1])
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
"""
S3 = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()
"""
BUCKET = "s3://shards"


@contextlib.contextmanager
def server(code: str, *arguments: str) -> Iterator[str]:
    """Runs a server in its own process; yields its address."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def make_shards(folder: Path, count: int, size: int) -> tuple[Path, list[Shard]]:
    """Writes files of random bytes; returns them as shards."""
    shards = []
    for number in range(count):
        data = np.random.default_rng(number).bytes(size)
        path = folder / "shards" / f"{number:06d}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        shards.append(Shard(path.name, size, 1, number, hashlib.sha256(data).hexdigest()))
    return folder / "shards", shards


def measure(ways: dict[str, Callable[[], None]], megabytes: float, rounds: int) -> dict[str, float]:
    """MB/s of each way, in the fastest of several rounds."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = max(best[name], megabytes / (time.perf_counter() - start))
    return best


def ways_of(root: Path, source: str, shards: Sequence[Shard], scratch: Path, urls: Sequence[str]) -> dict[
    str, Callable[[], None]
]:  # fmt: skip
    """The three ways to fetch the shards; each removes what it wrote."""

    def ours() -> None:
        store = ShardStore(root, source, CacheSettings(str(scratch / "cache")))
        for shard in shards:
            store.pin(shard)
        shutil.rmtree(scratch / "cache")

    def no_cache() -> None:
        for shard in shards:
            with (scratch / "plain").open("wb") as file:
                shard_fetch.fetch_shard(ShardSource(root, source), shard, file, RetryPolicy())
        (scratch / "plain").unlink()

    def curl() -> None:
        for url in urls:
            subprocess.run(["curl", "--silent", "--fail", "--output", scratch / "curl", url], check=True)
        (scratch / "curl").unlink()

    return {"ours": ours, "no cache": no_cache} | ({"curl": curl} if shutil.which("curl") else {})


def over_http(root: Path, shards: Sequence[Shard], scratch: Path, rounds: int) -> dict[str, float]:
    """MB/s of each way, and of sha256 alone."""
    contents = [(root / shard.name).read_bytes() for shard in shards]

    def checksum() -> None:
        for content in contents:
            hashlib.sha256(content).hexdigest()

    with server(HTTP, str(root)) as url:
        ways = ways_of(root, url, shards, scratch, [f"{url}/{shard.name}" for shard in shards])
        return measure(ways | {"sha256": checksum}, megabytes_of(shards), rounds)


def over_s3(root: Path, shards: Sequence[Shard], scratch: Path, rounds: int) -> dict[str, float]:
    """MB/s of each way, with the shards in a bucket."""
    import s3fs

    with server(S3) as url:
        os.environ |= {
            "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }  # fmt: skip
        put(f"{url}/{BUCKET.removeprefix('s3://')}", b"")
        for shard in shards:
            put(f"{url}/{BUCKET.removeprefix('s3://')}/{shard.name}", (root / shard.name).read_bytes())
        filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
        signed = [filesystem.sign(f"{BUCKET}/{shard.name}", expiration=3600) for shard in shards]
        return measure(ways_of(root, BUCKET, shards, scratch, signed), megabytes_of(shards), rounds)


def put(url: str, data: bytes) -> None:
    """Puts one object (or a bucket) on the S3 server."""
    headers = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT")).close()


def megabytes_of(shards: Sequence[Shard]) -> float:
    """Total size in MB (10^6 bytes)."""
    return sum(shard.bytes for shard in shards) / 1e6


def show(found: dict[str, dict[str, float]], notes: Sequence[str]) -> None:
    """Prints the table."""
    table = Table("MB/s", *found, title="shards over loopback")
    for way in ("ours", "no cache", "curl", "sha256"):
        table.add_row(way, *(f"{speeds[way]:.0f}" if way in speeds else "-" for speeds in found.values()))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)


def ratio(speeds: dict[str, float] | None) -> float | None:
    """Our speed divided by curl's; None where either is missing."""
    return speeds["ours"] / speeds["curl"] if speeds and "curl" in speeds else None


def main() -> None:
    """Prints the table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: shards of random bytes")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller shards: under a minute")
    arguments = parser.parse_args()
    count, size, rounds = (3, 32_000_000, 3) if arguments.quick else (6, 64_000_000, 5)
    notes, found = [], {}
    with tempfile.TemporaryDirectory() as name:
        if arguments.data:
            root, shards = arguments.data, list(index.load(arguments.data).split("train").shards[:count])
        else:
            root, shards = make_shards(Path(name), count, size)
        found["http"] = over_http(root, shards, Path(name), rounds)
        if all(importlib.util.find_spec(module) for module in ("moto", "flask", "flask_cors", "s3fs")):
            found["s3"] = over_s3(root, shards, Path(name), rounds)
        else:
            notes.append("no S3: moto[s3], flask, flask-cors or s3fs is not installed; type pip install 'kws[dev]'")
    if not shutil.which("curl"):
        notes.append("no ratios: curl is not installed")
    show(found, notes)
    facts = {
        "ratio_curl_http": ratio(found["http"]),
        "ratio_curl_s3": ratio(found.get("s3")),
        "mb_per_s": found,
        "shards": len(shards),
        "mb": megabytes_of(shards),
        "notes": notes,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
