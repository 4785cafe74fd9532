"""MVAR: VAR's transformer whose token maps see themselves alone (arXiv 2505.12742).

Behaviour of CVL-UESTC/MVAR@d0e035a models/mvar.py: VAR's layers and weights by name and shape; only
the attention differs, which is the order's (orders/within_scale.py). OliverRensu's M-VAR is another
system (m_var.py).
"""

from typing import Any, ClassVar

from arimage.ar.orders.within_scale import check_window
from arimage.ar.var import VARConfig, VARModel
from arimage.pretrained import strict


@strict
class MVARConfig(VARConfig):
    """VAR's sizes; window: side of what a token sees in the maps from number window_from on.

    Published: 7 x 7 tokens in maps 8 and 9 (13 x 13 and 16 x 16), CVL-UESTC/MVAR@d0e035a
    models/__init__.py.
    """

    model_type = "arimage_mvar"
    orders: ClassVar[tuple[str, ...]] = ("within_scale",)

    order: str = "within_scale"
    window: int = 7
    window_from: int = 8

    def validate_window(self) -> None:
        """Odd, and no larger than the maps that have windows."""
        check_window(list(self.scales), self.window, self.window_from)


class MVARModel(VARModel):
    """Predicts one token map per step from the canvas so far, without a cache."""

    config_class = MVARConfig
    config: MVARConfig

    @property
    def order_options(self) -> dict[str, Any]:
        """The windows."""
        return {"window": self.config.window, "window_from": self.config.window_from}
