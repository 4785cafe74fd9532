"""A plain fast Llama decoder: static cache, one compiled step, no wait for the device in the loop.

What one writes who knows how a language model is decoded fast today, after the design of
pytorch-labs/gpt-fast@32971d3 (generate.py, model.py), in our own words: products of queries, keys
and values in one; keys and values in buffers of full length, of which a mask hides what is not
written; the draw as a race of exponentials, which needs no number from the device; the step
compiled with ``reduce-overhead``, which replays a CUDA graph. Guidance is two rows per image, as in
ours. Rotary positions run along the sequence, not along rows and columns; the products are the
same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_CLASSES = 1000
ROTARY_BASE = 10000.0  # gpt-fast model.py, ModelArgs


def rotary_table(length: int, head_dim: int) -> Tensor:
    """(length, 2, head_dim): cosines and sines."""
    rates = ROTARY_BASE ** -(torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(length), rates).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """(r, h, 1, d) turned by the angles of one position (2, d)."""
    low, high = x.chunk(2, dim=-1)
    return x * table[0] + torch.cat([-high, low], dim=-1) * table[1]


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def allocate(self, rows: int, length: int) -> None:
        """Empty buffers for keys and values."""
        weight = self.qkv.weight
        shape = (rows, self.heads, length, weight.shape[1] // self.heads)
        for name in ("keys", "values"):
            zeros = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
            self.register_buffer(name, zeros, persistent=False)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor, table: Tensor) -> Tensor:
        """x (r, 1, width) of one position."""
        parts = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        q, k = rotate(q, table), rotate(k, table)
        self.keys[:, :, position] = k
        self.values[:, :, position] = v
        out = F.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        x = x + self.project(out.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class StaticLlama(nn.Module):
    """Class, then tokens; the rows after the vocabulary in the embedding are the classes."""

    def __init__(
        self, sizes: tuple[int, int, int, int], vocab_size: int = 16384, length: int = 256
    ) -> None:
        """``sizes``: depth, width, heads, hidden."""
        super().__init__()
        depth, width, heads, hidden = sizes
        self.vocab_size, self.length = vocab_size, length
        self.embedding = nn.Embedding(vocab_size + NUM_CLASSES + 1, width)
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(depth))
        self.norm = nn.RMSNorm(width, 1e-5)
        self.output = nn.Linear(width, vocab_size, bias=False)
        self.register_buffer("table", rotary_table(length, width // heads), persistent=False)
        seen = torch.ones(length, length, dtype=torch.bool).tril()
        self.register_buffer("seen", seen, persistent=False)
        self.decode_step = self.decode_one

    def compile_step(self) -> "StaticLlama":
        """Decoding through one compiled step from now on."""
        self.decode_step = torch.compile(self.decode_one, mode="reduce-overhead", fullgraph=True)
        return self

    def forward(self, ids: Tensor, position: Tensor) -> Tensor:
        """Logits (r, vocab) after the tokens ids (r, 1) at ``position`` (1,)."""
        x, mask = self.embedding(ids), self.seen[position]
        table = self.table[position].squeeze(0).to(x.dtype)
        for layer in self.layers:
            x = layer(x, position, mask, table)
        return self.output(self.norm(x)).squeeze(1)

    def decode_one(self, ids: Tensor, position: Tensor, guidance_scale: float) -> Tensor:
        """The next tokens (b, 1) after those of rows [condition; null] (2 b, 1)."""
        given, null = self(ids, position).float().chunk(2)
        probabilities = (null + guidance_scale * (given - null)).softmax(-1)
        race = torch.empty_like(probabilities).exponential_(1)
        return (probabilities / race).argmax(-1, keepdim=True)

    @torch.no_grad()
    def tokens(self, batch: int, guidance_scale: float = 2.0) -> Tensor:
        """Token ids (batch, length)."""
        device = self.output.weight.device
        if getattr(self.layers[0], "keys", torch.empty(0)).shape[0] != 2 * batch:
            for layer in self.layers:
                layer.allocate(2 * batch, self.length)
        labels = torch.arange(batch, device=device)[:, None] % NUM_CLASSES
        ids = self.vocab_size + torch.cat([labels, torch.full_like(labels, NUM_CLASSES)])
        made, position = [], torch.zeros(1, dtype=torch.long, device=device)
        for _ in range(self.length):
            # The graph writes its next result over this one.
            chosen = self.decode_step(ids, position, guidance_scale).clone()
            made.append(chosen)
            ids, position = torch.cat([chosen, chosen]), position + 1
        return torch.cat(made, dim=1)
