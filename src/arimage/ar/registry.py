"""Which transformers, orders and published layouts of transformers exist: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arimage.registry import Registry

if TYPE_CHECKING:
    from arimage.ar.base import Backbone
    from arimage.ar.orders.base import Order
    from arimage.checkpoint import Layout

MODELS: Registry[type[Backbone]] = Registry(
    "model",
    {
        "var": "arimage.ar.var:VARModel",
        "llama": "arimage.ar.llama:LlamaModel",
        "llama_text": "arimage.ar.llama_text:LlamaTextModel",
        "rar": "arimage.ar.rar:RARModel",
        "par": "arimage.ar.par:PARModel",
        "randar": "arimage.ar.randar:RandARModel",
        "arpg": "arimage.ar.arpg:ARPGModel",
        "lpd": "arimage.ar.lpd:LPDModel",
        "mvar": "arimage.ar.mvar:MVARModel",
        "m_var": "arimage.ar.m_var:MambaVARModel",
        "halton": "arimage.ar.halton:HaltonModel",
        "maskbit": "arimage.ar.maskbit:MaskBitModel",
        "flexvar": "arimage.ar.flexvar:FlexVARModel",
        "hmar": "arimage.ar.hmar:HMARModel",
        "titok_vit": "arimage.ar.titok:TiTokModel",
        "titok_uvit": "arimage.ar.titok:TiTokUViTModel",
        "ibq": "arimage.ar.ibq:IBQModel",
        "open_magvit2": "arimage.ar.open_magvit2:OpenMAGVIT2Model",
    },
)

ORDERS: Registry[type[Order]] = Registry(
    "order",
    {
        "raster": "arimage.ar.orders.raster:RasterOrder",
        "jacobi": "arimage.ar.orders.jacobi:JacobiOrder",
        "random": "arimage.ar.orders.random:RandomOrder",
        "next_scale": "arimage.ar.orders.next_scale:NextScaleOrder",
        "masked": "arimage.ar.orders.masked:MaskedOrder",
        "regions": "arimage.ar.orders.regions:RegionOrder",
        "instructed": "arimage.ar.orders.instructed:InstructedOrder",
        "random_groups": "arimage.ar.orders.random_groups:RandomGroupsOrder",
        "local_groups": "arimage.ar.orders.local_groups:LocalGroupsOrder",
        "within_scale": "arimage.ar.orders.within_scale:WithinScaleOrder",
        "halton": "arimage.ar.orders.halton:HaltonOrder",
        "bits": "arimage.ar.orders.bits:BitOrder",
        "flexible_scale": "arimage.ar.orders.flexible:FlexibleScaleOrder",
        "refined_scale": "arimage.ar.orders.refined:RefinedScaleOrder",
    },
)

LAYOUTS: Registry[type[Layout]] = Registry(
    "transformer layout",
    {
        "var": "arimage.ar.convert.var:VARLayout",
        "llamagen": "arimage.ar.convert.llamagen:LlamaGenLayout",
        "llamagen_text": "arimage.ar.convert.llamagen:LlamaGenTextLayout",
        "rar": "arimage.ar.convert.rar:RARLayout",
        "par": "arimage.ar.convert.par:PARLayout",
        "randar": "arimage.ar.convert.randar:RandARLayout",
        "arpg": "arimage.ar.convert.arpg:ARPGLayout",
        "lpd": "arimage.ar.convert.lpd:LPDLayout",
        "mvar": "arimage.ar.convert.mvar:MVARLayout",
        "m_var": "arimage.ar.convert.m_var:MambaVARLayout",
        "halton": "arimage.ar.convert.halton:HaltonLayout",
        "maskbit": "arimage.ar.convert.maskbit:MaskBitLayout",
        "flexvar": "arimage.ar.convert.flexvar:FlexVARLayout",
        "hmar": "arimage.ar.convert.hmar:HMARLayout",
        "titok_vit": "arimage.ar.convert.titok:TiTokLayout",
        "titok_uvit": "arimage.ar.convert.titok:TiTokUViTLayout",
        "ibq": "arimage.ar.convert.ibq:IBQLayout",
        "open_magvit2": "arimage.ar.convert.open_magvit2:OpenMAGVIT2Layout",
    },
)
