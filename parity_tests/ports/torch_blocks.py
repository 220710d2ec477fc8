"""PyTorch originals of what torchvision has no network for: a decoder, poolings, a small language model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def mlp(features: int = 32, hidden: int = 64, num_classes: int = 10) -> nn.Module:
    """Two dense layers: features [batch, features] to logits [batch, num_classes]."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


class Decoder(nn.Module):
    """Images [batch, 3, h, w] to a map of logits [batch, num_classes, h, w]; h and w are multiples of 4."""

    def __init__(self, features: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.dilated = nn.Conv2d(3, features, 3, padding=2, dilation=2, bias=False)
        self.norm = nn.GroupNorm(4, features)
        self.down = nn.Conv2d(features, features, 3, stride=2, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(features, features // 2, 4, stride=2, padding=1)
        self.head = nn.Conv2d(features // 2, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        x = F.interpolate(x, (height * 3 // 4, width * 3 // 4), mode="bilinear", align_corners=False)
        x = F.silu(self.norm(self.dilated(x)))
        x = F.leaky_relu(self.down(x))
        x = F.elu(self.up(x))
        x = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        return self.head(x)


class Pooling(nn.Module):
    """Images [batch, 3, h, w] to logits [batch, num_classes]."""

    def __init__(self, features: int = 32, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, features, 3, padding=1)
        self.average = nn.AvgPool2d(3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, groups=2)
        self.shuffle = nn.ChannelShuffle(2)
        self.conv3 = nn.Conv2d(features, features, 1)
        self.maximum = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.conv4 = nn.Conv2d(features, features, 3, padding=1)
        self.head = nn.Linear(2 * features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.average(self.conv1(x))
        x = F.relu6(4 * self.conv2(x))
        x = self.maximum(self.conv3(self.shuffle(x)))
        x = F.hardswish(self.conv4(x))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return self.head(x)


def rotated(x: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Rotary positions for queries or keys [batch, heads, time, features].

    What turns together are the features of the same place in both halves, or neighbours if ``interleaved``.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """Causal self-attention [batch, time, features], with explicit scores."""

    def __init__(self, features: int, num_heads: int, interleaved: bool = False) -> None:
        super().__init__()
        self.num_heads, self.interleaved = num_heads, interleaved
        self.qkv = nn.Linear(features, 3 * features, bias=False)
        self.out = nn.Linear(features, features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, features = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (part.view(batch, time, self.num_heads, -1).transpose(1, 2) for part in (q, k, v))
        q, k = rotated(q, self.interleaved), rotated(k, self.interleaved)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = torch.ones(time, time, dtype=torch.bool, device=x.device).tril()
        scores = scores.masked_fill(~mask, float("-inf"))
        weights = F.softmax(scores, dim=-1)
        x = (weights @ v).transpose(1, 2).reshape(batch, time, features)
        return self.out(x)


class Block(nn.Module):
    """Attention and a gated MLP, each normalised before and added to its input."""

    def __init__(self, features: int, num_heads: int, hidden: int, interleaved: bool = False) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(features, eps=1e-6)
        self.attention = Attention(features, num_heads, interleaved)
        self.norm_mlp = nn.RMSNorm(features, eps=1e-6)
        self.gate = nn.Linear(features, hidden, bias=False)
        self.up = nn.Linear(features, hidden, bias=False)
        self.down = nn.Linear(hidden, features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_attention(x))
        y = self.norm_mlp(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class GPT(nn.Module):
    """Tokens int [batch, time] to logits [batch, num_classes], read off the last step."""

    def __init__(
        self,
        vocabulary: int = 1000,
        features: int = 64,
        num_heads: int = 4,
        hidden: int = 128,
        num_classes: int = 10,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, features)
        self.block = Block(features, num_heads, hidden, interleaved)
        self.norm = nn.RMSNorm(features, eps=1e-6)
        self.head = nn.Linear(features, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.head(self.norm(self.block(x))[:, -1])
