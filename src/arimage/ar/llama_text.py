"""LlamaGen's text-conditional transformer: the blocks of ``llama.py`` after a prefix of text.

Behaviour of FoundationVision/LlamaGen@ce98ec4 autoregressive/models/gpt.py and generate.py, t2i: up
to 120 features of T5, projected, padded on the left; the null rows of guidance are learned features
under the mask of their prompt. The prefix is folded into one position (``Block.prefix``), so orders
and caches know a prefix of one. ``full_length`` is the slow twin.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from arimage.ar.base import Cache, Context, Step
from arimage.ar.layers import rotary_2d
from arimage.ar.linear import Linear
from arimage.ar.llama import ROTARY_BASE, LlamaConfig, LlamaModel
from arimage.pretrained import strict
from arimage.shapes import Float, Int
from arimage.text import TextFeatures


@strict
class LlamaTextConfig(LlamaConfig):
    """text_width: of the encoder's features; text_tokens: of a prompt at most; text_encoder: a hub
    id or folder that ``transformers`` loads. There are no classes.
    """

    model_type = "arimage_llama_text"
    orders: ClassVar[tuple[str, ...]] = ("raster",)
    positive: ClassVar[tuple[str, ...]] = (*LlamaConfig.positive, "text_width", "text_tokens")

    num_classes: int = 0
    text_width: int = 2048
    text_tokens: int = 120
    text_encoder: str = "google/flan-t5-xl"

    def validate_classes(self) -> None:
        """None."""
        if self.num_classes:
            raise ValueError(f"got num_classes {self.num_classes}; a model of text has 0")


@dataclass(frozen=True)
class TextContext(Context):
    """prefix (r, n, width): projected features, tokens last; mask (r, n): where there is one."""

    mask: Tensor

    def attention_mask(self, step: Step) -> Float[Tensor, "r 1 #m visible"]:
        """What a step may see, as numbers to add: the prefix counts as often as it has tokens.

        log n is rounded to the model's dtype, and what that leaves is taken from the others, which
        comes to the same: softmax does not see what is added to all.
        """
        count = self.mask.sum(1)[:, None, None, None].log()
        rounded = count.to(self.prefix.dtype)
        rest = (rounded.float() - count).to(self.prefix.dtype)
        bias = torch.cat([rounded, rest.expand(-1, -1, -1, step.stop - 1)], dim=-1)
        assert not isinstance(step.mask, BlockMask)  # choose_attention
        return bias if step.mask is None else bias.masked_fill(~step.mask, -torch.inf)


@dataclass(frozen=True)
class FoldedPrefix:
    """A ``Cache`` of one position, for passes that keep none: a zero key and a value."""

    value: Tensor

    def update(self, layer: int, step: Step, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The position, then those of the step."""
        key = torch.zeros_like(self.value)
        return torch.cat([key, keys], dim=2), torch.cat([self.value, values], dim=2)

    def rows(self, count: int) -> "FoldedPrefix":
        """The first ``count`` rows."""
        return FoldedPrefix(self.value[:count])


