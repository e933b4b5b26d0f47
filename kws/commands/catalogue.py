"""The table of networks that `kws models` prints: cost and receptive field, with the features of each config."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from kws import settings_file, shipped_files
from kws.audio.codec import SAMPLE_RATE_HZ, clip_samples
from kws.audio.features import Features
from kws.config import Config
from kws.data.clip_lengths import SHORTEST_AUTO_S
from kws.errors import UsageError
from kws.models import registry
from kws.models.cost import count_parameters, multiply_adds, multiply_adds_per_second
from kws.models.time_context import TimeNetwork


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
    """A network's name, family, features, input shape, parameters, paper, config, and multiply-adds of a clip and of a
    second of continuous audio (streamed, or a window every 100 ms).

    The receptive field is that of one position of the embedding whose mean over time is classified; None for networks
    of families that cannot stream.
    """
    path = shipped_files.folder("configs") / f"{name}.toml"
    config = settings_file.load(path) if path.is_file() else Config()
    samples = clip_samples(SHORTEST_AUTO_S if config.data.clip_seconds == "auto" else config.data.clip_seconds)
    features = Features(config.frontend.features)
    shape, hop = features.shape(samples), features.spec.hop
    with torch.device("meta"):  # shapes only: no weights are initialised and nothing is computed
        network = registry.build_model(name, num_classes, shape)
        field = network.receptive_field if isinstance(network, TimeNetwork) else None
        return {
            "name": name,
            "family": registry.MODELS[name].family,
            "features": config.frontend.features,
            "input": shape,
            "parameters": count_parameters(network),
            "multiply_adds": multiply_adds(network, shape),
            "multiply_adds_per_s": round(multiply_adds_per_second(network, shape, SAMPLE_RATE_HZ / hop)),
            "streams": isinstance(network, TimeNetwork) and network.streams,
            "receptive_field_frames": field,
            "receptive_field_s": field and ((field - 1) * hop + features.spec.window) / SAMPLE_RATE_HZ,
            "paper": registry.MODELS[name].paper,
            "config": f"configs/{path.name}" if path.is_file() else "",
        }


def networks_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a terminal table with one section per family; 80 columns have no room for the features, the last."""
    found = Table(
        "network", "parameters", "per\nclip", "per\nsecond", "receptive\nfield", "stream", "input", "features"
    )
    found.title, found.box, found.show_edge = (
        "networks with 35 classes; per clip and per second: million multiply-adds",
        box.SIMPLE_HEAD,
        False,
    )
    found.padding, found.pad_edge = 0, False
    for column in found.columns[:-1]:
        column.no_wrap = True
    for column in found.columns[1:5]:
        column.justify = "right"
    family = None
    for item in rows:
        if item["family"] != family:
            family = item["family"]
            found.add_section()
            found.add_row(f"[dim]{family}[/dim]")
        _, bands, frames = item["input"]
        found.add_row(
            item["name"], f"{item['parameters']:,}", _millions(item["multiply_adds"]),
            _millions(item["multiply_adds_per_s"]), _receptive_field(item), "yes" if item["streams"] else "",
            f"{bands} x {frames}", Text(item["features"], no_wrap=True, overflow="ellipsis"),
        )  # fmt: skip
    without = [item["name"] for item in rows if not item["config"]]
    found.caption = (
        "per second: of continuous audio, streamed where the network can, else a window every 100 ms; receptive field: "
        "in frames, and in seconds; input: bands x frames; each network has a config, configs/NETWORK.toml"
    ) + (f", except {', '.join(without)}" if without else "")
    return found


def _millions(count: float) -> str:
    return f"{count / 1e6:,.{0 if count >= 1e9 else 1}f}"


def _receptive_field(item: dict[str, Any]) -> str:
    frames, seconds = item["receptive_field_frames"], item["receptive_field_s"]
    return "" if frames is None else f"{frames} {seconds:.2f} s"
