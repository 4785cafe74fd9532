"""Which tokenizers, quantizers and published layouts of tokenizers exist: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arimage.registry import Registry

if TYPE_CHECKING:
    from arimage.checkpoint import Layout
    from arimage.tokenizers.base import ImageTokenizer
    from arimage.tokenizers.quantizers import Quantizer

TOKENIZERS: Registry[type[ImageTokenizer]] = Registry(
    "tokenizer",
    {
        "vq": "arimage.tokenizers.vq:VQTokenizer",
        "multiscale_vq": "arimage.tokenizers.multiscale_vq:MultiScaleVQTokenizer",
        "flexible_vq": "arimage.tokenizers.flexible_vq:FlexibleVQTokenizer",
        "titok": "arimage.tokenizers.titok:TiTokTokenizer",
    },
)

QUANTIZERS: Registry[type[Quantizer]] = Registry(
    "quantizer",
    {
        "vq_ema": "arimage.tokenizers.quantizers_ema:EMAQuantizer",
        "vq_cosine": "arimage.tokenizers.quantizers_ema:CosineQuantizer",
        "vq_rotation": "arimage.tokenizers.quantizers_ema:RotationQuantizer",
        "residual_vq": "arimage.tokenizers.quantizers_ema:ResidualQuantizer",
        "vq_learned": "arimage.tokenizers.quantizers_learned:LearnedQuantizer",
        "vq_learned_cosine": "arimage.tokenizers.quantizers_learned:LearnedCosineQuantizer",
        "gumbel": "arimage.tokenizers.quantizers_learned:GumbelQuantizer",
        "simvq": "arimage.tokenizers.quantizers_learned:SimQuantizer",
        "ibq": "arimage.tokenizers.quantizers_index:IndexQuantizer",
        "lfq": "arimage.tokenizers.quantizers_lattice:LookupFreeQuantizer",
        "bsq": "arimage.tokenizers.quantizers_lattice:SphericalQuantizer",
        "fsq": "arimage.tokenizers.quantizers_lattice:FiniteScalarQuantizer",
    },
)

LAYOUTS: Registry[type[Layout]] = Registry(
    "tokenizer layout",
    {
        "var": "arimage.tokenizers.convert.var:VARTokenizerLayout",
        "llamagen": "arimage.tokenizers.convert.llamagen:LlamaGenTokenizerLayout",
        "flexvar": "arimage.tokenizers.convert.flexvar:FlexVARTokenizerLayout",
        "maskgit": "arimage.tokenizers.convert.maskgit:MaskGITTokenizerLayout",
        "maskbit": "arimage.tokenizers.convert.maskbit:MaskBitTokenizerLayout",
        "taming": "arimage.tokenizers.convert.taming:TamingTokenizerLayout",
        "titok": "arimage.tokenizers.convert.titok:TiTokTokenizerLayout",
        "ibq": "arimage.tokenizers.convert.ibq:IBQTokenizerLayout",
        "open_magvit2": "arimage.tokenizers.convert.open_magvit2:OpenMAGVIT2TokenizerLayout",
    },
)
