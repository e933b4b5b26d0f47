"""Tasks: which words belong to which class. Those of `shards/tasks` are frozen; users can write files like them.

    NAME, FILE.toml or A,B,C -> Definition, which a run stores -> resolve(definition, words) -> Task: each word's class

A definition is independent of a corpus; kws/data/selection.py selects a corpus's clips by it. The task `words` has no
file: every word of the corpus is a class, in alphabetical order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from kws import shipped_files
from kws.corpus.recording import to_nfc
from kws.errors import UsageError, did_you_mean, unreadable
from kws.renamed import current_value, old_value, renamed_note

WORDS, UNKNOWN, SILENCE = "words", "unknown", "silence"
SPLITS = ("train", "valid", "test")
_SHOWN_WORDS = 12
_LABEL_KEYS = ("name", "others", "unknown", "silence")
"""The keys, beside `classes`, that decide the label of a clip."""
Tree = dict[str, Any]
"""A definition as plain values: the contents of its file, and its name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silence:
    """A class of clips without speech, generated from the corpus.

    share: their number, as a share of the clips of the wanted words, or of all clips of the task (`of`). kind: windows
    of the noise recordings, or zeros (digital silence). splits: those that get such clips.
    """

    share: float
    of: Literal["wanted", "all"]
    kind: Literal["noise", "zeros"]
    splits: tuple[str, ...] = SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """A task.

    others: the class of words outside the classes; "drop": they are left out. unknown_share: how many of their clips
    are used, as a share of the clips of the wanted words; None: all. clips: its number of clips by split on the
    official `corpus`.
    """

    name: str
    classes: tuple[str, ...]
    others: Literal["unknown", "drop"] = "drop"
    unknown_share: float | None = None
    silence: Silence | None = None
    corpus: str = ""
    clips: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def hash_name(self) -> str:
        """The name that enters hashes: the task's first name, so that renaming it changes neither selection nor
        digest."""
        return old_value("data.task", self.name)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The classes that are words of the corpus: neither unknown nor silence."""
        special = {UNKNOWN} if self.others == "unknown" else set()
        return tuple(word for word in self.classes if word not in special | ({SILENCE} if self.silence else set()))

    def is_other(self, word: str) -> bool:
        """Whether a word of a corpus belongs to the class unknown."""
        return self.others == "unknown" and word not in self.wanted and not (self.silence and word == SILENCE)

    @property
    def digest(self) -> str:
        """A hash of everything that decides the label of a clip."""
        tree = self.tree() | {"name": self.hash_name}
        label_values = {key: tree.get(key) for key in (*_LABEL_KEYS, "classes")}
        return hashlib.sha256(json.dumps(label_values, sort_keys=True).encode()).hexdigest()[:16]

    def tree(self) -> Tree:
        """The definition for a checkpoint or run.json; `parse` reads it."""
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
    """A definition applied to a corpus: `class_of[w]` is the label of word number w; -1: the word is left out."""

    definition: Definition
    class_of: tuple[int, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels."""
        return self.definition.classes


def rounded_share(share: float, count: int) -> int:
    """`share` times `count`, rounded up. Computed in decimal: 0.1 of 10 is 1, although the float 0.1 is a little
    larger."""
    return math.ceil(Fraction(str(share)) * count)


def words_task(words: Iterable[str], silence: float = 0.0, has_unknown: bool = False) -> Definition:
    """The task `words` of a corpus; with `silence` > 0 one more class, with that share of all clips. has_unknown: the
    class unknown is there too, for windows of negatives."""
    section = Silence(share=silence, of="all", kind="noise") if silence else None
    special = {SILENCE} if section else set()
    if has_unknown:
        special.add(UNKNOWN)
    others: Literal["unknown", "drop"] = "unknown" if has_unknown else "drop"
    return Definition(name=WORDS, classes=tuple(sorted({*words, *special})), others=others, silence=section)


def resolve(definition: Definition, words: Sequence[str]) -> Task:
    """The task on a corpus with these words. Raises UsageError where a word of the task is missing."""
    present = set(words)
    missing = [word for word in definition.wanted if word not in present]
    if missing and "," in definition.name:
        raise UsageError(
            f"data.task: the corpus has no word {', '.join(missing)}, but {', '.join(sorted(words)[:_SHOWN_WORDS])}"
            f"{', ...' if len(words) > _SHOWN_WORDS else ''}{did_you_mean(missing[0], words)}"
        )
    if missing:
        raise UsageError(
            f"data.task={definition.name}: the corpus has no word {', '.join(missing)}, and a task means the same on "
            "every corpus; write your own task, FILE.toml (see shards/README.md), and use that"
        )
    labels = {word: label for label, word in enumerate(definition.classes)}
    outside = labels[UNKNOWN] if definition.others == "unknown" else -1
    return Task(definition, tuple(labels.get(word, outside) for word in words))


# --- files ----------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Names of the frozen tasks, those in shards/tasks."""
    return sorted(path.stem for path in shipped_files.folder("shards/tasks").glob("*.toml"))


