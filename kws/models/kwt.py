"""Keyword Transformer (KWT): Berg, O'Connor & Cruz, Interspeech 2021, arXiv 2104.00769, section 3 and table 1.

Every frame is a token: (B, F, N) -> (B, N, d). A class token is prepended and learned position embeddings are added.
Then come 12 layers of self-attention and an MLP of width 4d, each with a shortcut and then layer norm (post-norm). The
logits are a linear function of the class token.

                      KWT-1        KWT-2        KWT-3
    d                    64          128          192
    heads of 64           1            2            3
    paper             607 K      2,394 K      5,361 K
    12 classes      607,308    2,394,252    5,360,844    40 bands x 98 frames, as in the authors' model files
    35 classes      608,803    2,397,219    5,365,283    the same features
    35 classes      608,995    2,397,603    5,365,859    40 bands x 101 frames

As in the authors' code: queries, keys and values have no bias; exact GELU; layer norm eps 1e-6; weights from a normal
distribution of standard deviation 0.02, truncated at two standard deviations; and dropout (after attention and MLP) of
0, with which they trained.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAPER = "Berg et al., Keyword Transformer, Interspeech 2021, arXiv 2104.00769"
SMALLEST = (1, 1)  # bands, frames: one token is enough
LAYERS = 12
HEAD = 64  # width of one attention head


class Attention(nn.Module):
    """Self-attention of d / 64 heads: (B, T, d) -> (B, T, d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, 64)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def own_multiply_adds(self, x: Tensor) -> int:
        """Multiply-adds for the input batch x, for `kws.models.cost`: queries by keys, attention weights by values."""
        return 2 * x.numel() * x.shape[1]


class Layer(nn.Module):
    """Attention, then the MLP, each with dropout, shortcut and norm: (B, T, d) -> (B, T, d)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.norm1 = Attention(dim), nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))  # type: ignore[no-any-return]


class KWT(nn.Module):
    """(B, 1, F, N) features to (B, classes) logits. N is fixed, because every position has its own weights."""

    def __init__(self, bands: int, frames: int, classes: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Linear(bands, dim)
        self.token = nn.Parameter(torch.empty(1, 1, dim))
        self.positions = nn.Parameter(torch.empty(1, frames + 1, dim))
        self.layers = nn.Sequential(*(Layer(dim, dropout) for _ in range(LAYERS)))
        self.linear = nn.Linear(dim, classes)
        for p in (self.token, self.positions):
            _truncated_normal_(p)
        self.apply(_init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.squeeze(1).transpose(1, 2))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.linear(self.layers(x)[:, 0])  # type: ignore[no-any-return]


def build_kwt(num_classes: int, in_shape: tuple[int, int, int], *, heads: int) -> KWT:
    """KWT-{heads} for features of shape (1, F, N)."""
    return KWT(in_shape[1], in_shape[2], num_classes, HEAD * heads)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        _truncated_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _truncated_normal_(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)
