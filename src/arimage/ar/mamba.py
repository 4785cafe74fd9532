"""Mamba-2: a linear recurrence along a sequence (arXiv 2405.21060), and what it remembers.

Behaviour of ``Mamba2`` of state-spaces/mamba (mamba_ssm/modules/mamba2.py) with its defaults and
the sizes that OliverRensu/MVAR@80768a1 models/basic_mvar.py gives it. The scan is the paper's
section 6: products within a chunk, a state from chunk to chunk.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.ar.base import Step
from arimage.ar.linear import Linear
from arimage.shapes import Float

STATE, KERNEL, EXPAND = 64, 4, 2  # d_state, d_conv, expand: models/basic_mvar.py
HEAD, NORM_EPS = 64, 1e-5  # headdim, and of its norm: mamba2.py
KERNEL_INIT = 0.02  # conv_std_or_gain of models/mvar.py init_weights
STEP_RANGE, SMALLEST_STEP, DECAY_RANGE = (1e-3, 1e-1), 1e-4, (1.0, 16.0)  # mamba2.py
CHUNK = 128  # positions whose scores are held at once


@dataclass(frozen=True)
class ScanState:
    """What the layers remember of earlier steps, whatever their length.

    inputs (layers, rows, 2, KERNEL - 1, channels): the last ones of the convolution; states
    (layers, rows, 2, heads, HEAD, STATE): of the recurrence. A step reads the half that the one
    before wrote and writes the other, so that it may be run again, as captures do.
    """

    inputs: Tensor
    states: Tensor

    @classmethod
    def allocate(
        cls, layers: int, width: int, rows: int, dtype: torch.dtype, device: torch.device | str
    ) -> "ScanState":
        """Memory for ``rows`` sequences; states keep float32 or more. It is written before read."""
        inner, wide = EXPAND * width, torch.promote_types(dtype, torch.float32)
        inputs = (layers, rows, 2, KERNEL - 1, inner + 2 * STATE)
        states = (layers, rows, 2, inner // HEAD, HEAD, STATE)
        return cls(
            torch.empty(inputs, dtype=dtype, device=device),
            torch.empty(states, dtype=wide, device=device),
        )

    def rows(self, count: int) -> "ScanState":
        """Views of the first ``count`` rows."""
        return ScanState(self.inputs[:, :count], self.states[:, :count])

    def read(self, layer: int, step: Step) -> tuple[Tensor | None, Tensor | None]:
        """Inputs and states after the step before; nothing at the first."""
        if not step.start:
            return None, None
        half = (step.scale + 1) % 2
        return self.inputs[layer, :, half], self.states[layer, :, half]

    def write(self, layer: int, step: Step, inputs: Tensor, states: Tensor) -> None:
        """Keeps what the next step reads."""
        half = step.scale % 2
        self.inputs[layer, :, half].copy_(inputs)
        self.states[layer, :, half].copy_(states)


class Mamba2(nn.Module):
    """One layer; every position sees those before it, with a cost linear in their number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = EXPAND * width
        self.sizes = [inner, inner + 2 * STATE, inner // HEAD]
        heads, channels = self.sizes[2], self.sizes[1]
        self.enter = Linear(width, sum(self.sizes), bias=False)
        kernel = torch.empty(channels, KERNEL)
        self.kernel = nn.Parameter(nn.init.trunc_normal_(kernel, std=KERNEL_INIT))
        self.kernel_bias = nn.Parameter(torch.zeros(channels))
        low, high = map(math.log, STEP_RANGE)
        steps = (torch.rand(heads) * (high - low) + low).exp().clamp_min(SMALLEST_STEP)
        self.step_bias = nn.Parameter(steps + (-torch.expm1(-steps)).log())  # softplus undone
        self.log_decay = nn.Parameter(torch.empty(heads).uniform_(*DECAY_RANGE).log())
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(inner))
        self.leave = Linear(inner, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        step: Step,
        state: ScanState | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "r m width"]:
        """Same shape out. With a state, ``x`` follows what was there, and the state moves on."""
        gate, mixed, steps = self.enter(x).split(self.sizes, dim=-1)
        inputs, before = (None, None) if state is None else state.read(layer, step)
        if inputs is None:
            inputs = mixed.new_zeros(len(x), KERNEL - 1, mixed.shape[-1])
        padded = torch.cat([inputs, mixed], dim=1)
        mixed = F.silu(self.convolved(padded))
        wide = torch.promote_types(x.dtype, torch.float32)
        values, keys, queries = mixed.to(wide).split([self.sizes[0], STATE, STATE], dim=-1)
        values = values.unflatten(-1, (-1, HEAD)).transpose(1, 2)  # (r, heads, m, HEAD)
        steps = F.softplus(steps.to(wide) + self.step_bias.to(wide)).transpose(1, 2)
        decays = -self.log_decay.to(wide).exp()[:, None] * steps  # (r, heads, m)
        y, last = scan(values, steps, decays, keys, queries, before)
        y = y + self.skip.to(wide)[:, None, None] * values
        y = y.transpose(1, 2).flatten(2) * F.silu(gate.to(wide))
        y = F.rms_norm(y, y.shape[-1:], self.norm.to(wide), NORM_EPS).to(x.dtype)
        if state is not None:
            state.write(layer, step, padded[:, 1 - KERNEL :], last)
        return self.leave(y)

    def convolved(self, padded: Float[Tensor, "r mk c"]) -> Float[Tensor, "r m c"]:
        """Each channel along the sequence, by its own kernel; causal."""
        length = padded.shape[1] - KERNEL + 1
        parts = (padded[:, i : i + length] * self.kernel[:, i] for i in range(KERNEL))
        return sum(parts, start=self.kernel_bias)