def load(name: str, note: Callable[[str], object] = lambda line: None) -> Definition:
    """A frozen task by its name, the task in a file, or that of classes between commas. Raises UsageError where there
    is none.

    `note` is called with a line where the task has been renamed.
    """
    current = current_value("data.task", name)
    if current != name:
        note(renamed_note("data.task", name))
    if current in names():
        return _read(shipped_files.folder("shards/tasks") / f"{current}.toml")
    if not name.endswith(".toml"):
        if "," in name:
            return _of_classes(name)
        known = ", ".join([WORDS, *names()])
        near = did_you_mean(name, [WORDS, *names()])
        raise UsageError(
            f"data.task: no task {name!r}; known are {known}; or give classes, such as {UNKNOWN},{SILENCE},stop,go, or "
            f"a file of your own, FILE.toml{near}"
        )
    found = _read(Path(name))
    frozen = found.name in names() and load(found.name)
    if found.name == WORDS or (frozen and differences(frozen.tree(), found.tree())):
        raise UsageError(f"data.task: {name}: {found.name} is the name of another task; give the file another name")
    return found


def _of_classes(listed: str) -> Definition:
    """The task of classes between commas, such as unknown,silence,stop,go. With `unknown` it has all clips of all other
    words, with `silence` as many windows of noise as a word has clips on average."""
    classes = [name.strip() for name in listed.split(",") if name.strip()]
    words = [name for name in classes if name not in (UNKNOWN, SILENCE)]
    if not words:
        raise UsageError(f"data.task: {listed!r} has no word; wanted such as {UNKNOWN},{SILENCE},stop,go")
    tree: Tree = {"name": ",".join(classes), "classes": classes, "others": "unknown" if UNKNOWN in classes else "drop"}
    if SILENCE in classes:
        tree["silence"] = {"share": round(1.0 / len(words), 6), "of": "wanted", "kind": "noise"}
    return parse(tree, f"data.task: {listed}")


def _read(path: Path) -> Definition:
    try:
        return parse({**tomllib.loads(path.read_text(encoding="utf-8")), "name": path.stem}, f"data.task: {path}")
    except OSError as error:
        raise UsageError(
            f"data.task: {unreadable(error, path, 'wanted a task such as those in shards/tasks')}"
        ) from error
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"data.task: {path}: not TOML: {error}") from error


def parse(tree: Mapping[str, Any], where: str) -> Definition:
    """A definition from plain values, also those of older versions. Raises UsageError that lists every mistake; `where`
    heads the message."""
    wrong = list(_mistakes(tree))
    if wrong:
        raise UsageError(f"{where}: not a task: {'; '.join(wrong)}")
    silence = tree.get("silence")
    return Definition(
        name=current_value("data.task", tree.get("name", "")),
        classes=tuple(map(to_nfc, tree["classes"])),
        others=tree["others"],
        unknown_share=tree["unknown"]["share"] if "unknown" in tree else None,
        silence=Silence(**{**silence, "splits": tuple(silence.get("splits", SPLITS))}) if silence else None,
        corpus=tree.get("corpus", ""),
        clips=dict(tree.get("clips", {})),
    )


def from_state(state: Mapping[str, Any], where: Path) -> Definition:
    """The task in a checkpoint's state. Raises UsageError where there is none."""
    if not isinstance(state.get("task"), Mapping):
        raise UsageError(f"{where}: written by an older kws without a task; train again with this version")
    return parse(state["task"], f"{where}: state.json")


_KEYS = ("name", "about", "from", "corpus", "classes", "others", "unknown", "silence", "clips")


def _mistakes(tree: Mapping[str, Any]) -> Iterable[str]:
    yield from (f"unknown key {key}, there are {', '.join(_KEYS[1:])}" for key in tree if key not in _KEYS)
    classes: Any = tree.get("classes")
    others = tree.get("others")
    if not _are(classes, str) or len(set(classes)) != len(classes) or len(classes) < 2:
        yield f"classes: wanted two different words or more, found {classes!r}"
        classes = (
            classes if _are(classes, str) else (UNKNOWN, SILENCE)
        )  # so that one mistake is not reported three times
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
    """Mistakes in a section with the key `share` and optional `more` keys."""
    share = tree.get("share") if isinstance(tree, dict) else None
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 10.0:
        yield f"{section}: wanted a share of more than 0 and at most 10 clips for each, found {share!r}"
    unknown = sorted(set(tree) - {"share", *more}) if isinstance(tree, dict) else []
    yield from (f"unknown key {section}.{key}" for key in unknown)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    """The differences between two trees that change the label of a clip, a line each. Renamed tasks are equal."""
    before, after = (_with_current_name(tree) for tree in (old, new))
    lines = [
        f"task's {key}: {before.get(key)} there, {after.get(key)} now"
        for key in _LABEL_KEYS
        if before.get(key) != after.get(key)
    ]
    old_classes, new_classes = before.get("classes", []), after.get("classes", [])
    removed = " ".join(word for word in old_classes if word not in new_classes)
    added = " ".join(word for word in new_classes if word not in old_classes)
    if removed or added:
        lines.append(f"task's classes: {removed or 'none more'} there, {added or 'none more'} now")
    elif old_classes != new_classes:
        lines.append(f"task's classes: {' '.join(old_classes)} there, in another order now")
    return lines


def _with_current_name(tree: Mapping[str, Any] | None) -> Mapping[str, Any]:
    plain = cast("Mapping[str, Any]", tree if isinstance(tree, Mapping) else {})
    return {**plain, "name": current_value("data.task", plain["name"])} if "name" in plain else plain
