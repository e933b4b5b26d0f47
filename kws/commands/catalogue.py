"""The table of networks that `kws models` prints: parameters and multiply-adds, with the features of each config."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from kws import settings_file, shipped_files
from kws.audio.codec import clip_samples
from kws.audio.features import Features
from kws.config import Config
from kws.data.clip_lengths import SHORTEST_AUTO_S
from kws.errors import UsageError
from kws.models import registry
from kws.models.cost import count_parameters, multiply_adds


def find_names(patterns: Sequence[str]) -> list[str]:
    """Names of the networks that match any of the patterns (all without patterns), in the registry's order.

    Raises UsageError where a pattern matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter(registry.MODELS, pattern):
            near = difflib.get_close_matches(pattern, registry.MODELS, n=1, cutoff=0.0)[0]
            raise UsageError(
                f"kws models {pattern}: no network has this name; the closest is {near}; `kws models` lists all"
            )
    return [name for name in registry.MODELS if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)]


def network_row(name: str, num_classes: int = 35) -> dict[str, Any]:
    """A network's name, family, features, input shape, parameters, multiply-adds per clip, paper and config."""
    path = shipped_files.folder("configs") / f"{name}.toml"
    config = settings_file.load(path) if path.is_file() else Config()
    samples = clip_samples(SHORTEST_AUTO_S if config.data.clip_seconds == "auto" else config.data.clip_seconds)
    shape = Features(config.frontend.features).shape(samples)
    with torch.device("meta"):  # shapes only: no weights are initialised and nothing is computed
        network = registry.build_model(name, num_classes, shape)
        return {
            "name": name,
            "family": registry.MODELS[name].family,
            "features": config.frontend.features,
            "input": shape,
            "parameters": count_parameters(network),
            "multiply_adds": multiply_adds(network, shape),
            "paper": registry.MODELS[name].paper,
            "config": f"configs/{path.name}" if path.is_file() else "",
        }


def networks_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a terminal table with one section per family; fits into 80 columns."""
    found = Table("network", "parameters", "mult-adds", "input", title="with 35 classes")
    found.columns[0].no_wrap = found.columns[3].no_wrap = True
    for column in (found.columns[1], found.columns[2]):
        column.justify = "right"
    family = None
    for item in rows:
        if item["family"] != family:
            family = item["family"]
            found.add_section()
            found.add_row(f"[dim]{family}[/dim]")
        _, bands, frames = item["input"]
        found.add_row(
            item["name"], f"{item['parameters']:,}", f"{item['multiply_adds'] / 1e6:,.1f} M",
            f"{bands} x {frames} {item['features']}",
        )  # fmt: skip
    without = [item["name"] for item in rows if not item["config"]]
    found.caption = "each has a config, configs/NETWORK.toml" + (f", except {', '.join(without)}" if without else "")
    return found
