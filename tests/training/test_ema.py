import pytest
import torch
from torch import nn

from kws.training.ema import Ema


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_the_average_follows_the_weights_by_its_decay() -> None:
    model = network()
    ema, wanted = Ema(model, 0.5), [p.detach().clone() for p in model.parameters()]
    for step in range(100, 104):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        ema.update(step)
        wanted = [0.5 * was + 0.5 * p.detach() for was, p in zip(wanted, model.parameters(), strict=True)]
    state = ema.state_dict()
    for (name, _), value in zip(model.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(state[name], value)


def test_the_decay_is_lower_at_first() -> None:
    model = network()
    ema = Ema(model, 0.999)
    with torch.no_grad():
        model[0].weight.fill_(5.0)
    ema.update(0)
    torch.testing.assert_close(ema.state_dict()["0.weight"], model[0].weight.detach() * 0.9, atol=0.2, rtol=0)


def test_averages_are_swapped_in_for_a_while_and_buffers_stay() -> None:
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ema = Ema(model, 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    model[1].running_mean.fill_(7.0)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    with ema.swapped_in():
        assert torch.equal(model[0].weight, before["0.weight"])
        assert (model[1].running_mean == 7.0).all()
    assert all(torch.equal(value, after[key]) for key, value in model.state_dict().items())
    assert (ema.state_dict()["1.running_mean"] == 7.0).all()


def test_the_weights_come_back_after_an_error() -> None:
    model = network()
    ema, before = Ema(model, 0.9), model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    with pytest.raises(ZeroDivisionError), ema.swapped_in():
        1 / 0  # noqa: B018
    torch.testing.assert_close(model[0].weight.detach(), before + 1.0)


def test_the_average_is_saved_and_loaded() -> None:
    one, other = network(), network()
    ema = Ema(one, 0.5)
    with torch.no_grad():
        one[0].weight.add_(3.0)
    ema.update(50)
    again = Ema(other, 0.5)
    again.load_state_dict(ema.state_dict())
    assert torch.equal(again.state_dict()["0.weight"], ema.state_dict()["0.weight"])
