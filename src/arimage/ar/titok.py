"""TiTok's generators: bidirectional transformers over a line of tokens (arXiv 2406.07550).

Behaviour of bytedance/1d-tokenizer@942a96f modeling/maskgit.py. ``TiTokModel`` is ImageBert: BERT's
blocks, norms after the residuals. ``TiTokUViTModel`` is UViTBert (after U-ViT, arXiv 2209.12152):
norms before, and the second half of the blocks reads what the first half made.
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
from arimage.shapes import Float, Int
from arimage.slots import SlotTable

INIT_STD = 0.02  # modeling/maskgit.py
BERT_EPS, UVIT_EPS = 1e-12, 1e-5  # modeling/maskgit.py; nn.LayerNorm's own


@strict
class TiTokConfig(GridConfig):
    """Sizes of a TiTok transformer; the grid is (1, tokens)."""

    model_type = "arimage_titok_vit"
    orders: ClassVar[tuple[str, ...]] = ("masked",)

    order: str = "masked"


@strict
class TiTokUViTConfig(TiTokConfig):
    """The same; ``depth`` counts all blocks and is odd: two halves around one in the middle."""

    model_type = "arimage_titok_uvit"

    depth: int = 5

    def validate_depth(self) -> None:
        """An odd number."""
        if self.depth % 2 == 0:
            raise ValueError(
                f"got depth {self.depth}; a U-ViT has two equal halves around one block: give an "
                "odd number"
            )


class BERTBlock(GradientCheckpointingLayer):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: TiTokConfig, layer: int) -> None:
        super().__init__()
        width = config.width
        self.layer, self.heads = layer, config.num_heads
        self.qkv, self.project = Linear(width, 3 * width), Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, BERT_EPS)
        self.mlp = MLP(width, config.mlp_hidden, gelu="none")
        self.mlp_norm = nn.LayerNorm(width, BERT_EPS)
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "r m width"], step: Step, cache: Cache | None
    ) -> Float[Tensor, "r m width"]:
        """Same shape out."""
        q, k, v = split_heads(self.qkv(x), 3 * self.heads).chunk(3, dim=1)
        attended = self.project(attend(q, k, v, step, cache, self.layer))
        x = self.attention_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class UViTBlock(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)); in the second half of what both were."""

    def __init__(self, config: TiTokUViTConfig, layer: int) -> None:
        super().__init__()
        width = config.width
        self.layer, self.heads = layer, config.num_heads
        joins = layer > config.depth // 2
        self.join = Linear(2 * width, width) if joins else None
        self.attention_norm = nn.LayerNorm(width, UVIT_EPS)
        self.qkv, self.project = Linear(width, 3 * width, bias=False), Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, UVIT_EPS)
        self.mlp = MLP(width, config.mlp_hidden, gelu="none")
        self.dropout = ResidualDropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "r m width"],
        step: Step,
        cache: Cache | None,
        skipped: Float[Tensor, "r m width"] | None = None,
    ) -> Float[Tensor, "r m width"]:
        """Same shape out; ``skipped`` is what the block's twin in the first half made."""
        if self.join is not None and skipped is not None:
            x = self.join(torch.cat([x, skipped], dim=-1))
        q, k, v = split_heads(self.qkv(self.attention_norm(x)), 3 * self.heads).chunk(3, dim=1)
        x = x + self.dropout(self.project(attend(q, k, v, step, cache, self.layer)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class TiTokModel(Backbone):
    """Predicts all unknown tokens; the class is one more position before them."""

    config_class = TiTokConfig
    config: TiTokConfig
    pass_draws = 1
    _no_split_modules: ClassVar[list[str]] = ["BERTBlock"]
    block: ClassVar[type[nn.Module]] = BERTBlock
    eps: ClassVar[float] = BERT_EPS

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__(config)
        width = config.width
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.token_embedding = nn.Embedding(config.vocab_size + 1, width)  # the mask token is last
        self.position_embedding = nn.Embedding(self.slots.num_slots + 1, width)  # the class's first
        self.norm = nn.LayerNorm(width, self.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(self.block(config, i) for i in range(config.depth))
        self.output = Linear(width, config.vocab_size)
        initialize(self)
        self.post_init()

    @property
    def slots(self) -> SlotTable:
        """The tokens of the line."""
        return self.config.slots

    @property
    def order_options(self) -> dict[str, Any]:
        """The schedule of the masks."""
        return {"schedule": "arccos"}

    def prepare(self, class_labels: Int[Tensor, " r"]) -> Context:
        """The position of the class."""
        place = self.position_embedding.weight[0]
        return Context((self.class_embedding(class_labels) + place).unsqueeze(1))

    def embed(self, inputs: Int[Tensor, "r n"], context: Context, step: Step) -> Tensor:
        """All positions (r, 1 + n, width) of ids, UNKNOWN for the mask token."""
        x = self.token_embedding(torch.where(inputs < 0, self.config.vocab_size, inputs))
        x = x + self.position_embedding(step.holds[..., -inputs.shape[1] :] + 1)
        return torch.cat([context.prefix, x], dim=1)

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, n): token ids, UNKNOWN for the mask token."""
        assert inputs is not None
        x = self.dropout(self.norm(self.embed(inputs, context, step)))
        for block in self.blocks:
            x = block(x, step, cache)
        return step.read(x)

    def head(self, hidden: Float[Tensor, "r n width"]) -> Float[Tensor, "r n vocab"]:
        """A linear layer."""
        return self.output(hidden)


class TiTokUViTModel(TiTokModel):
    """The same with a U-ViT's blocks; ``norm`` comes last."""

    config_class = TiTokUViTConfig
    config: TiTokUViTConfig
    _no_split_modules: ClassVar[list[str]] = ["UViTBlock"]
    block = UViTBlock
    eps = UVIT_EPS

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """As TiTokModel's."""
        assert inputs is not None
        x, half = self.embed(inputs, context, step), self.config.depth // 2
        skipped: list[Tensor] = []
        for block in self.blocks[:half]:
            x = block(x, step, cache)
            skipped.append(x)
        x = self.blocks[half](x, step, cache)
        for block in self.blocks[half + 1 :]:
            x = block(x, step, cache, skipped.pop())
        return self.norm(step.read(x))


@torch.no_grad()
def initialize(model: TiTokModel) -> None:
    """The reference's start: std 0.02, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
