"""PAR: a Llama-type transformer that predicts a token of every region at once (arXiv 2412.15119).

Behaviour of Epiphqny/PAR@d96acea autoregressive/models/gpt.py: LlamaGen's, with as many special
tokens as there are regions but one, which have no place in the image: their rotary rows are zero.
They are the last rows of the vocabulary. All else is the order's (orders/regions.py).
"""

from typing import Any, ClassVar

from torch import Tensor

from arimage.ar.base import Step
from arimage.ar.llama import LlamaConfig, LlamaModel
from arimage.ar.orders.regions import check_regions
from arimage.pretrained import strict
from arimage.shapes import Float


@strict
class PARConfig(LlamaConfig):
    """Sizes of a PAR transformer; regions: tokens per step, 4 or 16 in the published models."""

    model_type = "arimage_par"
    orders: ClassVar[tuple[str, ...]] = ("regions",)

    order: str = "regions"
    regions: int = 4

    @property
    def extra_tokens(self) -> int:
        """The special tokens."""
        return self.regions - 1

    def validate_regions(self) -> None:
        """They cut the grid into equal parts."""
        check_regions(self.grid, self.regions)


class PARModel(LlamaModel):
    """Predicts the tokens at one place of all regions; negative ids are special tokens."""

    config_class = PARConfig
    config: PARConfig

    @property
    def order_options(self) -> dict[str, Any]:
        """The regions."""
        return {"regions": self.config.regions}

    def rotary(self, step: Step) -> Float[Tensor, "*r m half 2"]:
        """By the places that positions hold; zero for the class and for special tokens."""
        return self.rotary_table(step.holds.device)[step.holds + 1]
