"""MaskGIT's VQGAN in PyTorch: ``maskgit-vqgan-imagenet-f16-256.bin``, the tokenizer of RAR.

Keys and shapes: bytedance/1d-tokenizer@942a96f modeling/modules/maskgit_vqgan.py.
"""

from arimage.tokenizers.convert.conv import Names, SingleScaleLayout


class MaskGITTokenizerLayout(SingleScaleLayout):
    """No attention, no convolutions around the quantizer."""

    name = "MaskGIT tokenizer"
    network = "maskgit"
    anchors = (
        *SingleScaleLayout.anchors,
        "decoder.up.1.upsample_conv.weight",
        "decoder.mid.0.conv1.weight",
    )
    names = Names(up="upsample_conv", middle=("mid.0", "mid.1"))
