"""Every shipped config loads and has features that fit its network; small ones train a step, in the full run all do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kws import settings_file
from kws.audio.augment import AugmentationChain
from kws.audio.features import SPECS, Features
from kws.models import registry
from kws.training.optim import build_optimizer, lr_at, set_lr

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
# Configs whose step is tested by default: a small network of each family.
QUICK = ("demo", "quick", "resnet20", "tc_resnet8")
CPU = torch.device("cpu")


def test_every_network_has_a_config() -> None:
    assert {path.stem for path in CONFIGS} >= {*registry.MODELS, "demo", "quick"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_its_features_fit_its_network(path: Path) -> None:
    config = settings_file.load(path)
    _, bands, frames = Features(config.frontend.features).shape(16000)
    least_bands, least_frames = registry.MODELS[config.model.name].smallest
    assert bands >= least_bands
    assert frames >= least_frames


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=() if p.stem in QUICK else pytest.mark.slow, id=p.stem) for p in CONFIGS]
)
def test_it_trains_a_step(path: Path) -> None:
    config = settings_file.load(path)
    samples = 16000
    bands = SPECS[config.frontend.features].bands
    statistics = ([-40.0] * bands, [20.0] * bands) if config.frontend.normalise == "corpus" else None
    features = Features(config.frontend.features, statistics)
    rng = np.random.default_rng(0)
    noise, wave = ((rng.standard_normal(size) * 2000).astype(np.int16) for size in ((3 * samples,), (2, samples)))
    chain = AugmentationChain(config.frontend, features, 0, [noise], samples, CPU)
    torch.manual_seed(0)
    network = registry.build_model(config.model.name, 35, features.shape(samples)).train()
    optimizer = build_optimizer(network, config.train)
    before = [p.detach().clone() for p in network.parameters()]
    inputs = chain(torch.from_numpy(wave), np.full(2, samples), np.arange(2), 0)
    logits = network(inputs)
    assert logits.shape == (2, 35)
    torch.nn.functional.cross_entropy(logits, torch.tensor([3, 7])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    set_lr(optimizer, lr_at(20, 10, config.train))
    optimizer.step()
    assert all(p.isfinite().all() for p in network.parameters())
    changed = [not torch.equal(new, old) for new, old in zip(network.parameters(), before, strict=True)]
    assert sum(changed) > 0.9 * len(changed)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_header_has_command_hardware_time_and_score(path: Path) -> None:
    comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    first_words = {line.split()[0] for line in comments if line}
    assert {"command", "hardware", "score"} <= first_words
    assert first_words & {"time", "hours"}
    assert path.name in " ".join(comments) or path.stem == "demo"


def test_the_recipes_in_docs_gpus_md_are_those_of_the_configs() -> None:
    page = (CONFIGS[0].parent.parent / "docs" / "gpus.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines()]
    recipes = {name: row[1:5] for row in rows if len(row) == 8 for name in row[0].split(", ")}
    for path in CONFIGS:
        if path.stem in ("demo", "quick"):  # for CPUs
            continue
        train = settings_file.load(path).train
        layout = "channels_last" if train.channels_last else "-"
        counts = [str(count) for count in range(1, train.slots + 1) if train.slots % count == 0]
        assert recipes[path.stem] == [train.precision, layout, str(train.micro_batch), ", ".join(counts)], path.stem
