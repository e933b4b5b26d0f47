"""A child process that answers in lines of JSON and can be given up: a check in it may hang or crash, kws may not.

parent: Child(module, task).answer(limit_s)  <--- a pipe of its own ---  child: answer_parent(work)
                                             <--- stdout and stderr: the last line explains a failure
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from kws.distributed import parent_death
from kws.errors import user_message

Answer = dict[str, Any]
Send = Callable[[Answer], None]
_KILLED_S = 2.0
_LINES = 30


class ChildError(Exception):
    """The child gave no answer; the message is the reason, in one line."""


class Child:
    """`python -m MODULE`, which gets `task` as JSON. Its lines of stdin are the messages of `send`."""

    def __init__(self, module: str, task: Answer) -> None:
        reader, writer = os.pipe()
        command = [sys.executable, "-m", module, str(writer), json.dumps(task)]
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, writer)
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(writer,)
            )
        self._answers: queue.Queue[Answer | None] = queue.Queue()
        self._output: list[str] = []
        assert self._process.stdout is not None
        self._readers = [
            threading.Thread(target=self._read_answers, args=(os.fdopen(reader),), daemon=True),
            threading.Thread(target=self._read_output, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._readers:
            thread.start()

    def send(self, message: Answer) -> None:
        """Sends a line to the child; without effect where it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, limit_s: float) -> Answer:
        """The child's next answer. Raises ChildError where it ends without one, or is too slow; then it is killed."""
        try:
            answer = self._answers.get(timeout=max(0.0, limit_s))
        except queue.Empty:
            self.end()
            raise ChildError(f"no answer within {limit_s:g} s") from None
        if answer is None:
            raise ChildError(self._why_ended())
        return answer

    def end(self) -> None:
        """Kills the child. One that the kernel cannot kill, because a file system does not answer, is left behind."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_S)
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _read_answers(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._answers.put(json.loads(line))
        self._answers.put(None)

    def _read_output(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._output = [*self._output, line.decode(errors="replace").strip()][-_LINES:]

    def _why_ended(self) -> str:
        self.end()
        self._readers[1].join(_KILLED_S)
        code = self._process.returncode
        last = next((line for line in reversed(self._output) if line), "")
        if code is not None and code < 0 and code != -signal.SIGKILL:
            return f"ended by {signal.Signals(-code).name}" + (f": {last}" if last else "")
        return last or f"ended without an answer (exit code {code})"


def ask_once(module: str, task: Answer, limit_s: float) -> Answer:
    """The only answer of a child, or {"error": why there is none}."""
    child = Child(module, task)
    try:
        return child.answer(limit_s)
    except ChildError as error:
        return {"error": str(error)}
    finally:
        child.end()


def answer_parent(work: Callable[[Answer, Send], None]) -> None:
    """The main function of a child: calls work(task, send). An error that the user can fix is sent as {"error": ...};
    any other ends the child with a traceback, whose last line the parent shows."""
    parent_death.end_with_parent(signal.SIGKILL)
    pipe = os.fdopen(int(sys.argv[1]), "w")

    def send(answer: Answer) -> None:
        pipe.write(json.dumps(answer) + "\n")
        pipe.flush()

    code = 0
    try:
        work(json.loads(sys.argv[2]), send)
    except Exception as error:  # noqa: BLE001  # of whatever kind: the parent shows it
        line = user_message(error)
        if line is None:
            traceback.print_exc()
            code = 1
        else:
            send({"error": line})
    # Not sys.exit: threads of libraries may still wait for what does not come.
    sys.stdout.flush()
    os._exit(code)
