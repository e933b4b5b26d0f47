"""Which words are which classes: the frozen tasks of `shards/tasks`, and files of one's own like them.

    NAME or FILE.toml -> Definition, which a run keeps whole -> resolve(definition, words) -> Task: each word's class

A definition knows no corpus; which clips of one it takes is kws/data/selection.py's to say. `words` has no file: every
word of the corpus is a class, in alphabetical order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from kws.corpus import shipped_files
from kws.corpus.recording import to_nfc
from kws.errors import UsageError

WORDS, UNKNOWN, SILENCE = "words", "unknown", "silence"
SPLITS = ("train", "valid", "test")
_DECIDING = ("name", "others", "unknown", "silence")
"""Beside the classes: what decides which clip is which class."""
Tree = dict[str, Any]
"""A definition as plain values: what its file has, and its name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silence:
    """A class of clips without speech: `share` for each clip of the wanted words, or of all that the task takes.

    noise: windows of the noise recordings; zeros: digital silence. `splits`: those that have any.
    """

    share: float
    of: Literal["wanted", "all"]
    kind: Literal["noise", "zeros"]
    splits: tuple[str, ...] = SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """A task. `others` says what words outside its classes are; `unknown_share` how many clips of theirs are taken, for
    each clip of a wanted word (None: all). `clips`: what comes out of the official `corpus`, by split."""

    name: str
    classes: tuple[str, ...]
    others: Literal["unknown", "drop"] = "drop"
    unknown_share: float | None = None
    silence: Silence | None = None
    corpus: str = ""
    clips: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The classes that are words."""
        made = {UNKNOWN} if self.others == "unknown" else set()
        return tuple(word for word in self.classes if word not in made | ({SILENCE} if self.silence else set()))

    def is_other(self, word: str) -> bool:
        """Whether a word of a corpus is outside the classes, and counts as unknown."""
        return self.others == "unknown" and word not in self.wanted and not (self.silence and word == SILENCE)

    @property
    def digest(self) -> str:
        """Equal for tasks of the same name that decide alike which clip is which class."""
        tree = self.tree()
        deciding = {key: tree.get(key) for key in (*_DECIDING, "classes")}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]

    def tree(self) -> Tree:
        """For a checkpoint or run.json; `parse` makes the same of it."""
        unknown = {} if self.unknown_share is None else {"unknown": {"share": self.unknown_share}}
        silence = (
            {"silence": dataclasses.asdict(self.silence) | {"splits": list(self.silence.splits)}}
            if self.silence
            else {}
        )
        kept = {"name": self.name, "classes": list(self.classes), "others": self.others}
        return {**kept, **unknown, **silence, "corpus": self.corpus, "clips": dict(self.clips)}


@dataclasses.dataclass(frozen=True)
class Task:
    """A definition on a corpus: `class_of[w]` is the label of its word w, -1 where that is left out."""

    definition: Definition
    class_of: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels' names."""
        return self.definition.classes


def rounded_share(share: float, count: int) -> int:
    """That share of so many clips, rounded up; 0.1 of 10 is 1, though 0.1 is a little more in binary."""
    return math.ceil(Fraction(str(share)) * count)


def words_task(words: Iterable[str], silence: float = 0.0) -> Definition:
    """The task `words` of a corpus; `silence` for each of its clips, as one more class."""
    made = Silence(share=silence, of="all", kind="noise") if silence else None
    return Definition(name=WORDS, classes=tuple(sorted({*words, SILENCE} if made else words)), silence=made)


def resolve(definition: Definition, words: Sequence[str]) -> Task:
    """The class of each of a corpus's words. Raises UsageError where it lacks words that the task wants."""
    there = set(words)
    missing = [word for word in definition.wanted if word not in there]
    if missing:
        raise UsageError(
            f"data.task={definition.name}: the corpus has no word {', '.join(missing)}, and a task means the same on "
            "every corpus; write a task of your own, FILE.toml, as shards/README.md says, and give that"
        )
    labels = {word: label for label, word in enumerate(definition.classes)}
    outside = labels[UNKNOWN] if definition.others == "unknown" else -1
    return Task(definition, tuple(labels.get(word, outside) for word in words))


# --- files ----------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Of the tasks that have a file of their own in shards/tasks."""
    return sorted(path.stem for path in shipped_files.folder("tasks").glob("*.toml"))


def load(name: str) -> Definition:
    """A frozen task by its name, or the file at a path. Raises UsageError where there is none, or it is none."""
    if name in names():
        return _read(shipped_files.folder("tasks") / f"{name}.toml")
    if not name.endswith(".toml"):
        there = ", ".join([WORDS, *names()])
        raise UsageError(f"data.task: no task {name!r}; there are {there}; or give a file of your own, FILE.toml")
    found = _read(Path(name))
    frozen = found.name in names() and load(found.name)
    if found.name == WORDS or (frozen and differences(frozen.tree(), found.tree())):
        raise UsageError(f"data.task: {name}: {found.name} is the name of another task; call the file otherwise")
    return found


