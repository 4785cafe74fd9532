"""Linear weights in 8 bits (torchao), opt-in by name: less memory, other images.

``generator.transformer.quantize("int8")`` keeps the weights of all linear layers of the blocks and
of the head as 8-bit numbers with one scale per output row. Embeddings, norms and what makes adaLN
tables stay: they are read once per image. What it costs is measured in docs/performance.md.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from arimage.ar.linear import Linear
from arimage.registry import unknown_name

CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}  # of torchao
PARTS = ("blocks.", "inner_blocks.", "output")  # what every family calls its blocks and its head


class Quantizable(nn.Module):
    """Mix-in of models whose linear layers may be kept in 8 bits."""

    quantized: str | None = None

    def quantize(self, weights: str) -> None:
        """Keeps the linear weights of blocks and head as "int8" or "fp8", in place, for good.

        fp8 is float8_e4m3fn. Products are in the model's dtype; where torch has no kernel that
        reads 8 bits, a layer's weights are converted at each call.

        Raises:
            KeyError: another name. ModuleNotFoundError: no torchao. ValueError: done before.
        """
        if weights not in CONFIGS:
            raise KeyError(unknown_name("kind of quantised weights", weights, CONFIGS))
        self._check_whole("quantised again")
        if find_spec("torchao") is None:
            raise ModuleNotFoundError(
                f"weights in {weights} need torchao, which is not installed; pip install "
                "'arimage[quantize]'",
                name="torchao",
            )
        from torchao import quantization

        self.eval().requires_grad_(False)
        config = getattr(quantization, CONFIGS[weights])(set_inductor_config=False)
        quantization.quantize_(self, config, filter_fn=is_quantized)
        for name, module in self.named_modules():
            if is_quantized(module, name):
                module.quantized = True
        self.quantized = weights

    def train(self, mode: bool = True) -> Any:
        """As every module's. ValueError for a quantised one: nothing can be learnt in 8 bits."""
        if mode:
            self._check_whole("trained")
        return super().train(mode)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As the model's own. ValueError for a quantised one, before anything is written."""
        self._check_whole("saved")
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]

    def _check_whole(self, what: str) -> None:
        if self.quantized is not None:
            raise ValueError(
                f"a transformer with weights in {self.quantized} cannot be {what}; load it again: "
                "the full weights are in its folder"
            )


def is_quantized(module: nn.Module, name: str) -> bool:
    """Whether ``quantize`` converts a module: linear layers of the blocks and of the head."""
    return isinstance(module, Linear) and name.startswith(PARTS)
