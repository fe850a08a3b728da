"""Hand-written networks for sequences: attention in several spellings, recurrence, loops over time."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HandAttention(nn.Module):
    """Attention by matmul and softmax, with a mask of zeros and ones made additive."""

    def __init__(self, size: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.embed = heads, nn.Embedding(40, size)
        self.qkv, self.out, self.norm = nn.Linear(size, 3 * size), nn.Linear(size, size), nn.LayerNorm(size)
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Any:
        x = self.embed(tokens)
        n, length, size = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
        if mask is not None:
            weights = weights + (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        weights = self.drop(F.softmax(weights, dim=-1))
        y = (weights @ v).transpose(1, 2).reshape(n, length, size)
        return self.norm(x + self.out(y))


class CausalAttention(nn.Module):
    """scaled_dot_product_attention, causal, behind a learned position; a mask from a buffer is sliced by the length."""

    def __init__(self, size: int = 32, heads: int = 4, longest: int = 64) -> None:
        super().__init__()
        self.heads, self.embed = heads, nn.Embedding(40, size)
        self.position = nn.Parameter(torch.randn(1, longest, size) * 0.02)
        self.q, self.k, self.v, self.out = (nn.Linear(size, size) for _ in range(4))
        self.register_buffer("causal", torch.ones(longest, longest, dtype=torch.bool).tril()[None, None])
        self.head = nn.Linear(size, 40)
        self.causal: Tensor

    def forward(self, tokens: Tensor) -> Any:
        length = tokens.size(1)
        x = self.embed(tokens) + self.position[:, :length]
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=self.causal[:, :, :length, :length])
        return self.head(self.out((y + z).transpose(1, 2).flatten(2)) + x)


class EinsumAttention(nn.Module):
    """Attention by einsum, with a bias per head and distance that is gathered from a table."""

    def __init__(self, size: int = 32, heads: int = 4, length: int = 12) -> None:
        super().__init__()
        self.heads, self.project = heads, nn.Linear(size, 3 * size, bias=False)
        self.bias, self.out = nn.Parameter(torch.randn(heads, 2 * length - 1) * 0.1), nn.Linear(size, size)
        steps = torch.arange(length)
        self.register_buffer("distance", steps[:, None] - steps[None, :] + length - 1, persistent=False)
        self.distance: Tensor

    def forward(self, x: Tensor) -> Any:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.project(x).chunk(3, dim=-1))
        weights = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5 + self.bias[:, self.distance]
        y = torch.einsum("bhij,bjhd->bihd", weights.softmax(dim=-1), v)
        return self.out(y.flatten(2))


class MultiheadAttention(nn.Module):
    """nn.MultiheadAttention with a mask of padded keys, and another with weights returned."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(32, 4, dropout=0.1, batch_first=True)
        self.cross = nn.MultiheadAttention(32, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 8)

    def forward(self, x: Tensor, memory: Tensor, padded: Tensor) -> Any:
        y, _ = self.own(x, x, x, need_weights=False)
        x = self.norm(x + y)
        y, weights = self.cross(x, memory, memory, key_padding_mask=padded)
        return self.head(x + y), weights


class TransformerEncoder(nn.Module):
    """nn.TransformerEncoder, whose layers have a form of their own for inference."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encoder(x).mean(1))


class PreNormTransformer(nn.Module):
    """nn.TransformerDecoder with GELU and norms first, time in dimension 0."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, activation="gelu", norm_first=True)
        self.decoder, self.head = nn.TransformerDecoder(layer, 1), nn.Linear(32, 8)

    def forward(self, x: Tensor, memory: Tensor) -> Any:
        y = self.decoder(x.transpose(0, 1), memory.transpose(0, 1))
        return self.head(y.transpose(0, 1))


class LstmNet(nn.Module):
    """nn.LSTM, two layers in both directions; its last state and its outputs are used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Linear(8, 16), nn.LSTM(16, 16, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Any:
        y, (hidden, _) = self.lstm(F.relu(self.embed(x)))
        return self.head(torch.cat([y[:, -1], hidden[-1], hidden[-2]], dim=1))


class GruNet(nn.Module):
    """nn.GRU that begins at a state of zeros made for the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Any:
        x = self.embed(tokens)
        start = x.new_zeros(1, x.size(0), 16)
        y, _ = self.gru(x, start)
        return self.head(y.mean(dim=1))


class TimeLoop(nn.Module):
    """A cell called once a step in a Python loop, its states stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        state = torch.zeros(x.shape[0], 16, device=x.device)
        states = []
        for step in range(x.shape[1]):
            state = torch.tanh(self.input(x[:, step]) + self.hidden(state))
            states.append(state)
        return self.head(torch.stack(states, dim=1)), state


class LstmCellLoop(nn.Module):
    """nn.LSTMCell driven by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        h = c = x.new_zeros(x.size(0), 16)
        for part in x.unbind(1):
            h, c = self.cell(part, (h, c))
        return self.head(h)
