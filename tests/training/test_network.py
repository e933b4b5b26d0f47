import torch
from torch import nn

from kws.config import Config, ModelConfig, TrainConfig
from kws.training.network import build_network
from kws.training.optim import build_optimizer

CPU = torch.device("cpu")


def test_parameters_have_the_layout_of_channels_last_before_an_optimizer_copies_it() -> None:
    config = Config(model=ModelConfig(name="resnet20"), train=TrainConfig(optimizer="sgd", channels_last=True))
    network = build_network(config, 3, (1, 32, 32), CPU)
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and min(m.weight.shape) > 1]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    optimizer = build_optimizer(network, config.train)
    network(torch.randn(2, 1, 32, 32)).sum().backward()
    optimizer.step()
    assert all(optimizer.state[w]["momentum_buffer"].stride() == w.stride() for w in weights)
