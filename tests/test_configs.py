"""Every config that is shipped loads, builds its network at its front end's shape, and takes a step."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kws import settings_file
from kws.audio.augment import AugmentationChain
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import SPECS, Features
from kws.models import registry
from kws.training.optim import build_optimizer, lr_at, set_lr

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
# Those whose step takes a second or more on one core.
LARGE = ("wrn_28_10", "wrn_52_10", "wrn_28_10_dropout", "densenet_bc_190_40", "densenet_bc_250_24", "resnext29_8x64",
         "dpn92", "resnet101_small", "resnet152_small", "resnet50_small", "resnet34_small", "resnet101", "resnet152",
         "resnext101_32x4d", "densenet_169", "densenet_201", "densenet_264", "vgg_a_lrn", "vgg_b", "vgg_c", "vgg_d",
         "vgg_e", "kwt_2", "kwt_3", "res15", "res26", "bcresnet_6", "bcresnet_8")  # fmt: skip
CPU = torch.device("cpu")


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= len(registry.MODELS) + 2


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=pytest.mark.slow if p.stem in LARGE else (), id=p.stem) for p in CONFIGS]
)
def test_it_loads_builds_and_takes_a_step(path: Path) -> None:
    config = settings_file.load(path)
    samples = round(config.data.clip_seconds * SAMPLE_RATE_HZ)
    bands = SPECS[config.frontend.features].bands
    normal = ([-40.0] * bands, [20.0] * bands) if config.frontend.normalise == "corpus" else None
    features = Features(config.frontend.features, normal)
    rng = np.random.default_rng(0)
    noise, wave = ((rng.standard_normal(size) * 2000).astype(np.int16) for size in ((3 * samples,), (2, samples)))
    chain = AugmentationChain(config.frontend, features, 0, [noise], samples, CPU)
    torch.manual_seed(0)
    network = registry.build_model(config.model.name, 35, features.shape(samples)).train()
    optimizer = build_optimizer(network, config.train)
    before = [p.detach().clone() for p in network.parameters()]
    inputs = chain(torch.from_numpy(wave), np.full(2, samples), np.arange(2), 0)
    torch.nn.functional.cross_entropy(network(inputs), torch.tensor([3, 7])).backward()
    set_lr(optimizer, lr_at(20, 10, config.train))
    optimizer.step()
    assert all(p.isfinite().all() for p in network.parameters())
    moved = [not torch.equal(p, was) for p, was in zip(network.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_head_says_command_hardware_time_and_score(path: Path) -> None:
    comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    first_words = {line.split()[0] for line in comments if line}
    assert {"command", "hardware", "score"} <= first_words
    assert first_words & {"time", "hours"}
    assert path.name in " ".join(comments) or path.stem == "demo"
