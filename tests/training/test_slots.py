import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from kws.training.slots import ALIGNMENT, RunningStatistics, seed_slot


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(16, 3),
        nn.BatchNorm1d(3),
    )  # fmt: skip


def slots(*sizes: int) -> list[Tensor]:
    """One batch of (size, 1, 4, 4) a slot, each at a level of its own."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 4, 4, generator=generator) * (n + 1) + n for n, size in enumerate(sizes)]


def run_step(model: nn.Module, batches: list[Tensor], seed: int = 0) -> None:
    """Forward and backward of every slot, as the loop does it; the loss is the mean over all clips."""
    statistics, total = RunningStatistics(model), sum(map(len, batches))
    statistics.begin_step()
    left = [statistics.end_slot(0)]
    for number, batch in enumerate(batches):
        if len(batch) == 0:
            continue
        seed_slot(seed, 0, number)
        statistics.begin_slot(len(batch))
        (model(batch).square().sum() / total).backward()
        left.append(statistics.end_slot(len(batch)))
    statistics.end_step(torch.stack(left).sum(dim=0), torch.tensor(float(total)))


def left_by_one(model: nn.Module, batch: Tensor) -> nn.Module:
    alone = copy.deepcopy(model).train()
    alone(batch)
    return alone


@pytest.mark.parametrize("sizes", [(8,), (4, 4), (5, 2, 7), (4, 0, 3)])
def test_statistics_after_a_step_are_the_average_of_the_slots_weighted_by_clips(sizes: tuple[int, ...]) -> None:
    model, batches = network(), slots(*sizes)
    before = copy.deepcopy(model)
    run_step(model, batches)
    alone = [(len(batch), left_by_one(before, batch).state_dict()) for batch in batches if len(batch)]
    for key, value in model.state_dict().items():
        if "running" in key:
            wanted = sum(clips * state[key].double() for clips, state in alone) / sum(sizes)
            torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=1e-6)


def test_a_step_counts_as_one_batch_whatever_its_slots() -> None:
    model = network()
    run_step(model, slots(4, 4, 4))
    run_step(model, slots(4, 1))
    assert [model[1].num_batches_tracked.item(), model[6].num_batches_tracked.item()] == [2, 2]  # type: ignore[index]


def test_the_order_of_the_slots_does_not_matter() -> None:
    one, other = network(), network()
    run_step(one, slots(4, 6, 2))
    run_step(other, slots(4, 6, 2)[::-1])
    for key, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, atol=1e-6, rtol=1e-6)


def test_slots_of_two_ranks_add_up_to_those_of_one() -> None:
    whole, ranks, batches = network(), [network(), network()], slots(4, 6, 2, 3)
    run_step(whole, batches)
    statistics = [RunningStatistics(model) for model in ranks]
    left = []
    for rank, (model, mine) in enumerate(zip(ranks, statistics, strict=True)):
        mine.begin_step()
        for batch in batches[2 * rank : 2 * rank + 2]:
            mine.begin_slot(len(batch))
            model(batch)
            left.append(mine.end_slot(len(batch)))
    totals = torch.stack(left).sum(dim=0)
    for model, mine in zip(ranks, statistics, strict=True):
        mine.end_step(totals.clone(), torch.tensor(float(sum(map(len, batches)))))
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(model.state_dict()[key], value, atol=1e-6, rtol=1e-6)


def test_a_slot_of_one_clip_uses_the_running_statistics_and_leaves_them() -> None:
    model = network()
    run_step(model, slots(6, 6))  # statistics that are not the first ones
    before, (clip,) = copy.deepcopy(model), slots(1)
    statistics = RunningStatistics(model)
    statistics.begin_step()
    statistics.begin_slot(1)
    torch.testing.assert_close(model(clip), before.eval()(clip))
    statistics.end_step(statistics.end_slot(1), torch.ones(()))
    for key, value in before.state_dict().items():
        if "running" in key:
            assert torch.equal(model.state_dict()[key], value)


def test_a_slot_after_a_slot_of_one_clip_uses_batch_statistics_again() -> None:
    model = network()
    run_step(model, slots(1, 6))
    assert all(norm.training for norm in (model[1], model[6]))  # type: ignore[index]
    assert model[1].running_mean.abs().sum() > 0  # type: ignore[index]


@pytest.mark.parametrize("sizes", [(4, 4), (5, 2, 7), (3, 0, 4), (6, 1)])
def test_the_slots_gradients_are_that_of_the_mean_loss(sizes: tuple[int, ...]) -> None:
    model, batches = network(), slots(*sizes)
    direct = copy.deepcopy(model)
    run_step(model, batches)
    losses = []
    for batch in filter(len, batches):
        buffers = {key: value.clone() for key, value in direct.named_buffers()}  # each slot starts from the same
        direct.train(len(batch) > 1)
        losses.append(functional_call(direct, buffers, (batch,)).square().sum())
    (torch.stack(losses).sum() / sum(sizes)).backward()
    for (key, mine), wanted in zip(model.named_parameters(), direct.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad, atol=1e-5, rtol=1e-4, msg=key)


def test_dropout_depends_on_seed_step_and_slot_only() -> None:
    layer, ones = nn.Dropout(0.5), torch.ones(64)

    def dropped(*key: int) -> Tensor:
        torch.rand(key[2] + 3)  # something that ran before
        seed_slot(*key)
        return layer(ones)

    assert torch.equal(dropped(1, 2, 3), dropped(1, 2, 3))
    others = [dropped(0, 2, 3), dropped(1, 0, 3), dropped(1, 2, 0), dropped(1, 3, 2)]
    assert not any(torch.equal(dropped(1, 2, 3), other) for other in others)


def test_a_network_without_batch_norm_has_no_statistics() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    run_step(model, slots(3, 2))
    statistics = RunningStatistics(model)
    statistics.begin_step()
    assert statistics.end_slot(3).numel() == 0
    assert model[1].weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_a_model_that_was_moved_meanwhile_keeps_its_statistics() -> None:
    model, batches = network(), slots(4, 6)
    other = copy.deepcopy(model)
    statistics = RunningStatistics(model)
    for again in range(2):
        for name, buffer in list(model[1].named_buffers()):  # type: ignore[union-attr]
            setattr(model[1], name, buffer.clone())  # as accelerate does
        statistics.begin_step()
        left = []
        for batch in batches:
            statistics.begin_slot(len(batch))
            model(batch)
            left.append(statistics.end_slot(len(batch)))
        statistics.end_step(torch.stack(left).sum(dim=0), torch.tensor(10.0))
        run_step(other, batches)
        for key, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), (again, key)


def test_a_norm_without_running_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False))
    run_step(model, slots(3, 2))
    assert model.training


def test_on_any_device_views_of_a_flat_tensor_change_no_bit_of_the_running_statistics(device: torch.device) -> None:
    plain, (batch,) = network().to(device), [clips.to(device) for clips in slots(8)]
    flat = copy.deepcopy(plain)
    left_by_plain = left_by_one(plain, batch).state_dict()
    run_step(flat, [batch])
    for key, value in flat.state_dict().items():
        if "running" in key:
            assert torch.equal(value, left_by_plain[key]), key


def test_buffers_of_odd_sizes_start_at_aligned_places_of_the_flat_tensor() -> None:
    network = nn.Sequential(nn.BatchNorm1d(19), nn.BatchNorm1d(7))
    with torch.no_grad():
        network[1].running_mean.fill_(3.0)
    RunningStatistics(network).begin_step()
    buffers = [buffer for name, buffer in network.named_buffers() if name.endswith(("mean", "var"))]
    assert [buffer.storage_offset() % ALIGNMENT for buffer in buffers] == [0] * 4
    assert len({buffer.storage_offset() for buffer in buffers}) == 4
    assert network[1].running_mean.tolist() == [3.0] * 7
