"""FD-DINOv2: the Frechet distance of DINOv2's features, which no ImageNet classifier made.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) as in ``fid``, over the class token of DINOv2.

Source: Stein et al. 2023, "Exposing flaws of generative model evaluation metrics and their unfair
treatment of diffusion models"; Karras et al. 2024 (EDM2) report it for ImageNet.

What holds: order does not matter. A set scores 0 against itself, and more than 0 against another
draw, by about c / n. The standard error covers what that of ``fid`` covers. Values are tens to
hundreds: they are not on the scale of FID.
"""

from arimage.eval.metrics.fid import FrechetDistance


class DINOv2FrechetDistance(FrechetDistance):
    """``fd_dinov2``: brings its own extractor."""

    name = "fd_dinov2"
    features = "dinov2"
