import pytest
import torch
from torch import nn

from kws.distributed.ranks import Ranks
from kws.training.reduction import Exact, _Tree

CPU = torch.device("cpu")


def leaves(count: int) -> list[torch.Tensor]:
    """Numbers of very different size: their sum hangs on the order."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(50, generator=generator) * 10.0 ** (n % 7) for n in range(count)]


def by_halves(values: list[torch.Tensor]) -> torch.Tensor:
    if len(values) == 1:
        return values[0]
    return by_halves(values[: len(values) // 2]) + by_halves(values[len(values) // 2 :])


@pytest.mark.parametrize("count", [1, 2, 4, 8, 32])
def test_the_tree_adds_by_halves(count: int) -> None:
    tree = _Tree()
    for values in leaves(count):
        tree.add(values)
    assert torch.equal(tree.root(), by_halves(leaves(count)))


def test_the_order_does_matter_for_such_numbers() -> None:
    assert not torch.equal(by_halves(leaves(8)), torch.stack(leaves(8)).sum(dim=0))


def test_a_tree_that_is_no_power_of_two_is_our_own_mistake() -> None:
    tree = _Tree()
    for values in leaves(3):
        tree.add(values)
    with pytest.raises(AssertionError):
        tree.root()


def test_gradients_are_where_the_optimizer_looks_for_them() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    plain.load_state_dict(network.state_dict())
    batches = torch.randn(4, 5, 4)
    exact = Exact(Ranks(0, 1, CPU, 1, None), network)
    for _ in range(2):  # a second step starts from nothing
        exact.begin()
        for number, batch in enumerate(batches):
            with exact.slot(number == 3):
                exact.model(batch).square().sum().backward()
            exact.add(torch.tensor([float(number)], dtype=torch.float64))
        totals, own = exact.finish(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert totals.tolist() == [6.0]
    assert own.tolist() == [1.0, 0.0]
    plain(batches.flatten(0, 1)).square().sum().backward()
    for mine, wanted in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, wanted.grad)
