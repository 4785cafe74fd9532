"""LPD: a transformer that is asked for a group of places by queries (arXiv 2507.01957).

Behaviour of mit-han-lab/lpd@f447b83 models/lpd.py, models/block.py: LayerNorm, learned positions
that are added and normalised together with tokens or queries. All else is the order's
(orders/local_groups.py): queries are written to the cache, and tokens over them at the next step.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import Backbone, Cache, Context, Step
from arimage.ar.config import GridConfig
from arimage.ar.layers import MLP, ResidualDropout, attend, split_heads
from arimage.ar.linear import Linear
from arimage.pretrained import strict
from arimage.shapes import Float
from arimage.slots import SlotTable

INIT_STD = 0.02  # mit-han-lab/lpd@f447b83 models/lpd.py initialize_weights


@strict
class LPDConfig(GridConfig):
    """Sizes of an LPD transformer; repulsion: of its order."""

    model_type = "arimage_lpd"
    orders: ClassVar[tuple[str, ...]] = ("local_groups",)

    order: str = "local_groups"
    mlp_hidden: int = 512
    norm_eps: float = 1e-6
    repulsion: int = 2

    def validate_repulsion(self) -> None:
        """None or some rows and columns."""
        if self.repulsion < 0:
            raise ValueError(f"got repulsion {self.repulsion}; expected 0 or more rows and columns")


class Block(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)), with biases."""

    def __init__(self, config: LPDConfig, layer: int) -> None:
        super().__init__()
        width = config.width
        self.layer, self.heads = layer, config.num_heads
        self.attention_norm = nn.LayerNorm(width, config.norm_eps)
        self.qkv = Linear(width, 3 * width)
        self.project = Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, config.norm_eps)
        self.mlp = MLP(width, config.mlp_hidden, gelu="none")
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "r m width"], step: Step, cache: Cache | None
    ) -> Float[Tensor, "r m width"]:
        """Same shape out."""
        q, k, v = split_heads(self.qkv(self.attention_norm(x)), 3 * self.heads).chunk(3, dim=1)
        x = x + self.dropout(self.project(attend(q, k, v, step, cache, self.layer)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class LPDModel(Backbone):
    """Predicts the tokens at the places of its queries, which are UNKNOWN ids."""

    config_class = LPDConfig
    config: LPDConfig
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    def __init__(self, config: LPDConfig) -> None:
        super().__init__(config)
        width, slots = config.width, self.slots.num_slots
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * INIT_STD)
        self.position_embedding = nn.Embedding(self.prefix_length + slots, width)
        self.input_norm = nn.LayerNorm(width, config.norm_eps)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.output = Linear(width, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.output.weight)  # there xavier, too: a start that is not uniform
        self.post_init()

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        return self.config.slots

    @property
    def order_options(self) -> dict[str, Any]:
        """The repulsion."""
        return {"repulsion": self.config.repulsion}

    def prepare(self, condition: Any) -> Context:
        """The class token; ``condition``: class labels (r,)."""
        return Context(self.class_embedding(condition).unsqueeze(1))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): ids of tokens, then an UNKNOWN for each place to predict."""
        assert inputs is not None
        x = torch.where(
            (inputs < 0).unsqueeze(-1), self.mask_token, self.token_embedding(inputs.clamp_min(0))
        )
        if step.start == 0:
            x = torch.cat([context.prefix, x], dim=1)
        x = self.input_norm(x + self.position_embedding(step.holds + 1))  # (r, m, width)
        for block in self.blocks:
            x = block(x, step, cache)
        return self.norm(step.read(x))

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """A linear layer without bias."""
        return self.output(hidden)