def scan(
    values: Float[Tensor, "r h m p"],
    steps: Float[Tensor, "r h m"],
    decays: Float[Tensor, "r h m"],
    keys: Float[Tensor, "r m n"],
    queries: Float[Tensor, "r m n"],
    state: Float[Tensor, "r h p n"] | None,
) -> tuple[Float[Tensor, "r h m p"], Float[Tensor, "r h p n"]]:
    """y_t = S_t q_t with S_t = exp(decay_t) S_(t-1) + step_t v_t k_t^T, and the last S.

    ``state`` is S before the first position; None is zero.
    """
    if state is None:
        state = values.new_zeros(*values.shape[:2], values.shape[-1], keys.shape[-1])
    found = []
    for start in range(0, values.shape[2], CHUNK):
        part = slice(start, start + CHUNK)
        y, state = scan_chunk(
            values[:, :, part],
            steps[:, :, part],
            decays[:, :, part].cumsum(-1),
            keys[:, None, part],
            queries[:, None, part],
            state,
        )
        found.append(y)
    return torch.cat(found, dim=2), state


def scan_chunk(
    values: Float[Tensor, "r h m p"],
    steps: Float[Tensor, "r h m"],
    left: Float[Tensor, "r h m"],
    keys: Float[Tensor, "r 1 m n"],
    queries: Float[Tensor, "r 1 m n"],
    state: Float[Tensor, "r h p n"],
) -> tuple[Float[Tensor, "r h m p"], Float[Tensor, "r h p n"]]:
    """The same for a few positions; ``left`` is the logarithm of what is left of ``state``."""
    later = torch.ones(left.shape[-1], left.shape[-1], dtype=torch.bool, device=left.device).triu(1)
    gaps = (left.unsqueeze(-1) - left.unsqueeze(-2)).masked_fill(later, -torch.inf)
    scores = (queries @ keys.mT) * gaps.exp() * steps.unsqueeze(-2)
    y = scores @ values + left.exp().unsqueeze(-1) * (queries @ state.mT)
    shares = steps * (left[..., -1:] - left).exp()
    added = (values * shares.unsqueeze(-1)).mT @ keys
    return y, left[..., -1, None, None].exp() * state + added
