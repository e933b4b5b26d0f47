import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kws.models.cost import count_parameters, multiply_adds
from kws.models.kwt import KWT, Attention, Layer
from kws.models.registry import build_model

# 12 classes, 40 x 98: from the summaries of the authors' trained models, and from table 1 of the paper in thousands.
PAPER = {"kwt_1": (607_308, 607), "kwt_2": (2_394_252, 2_394), "kwt_3": (5_360_844, 5_361)}


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_of_the_authors(name: str) -> None:
    exact, paper = PAPER[name]
    count = count_parameters(build_model(name, 12, (1, 40, 98)))
    assert count == exact
    assert round(count / 1000) == paper


@pytest.mark.parametrize(("name", "dim"), [("kwt_1", 64), ("kwt_2", 128), ("kwt_3", 192)])
def test_a_frame_and_a_class_add_one_vector_each(name: str, dim: int) -> None:
    with torch.device("meta"):
        count = count_parameters(build_model(name, 35, (1, 40, 101)))
    assert count == PAPER[name][0] + 3 * dim + 23 * (dim + 1)


def test_there_are_twelve_layers_with_mlps_of_4d() -> None:
    model = KWT(40, 98, 12, dim=192)
    layers = [m for m in model.modules() if isinstance(m, Layer)]
    assert len(layers) == 12
    assert [tuple(m.weight.shape) for m in layers[0].mlp if isinstance(m, nn.Linear)] == [(768, 192), (192, 768)]
    assert all(layer.dropout.p == 0.0 for layer in layers)


def test_attention_has_heads_of_64() -> None:
    torch.manual_seed(0)
    attention, x = Attention(192), torch.randn(2, 9, 192)
    heads = []
    q, k, v = (x @ w.T for w in attention.qkv.weight.chunk(3))
    for i in range(0, 192, 64):
        weights = (q[..., i : i + 64] @ k[..., i : i + 64].mT / 8).softmax(dim=2)
        heads.append(weights @ v[..., i : i + 64])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, dim=2)))


def test_layer_norm_comes_after_the_shortcut() -> None:
    layer, x = Layer(64, dropout=0.0), torch.randn(2, 9, 64)
    y = F.layer_norm(x + layer.attention(x), (64,), eps=1e-6)
    torch.testing.assert_close(layer(x), F.layer_norm(y + layer.mlp(y), (64,), eps=1e-6))


def test_position_embeddings_distinguish_frames() -> None:
    torch.manual_seed(0)
    model, x = KWT(8, 10, 3, dim=64).eval(), torch.randn(2, 1, 8, 10)
    turned = model(x.flip(3))
    assert not torch.allclose(model(x), turned, atol=1e-4)
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(x), model(x.flip(3)))


def test_weights_are_initialised_within_two_standard_deviations() -> None:
    model = KWT(40, 98, 12, dim=64)
    for key, p in model.named_parameters():
        if key.endswith("bias"):
            assert p.abs().max() == 0, key
        elif "norm" not in key:
            assert 0.03 < p.abs().max() <= 0.04 + 1e-6, key


def test_dropout_is_off_by_default() -> None:
    model, x = KWT(8, 10, 3, dim=64), torch.randn(2, 1, 8, 10)
    assert torch.equal(model(x), model(x))
    dropping = KWT(8, 10, 3, dim=64, dropout=0.5)
    assert not torch.equal(dropping(x), dropping(x))


def test_multiply_adds() -> None:
    tokens, dim = 99, 64
    layer = tokens * (3 + 1 + 4 + 4) * dim**2 + 2 * tokens**2 * dim
    with torch.device("meta"):
        assert multiply_adds(KWT(40, 98, 12, dim), (1, 40, 98)) == 98 * 40 * dim + 12 * layer + dim * 12
