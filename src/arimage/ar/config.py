"""What every transformer's config has: its order, vocabulary, classes and size."""

from typing import ClassVar

from arimage.pretrained import ArimageConfig
from arimage.registry import unknown_name
from arimage.slots import SlotTable


class BackboneConfig(ArimageConfig):
    """Fields that every transformer has; ``null_class`` is row ``num_classes``.

    A family names the orders that it can be run in (``orders``).
    """

    model_type = "arimage_backbone"
    orders: ClassVar[tuple[str, ...]] = ()
    positive: ClassVar[tuple[str, ...]] = ("vocab_size", "depth", "width", "num_heads")

    order: str = "raster"
    vocab_size: int = 256
    num_classes: int = 10
    depth: int = 4
    width: int = 128
    num_heads: int = 4
    dropout: float = 0.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def null_class(self) -> int:
        """The row of the unconditional class."""
        return self.num_classes

    def validate_order(self) -> None:
        """The order is one that the family knows."""
        if self.order not in self.orders:
            raise ValueError(
                unknown_name(f"order of {type(self).__name__}", self.order, self.orders)
            )

    def validate_heads(self) -> None:
        """The width is a multiple of the heads."""
        if self.width % self.num_heads:
            raise ValueError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}; "
                "change one of them"
            )


class GridConfig(BackboneConfig):
    """Of transformers over one token map; grid: its (height, width)."""

    model_type = "arimage_grid"
    positive: ClassVar[tuple[str, ...]] = (*BackboneConfig.positive, "mlp_hidden")

    grid: list[int] | tuple[int, ...] = (4, 4)
    mlp_hidden: int = 384

    @property
    def scales(self) -> tuple[int, ...]:
        """Side of the one token map, in the words of models with several."""
        return (self.grid[0],)

    @property
    def slots(self) -> SlotTable:
        """The cells of the grid."""
        height, width = self.grid
        return SlotTable(((height, width),))

    def validate_grid(self) -> None:
        """Two positive sides."""
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"got grid {list(self.grid)}; expected [height, width]")
