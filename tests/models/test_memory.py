import itertools

import pytest
import torch
from torch import nn

from kws.models.memory import activation_bytes
from kws.models.recompute import set_gradient_checkpointing
from kws.models.registry import build_model


def test_plain_layers_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8 * 8, 10))
    # The convolution keeps its input, the ReLU its output, which is the linear layer's input: one storage.
    a_clip = (8 * 8 + 6 * 8 * 8) * 4
    logarithms, label, count = 10 * 4, 8, 4  # of the loss: per clip, per clip, once
    assert activation_bytes(model, (1, 8, 8), 32, torch.float32) == 32 * (a_clip + logarithms + label) + count


@pytest.mark.parametrize(
    "name",
    [
        "tc_resnet8",
        "kwt_1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("matchboxnet_3x2x64", "resnet20")),
    ],
)
def test_it_is_proportional_to_the_clips_and_smaller_in_bf16(name: str) -> None:
    network, shape = build_model(name, 12, (1, 40, 98)), (1, 40, 98)
    one, two = (activation_bytes(network, shape, clips, torch.float32) for clips in (64, 128))
    assert two == pytest.approx(2 * one, rel=0.01)
    assert 0.4 * one < activation_bytes(network, shape, 64, torch.bfloat16) < one


def test_gradient_checkpointing_keeps_less() -> None:
    network, shape = build_model("densenet_bc_100_12", 12, (1, 32, 32)), (1, 32, 32)
    whole = activation_bytes(network, shape, 64, torch.float32)
    assert set_gradient_checkpointing(network, True)
    assert 0.1 * whole < activation_bytes(network, shape, 64, torch.float32) < 0.7 * whole


def test_the_network_is_not_changed() -> None:
    network = build_model("tc_resnet8", 12, (1, 40, 98)).eval()
    before = [tensor.clone() for tensor in itertools.chain(network.parameters(), network.buffers())]
    state = torch.get_rng_state()
    activation_bytes(network, (1, 40, 98), 8, torch.float32)
    assert not network.training
    assert torch.equal(torch.get_rng_state(), state)
    after = itertools.chain(network.parameters(), network.buffers())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(p.grad is None for p in network.parameters())


def test_it_agrees_with_the_memory_profiler() -> None:
    """The peak of all tensors of a step, without weights and gradients."""
    network, shape = build_model("resnet20", 12, (1, 32, 32)), (1, 32, 32)
    inputs, labels = torch.randn(16, *shape), torch.zeros(16, dtype=torch.int64)

    def step() -> None:
        nn.functional.cross_entropy(network(inputs), labels).backward()

    step()  # allocates the gradients
    counted = activation_bytes(network, shape, 16, torch.float32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = list(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    assert max(held) + inputs.nbytes == pytest.approx(counted, rel=0.25)