def _read(path: Path) -> Definition:
    try:
        return parse({**tomllib.loads(path.read_text(encoding="utf-8")), "name": path.stem}, f"data.task: {path}")
    except OSError as error:
        raise UsageError(
            f"data.task: {path} cannot be read ({error.strerror}); wanted a task such as those in shards/tasks"
        ) from error
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"data.task: {path}: not TOML: {error}") from error


def parse(tree: Mapping[str, Any], where: str) -> Definition:
    """A definition from plain values. Raises UsageError, headed by `where`, with every mistake in it."""
    wrong = list(_mistakes(tree))
    if wrong:
        raise UsageError(f"{where}: not a task: {'; '.join(wrong)}")
    silence = tree.get("silence")
    return Definition(
        name=tree.get("name", ""),
        classes=tuple(map(to_nfc, tree["classes"])),
        others=tree["others"],
        unknown_share=tree["unknown"]["share"] if "unknown" in tree else None,
        silence=Silence(**{**silence, "splits": tuple(silence.get("splits", SPLITS))}) if silence else None,
        corpus=tree.get("corpus", ""),
        clips=dict(tree.get("clips", {})),
    )


def from_state(state: Mapping[str, Any], where: Path) -> Definition:
    """The task that a checkpoint's state keeps. Raises UsageError where it keeps none."""
    if not isinstance(state.get("task"), Mapping):
        raise UsageError(f"{where}: of an older kws, which kept no task; train again with this one")
    return parse(state["task"], f"{where}: state.json")


_KEYS = ("name", "about", "from", "corpus", "classes", "others", "unknown", "silence", "clips")


def _mistakes(tree: Mapping[str, Any]) -> Iterable[str]:
    yield from (f"unknown key {key}, there are {', '.join(_KEYS[1:])}" for key in tree if key not in _KEYS)
    classes: Any = tree.get("classes")
    others = tree.get("others")
    if not _are(classes, str) or len(set(classes)) != len(classes) or len(classes) < 2:
        yield f"classes: wanted two different words or more, found {classes!r}"
        classes = classes if _are(classes, str) else (UNKNOWN, SILENCE)  # one mistake is not to be said thrice
    if others not in ("unknown", "drop"):
        yield f'others: wanted "unknown" or "drop", found {others!r}'
    if others == "unknown" and UNKNOWN not in classes:
        yield f'others = "unknown": wanted {UNKNOWN} among the classes'
    if "unknown" in tree:
        yield from _share(tree["unknown"], "unknown", ())
        if others != "unknown":
            yield 'unknown: wanted others = "unknown" beside it'
    if "silence" in tree:
        yield from _silence(tree["silence"])
        if SILENCE not in classes:
            yield f"silence: wanted {SILENCE} among the classes"
    clips = tree.get("clips", {})
    if not isinstance(clips, dict) or not set(clips) <= set(SPLITS) or not _are(list(clips.values()), int):
        yield f"clips: wanted numbers of {', '.join(SPLITS)}, found {clips!r}"
    texts = ("name", "about", "from", "corpus")
    yield from (f"{key}: wanted text" for key in texts if not isinstance(tree.get(key, ""), str))


def _silence(tree: Any) -> Iterable[str]:
    yield from _share(tree, "silence", ("of", "kind", "splits"))
    if isinstance(tree, dict):
        if tree.get("of") not in ("wanted", "all"):
            yield f'silence.of: wanted "wanted" or "all", found {tree.get("of")!r}'
        if tree.get("kind") not in ("noise", "zeros"):
            yield f'silence.kind: wanted "noise" or "zeros", found {tree.get("kind")!r}'
        splits = tree.get("splits", list(SPLITS))
        if not _are(splits, str) or not set(splits) <= set(SPLITS):
            yield f"silence.splits: wanted some of {', '.join(SPLITS)}, found {splits!r}"


def _share(tree: Any, section: str, more: Sequence[str]) -> Iterable[str]:
    """Of a section that has a share, and perhaps `more` keys."""
    share = tree.get("share") if isinstance(tree, dict) else None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 10.0:
        yield f"{section}: wanted a share of more than 0 and at most 10 clips for each, found {share!r}"
    strange = sorted(set(tree) - {"share", *more}) if isinstance(tree, dict) else []
    yield from (f"unknown key {section}.{key}" for key in strange)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    """A line for each thing that decides which clip is which class, and differs between two trees."""
    was = cast("Mapping[str, Any]", old if isinstance(old, Mapping) else {})
    lines = [
        f"task's {key}: {was.get(key)} there, {new.get(key)} now" for key in _DECIDING if was.get(key) != new.get(key)
    ]
    before, after = was.get("classes", []), new.get("classes", [])
    gone, come = (
        " ".join(word for word in one if word not in other) for one, other in ((before, after), (after, before))
    )
    if gone or come:
        lines.append(f"task's classes: {gone or 'none more'} there, {come or 'none more'} now")
    elif before != after:
        lines.append(f"task's classes: {' '.join(before)} there, in another order now")
    return lines
