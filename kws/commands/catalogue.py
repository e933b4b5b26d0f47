"""The networks in a table: what each costs at the front end that its config gives it."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from kws import config as settings_file
from kws import models
from kws.audio.codec import clip_samples
from kws.audio.features import Features
from kws.config import Config
from kws.errors import UsageError
from kws.models.cost import multiply_adds

CONFIGS = Path(__file__).parent.parent / "configs"
"""Of a checkout; an installed package has none."""


def matching(patterns: Sequence[str]) -> list[str]:
    """Names of networks that a pattern fits, in the registry's order; all without patterns. Raises UsageError where one
    fits none."""
    for pattern in patterns:
        if not fnmatch.filter(models.MODELS, pattern):
            near = difflib.get_close_matches(pattern, models.MODELS, n=1, cutoff=0.0)[0]
            raise UsageError(f"kws models {pattern}: no network is called so; the nearest is {near}, all: kws models")
    return [name for name in models.MODELS if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)]


def row(name: str, num_classes: int = 35) -> dict[str, Any]:
    """A network's name, family, front end, input, parameters, multiply-adds of a clip, paper and config."""
    path = CONFIGS / f"{name}.toml"
    config = settings_file.load(path) if path.is_file() else Config()
    samples = clip_samples(config.data.clip_seconds)
    shape = Features(config.frontend.features).shape(samples)
    with torch.device("meta"):  # shapes alone: no weights are drawn and nothing is computed
        network = models.build(name, num_classes, shape)
        return {
            "name": name,
            "family": models.MODELS[name].family,
            "features": config.frontend.features,
            "input": shape,
            "parameters": models.count_parameters(network),
            "multiply_adds": multiply_adds(network, shape),
            "paper": models.MODELS[name].paper,
            "config": f"configs/{path.name}" if path.is_file() else "",
        }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """For people: a section a family. Fits 80 columns."""
    found = Table("network", "parameters", "mult-adds", "input", title="for 35 classes")
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
    found.caption = "each trains with configs/NETWORK.toml" + (f", but not {', '.join(without)}" if without else "")
    return found
