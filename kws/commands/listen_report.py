"""What `kws listen` writes: a line for each event, as text or JSON, and a last line with the counts."""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Mapping

from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.microphone import Block, level_db
from kws.commands.listen_display import ListenDisplay
from kws.streaming.kept_clips import KeptClips
from kws.streaming.listening import ChunkResult


class ListenReport:
    """Writes events as they come, as text or JSON, and counts for the last line."""

    def __init__(self, as_json: bool, clips: KeptClips | None) -> None:
        self.display: ListenDisplay | None = None
        self._as_json, self._clips = as_json, clips
        self._events, self._near_misses = collections.Counter[str](), collections.Counter[str]()
        self._samples = self._overruns = self._files = 0

    def add(self, found: ChunkResult) -> None:
        """Writes what was found."""
        if self.display and found.latest:
            self.display.bars.push(*found.latest)
        for event in found.events:
            self._events[event.word] += 1
            self._write(f"{event.time_s:9.2f} s  {event.word}  {event.probability:.1%}", "event", event._asdict())
        for event in found.near_misses:
            self._near_misses[event.word] += 1
            self._write(f"{event.time_s:9.2f} s  ({event.word}: near miss)", "near_miss", event._asdict())
        for file in found.files:
            self._files += 1
            self._write("", "kept", {"file": str(file)})

    def add_block(self, block: Block) -> None:
        """Counts a block of the microphone, and draws the display."""
        self._samples += len(block.pcm)
        if block.lost:
            self._overruns += 1
            if self._overruns == 1:
                self._warn_of_overrun()
        if self.display:
            self.display.draw(self._status(), level_db(block.pcm))

    def end(self) -> None:
        """Writes the last line."""
        if self._as_json:
            counts = {"events": dict(self._events), "near_misses": dict(self._near_misses)}
            facts = {"seconds": round(self._seconds, 2), **counts, "overruns": self._overruns, "kept": self._files}
            self._write("", "end", facts)
            return
        words = ", ".join(f"{word} {count}" for word, count in self._events.most_common())
        print(f"{self._status(f' ({words})' if words else '')}{self._kept()}")

    @property
    def _seconds(self) -> float:
        return self._samples / SAMPLE_RATE_HZ

    def _status(self, words: str = "") -> str:
        """12.3 s, 3 events, 1 near miss, 2 overruns; `words` comes after the events."""
        events, misses = self._events.total(), self._near_misses.total()
        parts = [f"{self._seconds:.1f} s", f"{events} event{'s' * (events != 1)}{words}"]
        parts += [f"{misses} near miss{'es' * (misses != 1)}"] if misses else []
        parts += [f"{self._overruns} overrun{'s' * (self._overruns != 1)}"] if self._overruns else []
        return ", ".join(parts)

    def _kept(self) -> str:
        if not self._clips:
            return ""
        check = "next: listen to them and correct their folders"
        return f"; {self._files} clips kept; {check}, then kws pack {self._clips.folder} SHARDS"

    def _write(self, line: str, kind: str, facts: Mapping[str, object]) -> None:
        """Writes JSON to stdout; or the line, above the display where both are on the same terminal."""
        if self.display and line:
            self.display.add_line(line)
        if self._as_json:
            print(json.dumps({"kind": kind, **facts}), flush=True)
        elif line and not (self.display and sys.stdout.isatty()):
            print(line, flush=True)

    def _warn_of_overrun(self) -> None:
        line = f"{self._seconds:9.2f} s  overrun: samples of the microphone were lost; this computer is too slow"
        if self.display:
            self.display.add_line(line)
        else:
            print(line, file=sys.stderr)
