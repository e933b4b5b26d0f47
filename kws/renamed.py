"""Old names and removed settings that runs, configs and scripts may still contain, and how they are read."""

from __future__ import annotations

from typing import Any

RENAMED_VALUES: dict[str, dict[str, str]] = {
    "data.task": {"seed-12": "v1-12-full"},
    "frontend.augment": {"seed": "classic"},
}
"""`section.key` of a setting -> its old value -> the value now. Old values are still read, with a note."""


REMOVED_SETTINGS: dict[str, tuple[object, str]] = {
    "train.sync_batchnorm": (False, "each slot always has its own batch-norm statistics"),
}
"""`section.key` of a setting that no longer exists -> the value with which it is ignored, with a note; and why it was
removed. Any other value is refused."""


BEFORE_SETTING: dict[str, object] = {"data.excerpt": "start"}
"""`section.key` of a setting -> what every run did before the setting existed: a run folder whose config.toml lacks it
did this."""


def current_value(key: str, value: Any) -> Any:
    """The value of the setting `key`, by its present name."""
    return RENAMED_VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def old_value(key: str, value: str) -> str:
    """The value by its first name, for hashes that were computed from it."""
    return next((old for old, new in RENAMED_VALUES[key].items() if new == value), value)


def renamed_note(key: str, old: object) -> str:
    """The line for the user about an old value."""
    return f'{key}: "{old}" is now called "{current_value(key, old)}"'
