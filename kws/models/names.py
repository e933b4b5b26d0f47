"""The names of all networks without importing them, and so without torch."""

import ast
import functools
from pathlib import Path

from kws.errors import UsageError, did_you_mean


@functools.cache
def network_names() -> tuple[str, ...]:
    """The keys of registry.MODELS, read from its source."""
    tree = ast.parse(Path(__file__).with_name("registry.py").read_text(encoding="utf-8"))
    (table,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "MODELS"
    ]
    assert isinstance(table, ast.Dict)
    return tuple(ast.literal_eval(key) for key in table.keys if key is not None)


def refuse_unknown(name: str) -> None:
    """Raises UsageError with the nearest names where no network has this name."""
    if name not in network_names():
        near = did_you_mean(name, network_names())
        raise UsageError(f"model.name: no network is called {name!r}; kws models lists all{near}")
