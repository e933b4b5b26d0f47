"""Fetching a corpus from a real server with faults: the archive is complete and checked, or there is no corpus."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from kws import cli, shipped_files
from kws.audio import codec
from kws.corpus import fetch, recipe
from kws.data import index
from kws.errors import UsageError
from kws.transport import RetryPolicy
from tests.conftest import tone
from tests.corpus import official
from tests.data.web import Web, serve

SHORT_DELAYS = RetryPolicy(timeout_s=5.0, delays_s=(0.01, 0.01, 0.01))
NAME = "spoken.tar.gz"
CLIPS = {"train": 12, "valid": 4, "test": 4}
Kws = Callable[..., subprocess.CompletedProcess[str]]


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz in the official layout; the same files give the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as whole:
        tar = tarfile.open(fileobj=whole, mode="w|")  # noqa: SIM115 (closed below, before the file is)
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        tar.close()
    return packed.getvalue()


def small(seed: int = 0) -> bytes:
    """Two words by five speakers, their lists, a noise; 0.3 MB."""
    files, lists = {}, {"validation_list.txt": "", "testing_list.txt": ""}
    for number in range(20):
        word, speaker = ("low", "high")[number % 2], number % 10 // 2
        name = f"{word}/{speaker:08x}_nohash_{number // 10}.wav"
        files[name] = codec.wav_bytes(tone(200 + 20 * number, 8000, seed=seed + number))
        if speaker < 2:
            lists[("validation_list.txt", "testing_list.txt")[speaker]] += f"{name}\n"
    files["_background_noise_/hiss.wav"] = codec.wav_bytes(tone(50, 32000, seed=seed))
    return archive_of(files | {name: text.encode() for name, text in lists.items()})


def recipe_file(folder: Path, data: bytes | None, url: str, words: str = '"low", "high"', **clips: int) -> Path:
    """A recipe; with the archive's `data` also its size and sha256."""
    counts = "".join(f"{split} = {count}\n" for split, count in ({**CLIPS, "noise": 1} | clips).items())
    text = f'url = "{url}"\nwords = [{words}]\n'
    if data is not None:
        text += f"bytes = {len(data)}\n"
    text += f"[clips]\n{counts}"
    if data is not None:
        text += f'[sha256]\n"{NAME}" = "{hashlib.sha256(data).hexdigest()}"\n'
    path = folder / "spoken.toml"
    path.write_text(text, encoding="utf-8")
    return path


@dataclasses.dataclass
class Published:
    """An archive on a server, and the recipe that knows it."""

    web: Web
    data: bytes
    folder: Path
    recipe: Path
    lines: list[str] = dataclasses.field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.web.url}/{NAME}"

    def publish(self, data: bytes, version: str = "") -> None:
        self.web.version = version
        (self.web.folder / NAME).write_bytes(data)

    def fetch(self, out: Path) -> Path:
        return fetch.fetch_archive(
            recipe.load(self.recipe), self.url, out, self.lines.append, retry_policy=SHORT_DELAYS
        )


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as web:
        data = small()
        found = Published(web, data, tmp_path, recipe_file(tmp_path, data, f"{web.url}/{NAME}"))
        found.publish(data, "first")
        yield found


def is_packed(out: Path) -> bool:
    """Whether the whole corpus is there, without scratch files."""
    corpus = index.load(out)
    counts = {split: len(clips) for split, clips in corpus.splits.items()}
    assert (set(corpus.words), counts) == ({"low", "high"}, {**CLIPS, "noise": 1})
    return {path.name for path in out.iterdir()} == {"train", "valid", "test", "noise", "index", "sources.json"}


# --- complete downloads ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fetched_archive_is_packed(published: Published, tmp_path: Path, kws: Kws) -> None:
    out = tmp_path / "shards"
    done = kws("fetch", published.recipe, out)
    assert done.returncode == 0, done.stderr
    assert "spoken: " in done.stderr  # the plan, and how much disk it takes
    assert f"{out}: 12 train, 4 valid, 4 test, 1 noise" in done.stdout
    assert is_packed(out)
    assert (out / "index" / "features.json").is_file()  # measured as kws pack does
    again = kws("fetch", published.recipe, out, "--json")
    assert again.returncode == 0
    assert len(json.loads(again.stdout)["notes"]) == 1
    assert published.web.served[NAME] == 1


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize(
    "faults",
    [*(pytest.param([fault], marks=pytest.mark.slow) for fault in ("drop", "truncate", "500")),
     ["429", "503", "drop", "truncate"]],
    ids=" ".join,
)  # fmt: skip
def test_temporary_faults_are_retried_and_reported(
    published: Published, tmp_path: Path, faults: list[str], ranges: bool
) -> None:
    published.web.ranges, published.web.faults[NAME] = ranges, list(faults)
    assert published.fetch(tmp_path / "out").read_bytes() == published.data
    assert published.web.served[NAME] == len(faults) + 1
    retries = [line for line in published.lines if "; resuming from" in line]
    assert len(retries) == len(faults)
    restarts = [line for line in published.lines if "starting from the beginning" in line]
    broken_off = sum(fault in ("drop", "truncate") for fault in faults)
    assert len(restarts) <= (0 if ranges else broken_off)
    if ranges and "drop" not in faults:  # a reset loses bytes in flight
        assert published.web.sent[NAME] == len(published.data)
    assert sorted(path.name for path in (tmp_path / "out" / ".fetch").iterdir()) == [NAME]


