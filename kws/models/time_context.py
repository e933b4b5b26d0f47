"""How the temporal layers of a network get their past: padding, or the end of the chunk before.

A layer with kernel k, stride s and dilation d makes one output of every s frames. For it, the layer also needs the
(k - 1) d - (s - 1) frames before them, its past. `TimePadding` is where the past of the first output comes from:

    same      half of it is zeros, and so are frames after the end: outputs depend on later frames; cannot stream
    causal    zeros: output t depends on frames up to the last of its group of s, frame s (t + 1) - 1
    valid     the first frames of the input, so that there are fewer outputs

In `TimeNetwork.stream` the past of a `causal` or `valid` network is the end of the chunk before, an explicit tensor for
each layer. With kernel 3 and stride 2, for the chunks abcd and efgh:

    causal    0ab  bcd  def  fgh           stream    0ab  bcd | def  fgh      state after abcd: d
    valid       abc  cde  efg

Frames are the last axis everywhere. `same` adds no operation to a network, and a `TimeContext` has neither parameters
nor buffers, so that the three forms of a network have the same weights.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TimePadding = Literal["same", "causal", "valid"]


class TemporalLayer(NamedTuple):
    """What the receptive field depends on: kernel, stride and dilation in frames."""

    kernel: int
    stride: int = 1
    dilation: int = 1


def receptive_field(layers: Iterable[TemporalLayer]) -> int:
    """Number of input frames that one output of the layers, one after the other, depends on."""
    field, step = 1, 1
    for layer in layers:
        field += (layer.kernel - 1) * layer.dilation * step
        step *= layer.stride
    return field


def last_frames(x: Tensor, count: int) -> Tensor:
    """The last `count` frames of x (..., N); x itself where it has no more."""
    return x if x.shape[-1] == count else x[..., x.shape[-1] - count :]


class _Past:
    """The frames before a chunk, (..., past_frames); None: zeros. `streaming`: whether there is a chunk."""

    __slots__ = ("frames", "streaming")  # not attributes of a module, whose assignment takes 1 us

    def __init__(self) -> None:
        self.streaming, self.frames = False, cast(Tensor | None, None)


class TimeContext(nn.Module):
    """Puts the past in front of the input (..., N) of one temporal layer."""

    def __init__(self, time_padding: TimePadding, layer: TemporalLayer) -> None:
        super().__init__()
        self.time_padding, self.layer = time_padding, layer
        self.past_frames = (layer.kernel - 1) * layer.dilation - (layer.stride - 1)
        if time_padding != "same" and self.past_frames < 0:
            raise ValueError(f"{layer}: with {time_padding} padding, the kernel must reach over the stride")
        self.past = _Past()

    @property
    def added(self) -> int:
        """Number of frames that `forward` adds."""
        return self.past_frames if self.past.streaming or self.time_padding == "causal" else 0

    @property
    def lost(self) -> int:
        """Number of input frames before the group of the layer's first output."""
        return self.past_frames - self.added if self.time_padding == "valid" else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.added == 0:
            return x
        past = self.past
        if not past.streaming:
            return F.pad(x, (self.past_frames, 0))
        frames = x.new_zeros((*x.shape[:-1], self.past_frames)) if past.frames is None else past.frames
        x = torch.cat((frames, x), dim=-1)
        past.frames = x[..., x.shape[-1] - self.past_frames :]
        return x


class _TimeConv(nn.modules.conv._ConvNd):
    """A convolution without bias, with the arguments of nn.Conv1d or nn.Conv2d for `same`; its last axis is time."""

    def __init__(self, *sizes: Any, time_padding: TimePadding, **options: Any) -> None:
        super().__init__(*sizes, bias=False, **options)  # type: ignore[misc]
        layer = TemporalLayer(int(self.kernel_size[-1]), int(self.stride[-1]), int(self.dilation[-1]))
        self.context = TimeContext(time_padding, layer)
        if time_padding != "same":
            self.padding = (*self.padding[:-1], 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.context(x))  # type: ignore[no-any-return]


class TimeConv1d(_TimeConv, nn.Conv1d):
    """(B, C, N) -> (B, C', N')."""


class TimeConv2d(_TimeConv, nn.Conv2d):
    """(B, C, F, N) -> (B, C', F', N'). The padding of the bands stays as it is given."""


class TimeNetwork(nn.Module):
    """A network that classifies the mean over time of an embedding: the base class of the families that can stream.

    forward(x) = classify(mean over time of embed(x)). A family implements `maps` and `classify`.
    """

    time_padding: TimePadding

    @property
    def streams(self) -> bool:
        """Whether it can take a stream chunk by chunk: no output depends on later frames."""
        return self.time_padding != "same"

    def maps(self, x: Tensor) -> Tensor:
        """Features (B, 1, F, N) -> the last feature maps, (B, C, N') or (B, C, F', N')."""
        raise NotImplementedError

    def classify(self, mean: Tensor) -> Tensor:
        """Means over time (B, C) -> logits (B, classes)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        maps = self.maps(x)
        return self.classify(maps.mean(dim=tuple(range(2, maps.dim()))))

    def embed(self, x: Tensor) -> Tensor:
        """Features (B, 1, F, N) -> (B, C, N')."""
        maps = self.maps(x)
        return maps if maps.dim() == 3 else maps.mean(dim=2)

    def stream(self, chunk: Tensor, states: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The embedding of the next chunk: (B, 1, F, n) -> (B, C, n / time_stride), and the states after it.

        n must be a multiple of `time_stride`. `states`: those after the chunk before, in the order of `contexts`; None:
        zeros. Raises ValueError for another n, and for a network that cannot stream.
        """
        if not self.streams or chunk.shape[-1] % self.time_stride:
            raise ValueError(
                f"{chunk.shape[-1]} frames for a {self.time_padding} network of stride {self.time_stride}: "
                "wanted causal or valid, and a multiple of the stride"
            )
        pasts = [context.past for context in self.contexts]
        for past, state in zip(pasts, [None] * len(pasts) if states is None else states, strict=True):
            past.streaming, past.frames = True, state
        try:
            embedding = self.embed(chunk)
            return embedding, [past.frames for past in pasts if past.frames is not None]
        finally:
            for past in pasts:
                past.streaming, past.frames = False, None

    @functools.cached_property
    def contexts(self) -> tuple[TimeContext, ...]:
        """Of the layers that have a past, in the order of the states."""
        return tuple(m for m in self.modules() if isinstance(m, TimeContext) and m.past_frames > 0)

    @property
    def temporal_layers(self) -> list[TemporalLayer]:
        """The layers that look at several frames, one after the other."""
        return [m.layer for m in self.modules() if isinstance(m, TimeContext)]

    @functools.cached_property
    def receptive_field(self) -> int:
        """Number of frames that one position of the embedding depends on."""
        return receptive_field(self.temporal_layers)

    @functools.cached_property
    def time_stride(self) -> int:
        """Number of frames from one position of the embedding to the next."""
        stride = 1
        for layer in self.temporal_layers:
            stride *= layer.stride
        return stride

    def positions(self, frames: int) -> int:
        """Number of positions of the embedding of `frames` frames, for `causal` and `valid`."""
        unusable = self.receptive_field - self.time_stride if self.time_padding == "valid" else 0
        return max(0, frames - unusable) // self.time_stride
