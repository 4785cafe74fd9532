"""MaskBit: a bidirectional transformer that reads tokens as bits, without a table (2409.16211).

Behaviour of markweberdev/maskbit@5ea3d73 modeling/bert.py LFQBert: an id enters as numbers +1 and
-1, zeros for the bits of a masked entry, through one linear layer; BERT's blocks, norms after the
residuals; the class is one more position; logits of each entry, a group of bits, apart.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arimage.ar.base import Backbone, Cache, Context, Step
from arimage.ar.config import GridConfig
from arimage.ar.layers import MLP, ResidualDropout, attend, split_heads
from arimage.ar.linear import Linear
from arimage.ar.subtokens import split_open
from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.slots import SlotTable

INIT_STD = 0.02  # modeling/bert.py _init_weights


@strict
class MaskBitConfig(GridConfig):
    """Sizes of a MaskBit transformer.

    ``splits``: entries of an id, masked and predicted apart; ``mask_schedule``: of their masks.
    """

    model_type = "arimage_maskbit"
    orders: ClassVar[tuple[str, ...]] = ("bits",)
    positive: ClassVar[tuple[str, ...]] = (*GridConfig.positive, "splits")

    order: str = "bits"
    splits: int = 2
    mask_schedule: str = "arccos"
    norm_eps: float = 1e-12

    @property
    def bits(self) -> int:
        """Of an id."""
        return (self.vocab_size - 1).bit_length()

    @property
    def entry_bits(self) -> int:
        """Of an entry."""
        return self.bits // self.splits

    def validate_bits(self) -> None:
        """The vocabulary is a power of 2 whose bits fall into equal entries."""
        if self.vocab_size < 2 or self.vocab_size != 2**self.bits or self.bits % self.splits:
            raise ValueError(
                f"got vocab_size {self.vocab_size} and splits {self.splits}; bit tokens need a "
                "vocabulary of 2 ** bits (a tokenizer with the quantizer lfq) and bits that are a "
                "multiple of splits"
            )


class Block(GradientCheckpointingLayer):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: MaskBitConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.layer, self.heads = layer, config.num_heads
        self.qkv = Linear(width, 3 * width)
        self.project = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, config.mlp_hidden, gelu="none")
        self.mlp_norm = nn.LayerNorm(width, eps)
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "r m width"], step: Step, cache: Cache | None
    ) -> Float[Tensor, "r m width"]:
        """Same shape out."""
        q, k, v = split_heads(self.qkv(x), 3 * self.heads).chunk(3, dim=1)
        attended = self.project(attend(q, k, v, step, cache, self.layer))
        x = self.attention_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class MaskBitModel(Backbone):
    """Predicts all unknown entries."""

    config_class = MaskBitConfig
    config: MaskBitConfig
    _no_split_modules: ClassVar[list[str]] = ["Block"]

    def __init__(self, config: MaskBitConfig) -> None:
        super().__init__(config)
        width, eps = config.width, config.norm_eps
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.input_projection = Linear(config.bits, width)
        self.position_embedding = nn.Embedding(self.slots.num_slots + 1, width)  # the class's last
        self.first_norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.last = Linear(width, width)
        self.last_norm = nn.LayerNorm(width, eps)
        self.output = Linear(width, config.splits * self.num_choices)
        initialize(self)
        self.post_init()

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        return self.config.slots

    @property
    def num_choices(self) -> int:
        """Values of an entry."""
        return 2**self.config.entry_bits

    @property
    def order_options(self) -> dict[str, Any]:
        """How ids fall into entries, and the schedule of masks."""
        config = self.config
        return {
            "splits": config.splits,
            "size": self.num_choices,
            "schedule": config.mask_schedule,
        }

    def prepare(self, class_labels: Int[Tensor, " r"]) -> Context:
        """The position of the class."""
        place = self.position_embedding.weight[-1]
        return Context((self.class_embedding(class_labels) + place).unsqueeze(1))

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): token ids, below zero where entries are open (ar/subtokens.py)."""
        assert inputs is not None
        x = self.input_projection(self.signs(inputs))
        x = x + self.position_embedding(step.holds[..., -inputs.shape[1] :])
        x = self.dropout(self.first_norm(torch.cat([context.prefix, x], dim=1)))  # (r, m, width)
        for block in self.blocks:
            x = block(x, step, cache)
        return self.last_norm(self.last(step.read(x), gelu="none"))

    def signs(self, ids: Int[Tensor, "r m"]) -> Float[Tensor, "r m bits"]:
        """Bits as +1 and -1, the lowest first; zeros for an open entry."""
        entries = split_open(ids, self.config.splits, self.num_choices).unsqueeze(-1)
        place = torch.arange(self.config.entry_bits, device=ids.device)
        signs = (entries.clamp_min(0) >> place) % 2 * 2 - 1
        return signs.masked_fill(entries < 0, 0).flatten(2).to(self.dtype)

    def head(self, hidden: Float[Tensor, "r m width"]) -> Float[Tensor, "r n choices"]:
        """A linear layer: the logits of every entry of each position."""
        return self.output(hidden).unflatten(-1, (self.config.splits, -1)).flatten(1, 2)


@torch.no_grad()
def initialize(model: MaskBitModel) -> None:
    """The reference's start: std 0.02, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
