"""IBQ's tokenizer files: ``imagenet256_16384.ckpt`` and the like, for 1,024 to 262,144 codes.

Keys and shapes: TencentARC/SEED-Voken@b9a17ea src/IBQ/models/ibqgan.py. The networks are taming's;
what tells the files apart is their averaged weights, which the reference uses for inference.
"""

from typing import Any, ClassVar

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import SingleScaleLayout

AVERAGED = "model_ema."  # then the name of a weight without its dots: src/IBQ/modules/ema.py


def averaged(weights: Weights) -> Weights:
    """The weights, with the averaged copy in place of each where the file has one."""
    copies = {key.replace(".", ""): key for key in weights if not key.startswith(AVERAGED)}
    found = {
        copies[name]: value
        for key, value in weights.items()
        if (name := key.removeprefix(AVERAGED)) != key and name in copies
    }
    used = {AVERAGED + key.replace(".", "") for key in found}
    return {key: found.get(key, value) for key, value in weights.items() if key not in used}


class IBQTokenizerLayout(SingleScaleLayout):
    """taming's networks with attention at the lowest resolution, and averaged weights."""

    name = "IBQ tokenizer"
    anchors = (
        *SingleScaleLayout.anchors,
        "quantize.embedding.weight",
        "encoder.mid.block_1.conv1.weight",
        f"{AVERAGED}decay",
    )
    droppable: ClassVar[dict[str, str]] = {
        r"model_ema\.(decay|num_updates)": "how weights were averaged",
        r"(model_ema\.)?loss.*": "LPIPS and the discriminator, for training alone",
    }

    def split(self, weights: Weights, config: Any) -> Weights:
        """The averaged weights."""
        return averaged(weights)

    def codebook(self, weights: Weights) -> tuple[str, str]:
        """Chosen by product."""
        return "ibq", "quantize.embedding.weight"
