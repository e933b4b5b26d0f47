"""Children that answer, hang, crash and print."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kws.doctor.child_process import Child, ChildError, ask_once

CHILD = """
import os, signal, sys, time
from kws.doctor.child_process import answer_parent
from kws.errors import UsageError

def work(task, send):
    print("noise on stdout")
    if task["do"] == "echo":
        send({"first": task})
        send({"second": sys.stdin.readline()})
    elif task["do"] == "hang":
        time.sleep(60)
    elif task["do"] == "abort":
        os.abort()
    elif task["do"] == "usage":
        raise UsageError("data.shards: not set")
    else:
        raise KeyError("a bug")

if __name__ == "__main__":
    answer_parent(work)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path), str(Path(__file__).parents[2])]))
    return "some_child"


def test_answers_come_in_order_and_what_is_printed_is_none(module: str) -> None:
    child = Child(module, {"do": "echo"})
    try:
        assert child.answer(30.0) == {"first": {"do": "echo"}}
        child.send({"go": 1})
        assert child.answer(30.0) == {"second": '{"go": 1}\n'}
    finally:
        child.end()


def test_a_child_that_hangs_is_killed_at_the_limit(module: str) -> None:
    child = Child(module, {"do": "hang"})
    began = time.monotonic()
    with pytest.raises(ChildError, match="no answer"):
        child.answer(0.2)
    assert time.monotonic() - began < 20.0
    assert child._process.poll() is not None


@pytest.mark.parametrize(("do", "text"), [("abort", "SIGABRT"), ("bug", "KeyError: 'a bug'"), ("usage", "data.shards")])
def test_a_child_that_fails_says_why_in_a_line(do: str, text: str, module: str) -> None:
    answer = ask_once(module, {"do": do}, 30.0)
    assert text in answer["error"]
    assert "\n" not in answer["error"]


def test_a_module_that_does_not_import_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_child.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "a_package_that_is_missing" in ask_once("broken_child", {}, 30.0)["error"]