def test_tries_with_progress_are_not_counted(published: Published, tmp_path: Path) -> None:
    published.web.faults[NAME] = ["truncate"] * 9  # three delays
    assert published.fetch(tmp_path / "out").read_bytes() == published.data


def test_the_downloaded_part_is_kept_for_the_next_call(published: Published, tmp_path: Path) -> None:
    published.web.faults[NAME] = ["truncate", "503", "503", "503", "503"]
    with pytest.raises(UsageError, match=r"HTTP 503 .* tried 4 times; .*spoken.tar.gz.part"):
        published.fetch(tmp_path / "out")
    part = tmp_path / "out" / ".fetch" / f"{NAME}.part"
    assert published.data.startswith(part.read_bytes())
    half = part.stat().st_size
    assert half == len(published.data) // 2
    assert published.fetch(tmp_path / "out").read_bytes() == published.data
    assert published.web.sent[NAME] == len(published.data)  # nothing twice


def test_a_changed_archive_is_downloaded_from_the_start(published: Published, tmp_path: Path) -> None:
    """Otherwise parts of two archives would be joined."""
    other = small(seed=100)
    published.recipe = recipe_file(tmp_path, None, published.url)
    published.web.faults[NAME] = ["truncate", "404"]
    with pytest.raises(UsageError, match="404"):
        published.fetch(tmp_path / "out")
    published.publish(other, "second")
    assert published.fetch(tmp_path / "out").read_bytes() == other
    assert any("has changed: starting from the beginning" in line for line in published.lines)


@pytest.mark.slow
def test_an_archive_that_became_shorter_is_downloaded_from_the_start(published: Published, tmp_path: Path) -> None:
    published.recipe = recipe_file(tmp_path, None, published.url)
    published.web.faults[NAME] = ["truncate", "404"]
    with pytest.raises(UsageError, match="404"):
        published.fetch(tmp_path / "out")
    published.publish(b"short", "first")  # the server does not report the change
    assert published.fetch(tmp_path / "out").read_bytes() == b"short"


def test_without_version_or_sha256_a_download_is_not_resumed(published: Published, tmp_path: Path) -> None:
    published.recipe = recipe_file(tmp_path, None, published.url)
    published.web.version, published.web.faults[NAME] = "", ["truncate", "404"]
    with pytest.raises(UsageError, match="404"):
        published.fetch(tmp_path / "out")
    assert published.fetch(tmp_path / "out").read_bytes() == published.data
    assert any("starting from the beginning" in line for line in published.lines)


def test_a_complete_download_is_only_checked(published: Published, tmp_path: Path) -> None:
    """Killed after the last byte."""
    out = tmp_path / "out"
    published.fetch(out).rename(out / ".fetch" / f"{NAME}.part")
    about = {"address": published.url, "version": '"first"', "bytes": len(published.data)}
    (out / ".fetch" / f"{NAME}.json").write_text(json.dumps(about), encoding="utf-8")
    assert published.fetch(out).read_bytes() == published.data
    assert published.web.served[NAME] == 1


# --- refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["404", pytest.param("403", marks=pytest.mark.slow)])
def test_a_missing_archive_fails_at_once(published: Published, tmp_path: Path, code: str) -> None:
    published.web.faults[NAME] = [code]
    with pytest.raises(UsageError, match=rf"^{published.url}: HTTP {code} .*--url$"):
        published.fetch(tmp_path / "out")
    assert published.web.served[NAME] == 1


def test_wrong_bytes_are_refused_and_removed(published: Published, tmp_path: Path) -> None:
    wrong = bytes(len(published.data))
    published.publish(wrong)
    found, wanted = (hashlib.sha256(data).hexdigest() for data in (wrong, published.data))
    with pytest.raises(UsageError, match=f"found sha256 {found}, wanted {wanted}"):
        published.fetch(tmp_path / "out")
    assert list((tmp_path / "out" / ".fetch").iterdir()) == []
    published.publish(published.data)
    assert published.fetch(tmp_path / "out").read_bytes() == published.data