class TextProjection(nn.Module):
    """Linear, tanh-GELU, linear, without biases."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.up = Linear(text_width, width, bias=False)
        self.down = Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "r n text"]) -> Float[Tensor, "r n width"]:
        """Features to the width of the transformer."""
        return self.down(self.up(x, gelu="tanh"))


class LlamaTextModel(LlamaModel):
    """Predicts the next token after a prompt."""

    config_class = LlamaTextConfig
    config: LlamaTextConfig
    takes_text: ClassVar[bool] = True

    def add_condition(self, config: Any) -> None:
        """The projection, and the features of no prompt."""
        self.text_projection = TextProjection(config.text_width, config.width)
        self.null_text = nn.Parameter(torch.empty(config.text_tokens, config.text_width))
        nn.init.normal_(self.null_text, std=config.text_width**-0.5)  # gpt.py, CaptionEmbedder

    @property
    def prefix_rows(self) -> int:
        """A row per token of text."""
        return self.config.text_tokens

    def prepare(self, condition: Any) -> TextContext:
        """The projected prompts.

        Raises:
            ValueError: features of another width, or of too many tokens.
        """
        text = self.read(condition).to(self.device, self.dtype).right_aligned()
        return TextContext(self.text_projection(text.features), text.mask)

    def read(self, condition: Any) -> TextFeatures:
        """The condition, if it is one for this model; errors as in ``prepare``."""
        if not isinstance(condition, TextFeatures):
            raise TypeError(
                f"got a condition of type {type(condition).__name__}; this model draws from text: "
                "give TextFeatures"
            )
        width, tokens = condition.features.shape[-1], int(condition.mask.sum(1).max())
        if width != self.config.text_width:
            raise ValueError(
                f"got text features of width {width}; this model reads {self.config.text_width}, "
                f"those of {self.config.text_encoder}: use that encoder"
            )
        if tokens > self.config.text_tokens:
            raise ValueError(
                f"got text features of {tokens} tokens; this model reads at most "
                f"{self.config.text_tokens}: shorten the prompt"
            )
        return condition

    def with_null(self, condition: Any) -> TextFeatures:
        """The prompts, then learned features with the prompts' masks."""
        text = self.read(condition).to(self.device, self.dtype).right_aligned()
        null = self.null_text[-text.mask.shape[1] :].expand_as(text.features)
        return TextFeatures(torch.cat([text.features, null]), text.mask.repeat(2, 1))

    def settled(self, context: TextContext) -> TextContext:
        """Padded to as many tokens as a prompt may have."""
        more = self.config.text_tokens - context.mask.shape[1]
        prefix, mask = F.pad(context.prefix, (0, 0, more, 0)), F.pad(context.mask, (more, 0))
        return TextContext(prefix, mask)

    def nothing(self) -> TextFeatures:
        """All learned features."""
        mask = torch.ones(1, self.config.text_tokens, device=self.device, dtype=torch.bool)
        return TextFeatures(self.null_text.detach()[None], mask)

    def forward(
        self, inputs: Tensor | None, context: Context, step: Step, cache: Cache | None = None
    ) -> Float[Tensor, "r n width"]:
        """``inputs`` (r, m): token ids; None for the prefix alone."""
        assert isinstance(context, TextContext)
        if inputs is None:
            return self.prefill(context.prefix, context.mask, step, cache)
        x = self.dropout(self.embed(inputs, step))
        text = None if step.start else self.dropout(context.prefix)
        table = self.rotary_table(x.device)[step.positions[-x.shape[1] :]]
        mask = context.attention_mask(step)[:, :, -x.shape[1] :]
        inner = dataclasses.replace(step, mask=mask, cached=True)
        for block in self.blocks:
            if text is not None:
                text, value = block.prefix(text, context.mask)
                cache = FoldedPrefix(value)
            x = block(x, table, inner, cache)
        if text is not None:
            x = torch.cat([text[:, -1:], x], dim=1)
        return self.norm(step.read(x))


def full_length(
    model: LlamaTextModel, inputs: Int[Tensor, "r m"], context: TextContext, step: Step
) -> Float[Tensor, "r n width"]:
    """Teacher forcing with a position for every token of text: the slow twin of ``forward``.

    Plain attention under a mask: what came before, without padding; and oneself, so that padding
    sees something. ``step`` is the order's full step.
    """
    x = torch.cat([context.prefix, model.embed(inputs, step)], dim=1)
    before, total = context.prefix.shape[1], x.shape[1]
    mask = torch.ones(total, total, dtype=torch.bool, device=x.device).tril()
    mask = mask.repeat(len(x), 1, 1, 1)
    mask[..., :before] &= context.mask[:, None, None]
    mask |= torch.eye(total, dtype=torch.bool, device=x.device)
    height, width = model.config.grid
    table = rotary_2d((height, width), before, model.config.head_dim, ROTARY_BASE, x.device)
    for block in model.blocks:
        x = block(x, table[:total], dataclasses.replace(step, mask=mask), None)
    return model.norm(x[:, before - 1 :])
