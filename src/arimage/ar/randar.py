"""RandAR: a Llama-type transformer that is asked for places in any order (arXiv 2412.01827).

Behaviour of ziqipang/RandAR@d374a72 RandAR/model/randar_gpt.py: LlamaGen's, with queries in the
sequence. A query is one learned vector, whose heads are turned to the place that is asked for; its
attention turns by the same place again. All else is the order's (orders/instructed.py).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from arimage.ar.base import Step
from arimage.ar.layers import at_places, rotate
from arimage.ar.llama import INIT_STD, LlamaConfig, LlamaModel
from arimage.pretrained import strict
from arimage.shapes import Float, Int


@strict
class RandARConfig(LlamaConfig):
    """Sizes of a RandAR transformer."""

    model_type = "arimage_randar"
    orders: ClassVar[tuple[str, ...]] = ("instructed",)

    order: str = "instructed"


class RandARModel(LlamaModel):
    """Predicts the tokens at the places of its queries, which are UNKNOWN ids."""

    config_class = RandARConfig
    config: RandARConfig
    draws_apart: ClassVar[bool] = True

    def __init__(self, config: RandARConfig) -> None:
        super().__init__(config)
        self.position_instruction = nn.Parameter(torch.randn(1, config.width) * INIT_STD)

    def embed(self, ids: Int[Tensor, "r m"], step: Step) -> Float[Tensor, "r m width"]:
        """Token ids to vectors; queries from the places that they hold."""
        tokens = self.token_embedding(ids.clamp_min(0))
        heads, places = self.config.num_heads, step.holds[..., -ids.shape[1] :]
        vector = self.position_instruction.view(1, heads, 1, -1).expand(-1, -1, ids.shape[1], -1)
        queries = rotate(vector, self.rotary_at(places)).transpose(1, 2).flatten(2)
        return torch.where((ids < 0).unsqueeze(-1), queries, tokens)

    def rotary(self, step: Step) -> Float[Tensor, "*r m half 2"]:
        """By the places that positions hold; zero for the class."""
        return self.rotary_at(step.holds)

    def rotary_at(self, places: Tensor) -> Float[Tensor, "*r m half 2"]:
        """cos and sin at slots, (m,) or (r, m), with an axis for the heads; zero for NO_SLOT."""
        return at_places(self.rotary_table(places.device), places)