def test_another_size_is_refused_before_the_download(published: Published, tmp_path: Path) -> None:
    size = len(published.data)
    published.publish(published.data[:-100])
    with pytest.raises(UsageError, match=rf"{size - 100} bytes, .*spoken.toml has {size}"):
        published.fetch(tmp_path / "out")
    assert published.web.served[NAME] == 1


def test_a_truncated_archive_without_sha256_is_found_by_packing(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file(tmp_path, None, published.url)
    published.publish(published.data[:-100])
    assert cli.main(["fetch", str(published.recipe), str(tmp_path / "out")]) == cli.USAGE
    assert "damaged after" in capsys.readouterr().err
    assert not (tmp_path / "out" / "index").exists()


def test_other_words_or_counts_than_in_the_recipe_are_faults(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file(tmp_path, None, published.url, words='"low", "middle"', train=13)
    assert cli.main(["fetch", str(published.recipe), str(tmp_path / "out")]) == cli.FAILED
    said = capsys.readouterr().err
    assert "word middle: " in said
    assert "train: 12 clips" in said
    assert cli.main(["fetch", str(published.recipe), str(tmp_path / "out")]) == cli.USAGE
    assert str(tmp_path / "out") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["speech_commands_v0.03", "OUT"],
            "no such recipe.* demo, .*speech_commands_v0.01, ",
        ),
        (["speech_commands_24", "OUT"], "--url"),
        (["speech_commands_v0.01", "OUT", "--url", "s3://bucket/a.tar.gz"], "wanted http://, https://, file://"),
        (["speech_commands_v0.01", "OUT", "--url", "OUT/none.tar.gz"], "no such file"),
        (["speech_commands_v0.01", "OUT", "--url", "http://"], "no host"),
        (["speech_commands_v0.01", "OUT", "--url", "http://[::1/a.tar.gz"], "Invalid IPv6 URL"),
        (["speech_commands_v0.01", "OUT", "--url", "http://host:99999/a.tar.gz"], "Port out of range"),
        (["speech_commands_v0.01", "huge.toml/OUT"], "huge.toml/OUT: cannot be written .Not a directory"),
        (["speech_commands_v0.01", "served", "--url", "served/spoken.tar.gz"], "not empty"),
        (["huge.toml", "OUT"], "1.0 EB .* are free"),
    ],
)
def test_a_wrong_command_is_refused_with_one_line(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    text = published.recipe.read_text(encoding="utf-8")
    size = f"bytes = {len(published.data)}"
    (tmp_path / "huge.toml").write_text(text.replace(size, f"bytes = {10**18}"), encoding="utf-8")
    assert cli.main(["fetch", *arguments]) == cli.USAGE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("kws: ")
    assert re.search(message, said), said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_reported_with_one_line(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "out" / ".fetch" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    assert cli.main(["fetch", str(published.recipe), str(tmp_path / "out")]) == cli.USAGE
    said = capsys.readouterr().err
    assert str(part) in said
    assert "No space left on device" in said


# --- local archives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", pytest.param("file://{}", marks=pytest.mark.slow)])
def test_a_local_archive_is_used_in_place(
    published: Published, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "my own.tar.gz", tmp_path / "shards"
    mine.write_bytes(published.data)
    url = form.format(str(mine).replace(" ", "%20") if "://" in form else mine)
    assert cli.main(["fetch", str(published.recipe), str(out), "--url", url]) == cli.OK
    assert str(mine) in capsys.readouterr().err
    assert is_packed(out)
    assert mine.read_bytes() == published.data
    assert published.web.served[NAME] == 0


def test_a_local_archive_is_checked(published: Published, tmp_path: Path) -> None:
    mine = tmp_path / "mine.tar.gz"
    mine.write_bytes(published.data[:-1] + b"x")
    with pytest.raises(UsageError, match=f"^{mine}: found sha256 .*, wanted "):
        fetch.fetch_archive(recipe.load(published.recipe), str(mine), tmp_path / "out")
    assert mine.exists()


def test_keep_leaves_the_archive(published: Published, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["fetch", str(published.recipe), str(out), "--keep"]) == cli.OK
    assert (out / NAME).read_bytes() == published.data
    assert not (out / ".fetch").exists()


# --- killed ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_download_killed_twice_is_resumed(published: Published, tmp_path: Path, kws: Kws) -> None:
    """Each process gets half of what is missing and is killed in the silence that follows."""
    out, web = tmp_path / "shards", published.web
    part, sizes = out / ".fetch" / f"{NAME}.part", []
    for _ in range(2):
        web.stalled.clear()
        web.faults[NAME] = ["stall"]
        command = [sys.executable, "-m", "kws", "fetch", str(published.recipe), str(out)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            assert web.stalled.wait(60)
            while process.poll() is None and not (part.exists() and part.stat().st_size > sum(sizes)):
                os.sched_yield()
            os.killpg(process.pid, signal.SIGKILL)
        sizes.append(part.stat().st_size - sum(sizes))
        assert not (out / "index").exists()
        assert published.data.startswith(part.read_bytes())
    done = kws("fetch", published.recipe, out)
    assert done.returncode == 0, done.stderr
    assert is_packed(out)
    whole = len(published.data)
    lost = whole // 2 - sizes[0] + (whole - sizes[0]) // 2 - sizes[1]  # not written to the disk yet
    assert (web.served[NAME], web.sent[NAME]) == (3, whole + lost)


@pytest.mark.slow
def test_a_fetch_killed_while_packing_resumes_without_another_download(
    published: Published, tmp_path: Path, kws: Kws
) -> None:
    out = tmp_path / "shards"
    command = [sys.executable, "-m", "kws", "fetch", str(published.recipe), str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and not (out / ".packing").exists():
            os.sched_yield()
        os.killpg(process.pid, signal.SIGKILL)
    assert (out / ".fetch" / NAME).exists()
    done = kws("fetch", published.recipe, out)
    assert done.returncode == 0, done.stderr
    assert is_packed(out)
    assert published.web.served[NAME] == 1


def test_a_second_fetch_into_the_same_folder_is_refused(published: Published, tmp_path: Path) -> None:
    published.web.faults[NAME] = ["stall"]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kws", "fetch", str(published.recipe), str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        assert published.web.stalled.wait(60)
        with pytest.raises(UsageError, match="in use by another kws fetch"):
            published.fetch(out)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "at", [pytest.param("cleared", marks=pytest.mark.slow), "packed", pytest.param("measured", marks=pytest.mark.slow)]
)
def test_a_fetch_killed_after_packing_finishes(published: Published, tmp_path: Path, at: str) -> None:
    out = tmp_path / "out"
    assert cli.main(["fetch", str(published.recipe), str(out), "--keep"]) == cli.OK
    (out / ".fetch").mkdir()
    (out / NAME).rename(out / ".fetch" / NAME)
    if at == "cleared":  # all but the scratch folder itself
        (out / ".packing").mkdir()
    if at != "measured":
        (out / "index" / "features.json").unlink()
    assert cli.main(["fetch", str(published.recipe), str(out)]) == cli.OK
    assert (out / "index" / "features.json").is_file()
    assert is_packed(out)


# --- the official corpora -------------------------------------------------------------------------------------


def test_the_recipes_of_the_official_corpora_have_the_published_numbers() -> None:
    for version, clips, size in (("v0.01", 64_721, 1_489_096_277), ("v0.02", 105_829, 2_428_923_189)):
        known = recipe.find(f"speech_commands_{version}")
        assert known.words == set(official.CORPORA[version].words)
        assert known.clips == {**official.CORPORA[version].clips, "noise": 6}
        assert sum(known.clips.values()) == clips + 6
        assert (known.bytes, known.allow_leaks) == (size, True)
        assert known.url.endswith(f"/{next(iter(known.sha256))}")


def official_archive(version: str, lists: bool) -> bytes:
    """Every clip of the official archive under an official name, each of a few samples that no other has."""
    names = [name for clips in official.names(version).values() for name in clips] + list(official.NOISES)
    numbers = np.arange(len(names), dtype="<u4")[:, None] + np.zeros(4, "<u4")
    files = {name: codec.wav_bytes(number.view("<i2")) for name, number in zip(sorted(names), numbers, strict=True)}
    return archive_of(
        files | ({name: text.encode() for name, text in official.lists(version).items()} if lists else {})
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("version", "lists"), [pytest.param("v0.02", True, id="by lists"), pytest.param("v0.01", False, id="by hash")]
)
def test_the_full_official_layout(tmp_path: Path, kws: Kws, version: str, lists: bool) -> None:
    """105,829 clips through a server that drops three times: the recipe's words and counts come out."""
    known = shipped_files.folder("shards") / f"speech_commands_{version}.toml"
    text = known.read_text(encoding="utf-8").partition("[sha256]")[0]
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("bytes"))
    (tmp_path / known.name).write_text(text, encoding="utf-8")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / NAME).write_bytes(official_archive(version, lists))
    with serve(tmp_path / "served") as web:
        web.version, web.faults[NAME] = "official", ["drop", "truncate", "500"]
        done = kws("fetch", tmp_path / known.name, tmp_path / "out", "--url", f"{web.url}/{NAME}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("; resuming from") == 3
    corpus = index.load(tmp_path / "out")
    assert len(corpus.words) == len(official.CORPORA[version].words)
    for split, names in official.names(version).items():  # the hash rule made them, so both ways give the same
        assert len(corpus.split(split)) == len(names)
