"""``alignment``: latents near the features of a frozen vision model, patch by patch.

VA-VAE (Yao et al. 2025, arXiv 2501.01423, section 3): the marginal cosine similarity loss (eq. 3)
and the marginal distance matrix similarity loss (eq. 4), weighted by a ratio of gradients (eq. 5).
Behaviour and constants: hustvl/LightningDiT@2725fed vavae/ldm/modules/losses/contperceptual.py,
vavae/ldm/models/foundation_models.py, vavae/configs/f16d32_vfdinov2.yaml (weight 0.1). As there,
the vision model gets images in [-1, 1], not normalised by ImageNet's mean.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from arimage.shapes import Float
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.losses.adversarial import encoder_last_layer
from arimage.training.losses.base import Balance, Seen, TokenizerLoss, exactly
from arimage.training.losses.frozen import load_frozen

LIMIT = 1e8  # of the ratio of gradients; contperceptual.py, as above


class AlignmentLoss(TokenizerLoss):
    """Cosine and distance-matrix losses of projected latents and DINOv2's patch tokens.

    Args:
        model: a folder or hub id of a ``Dinov2Model``.
        cosine_margin: patches whose cosine similarity is within this of 1 count as equal.
        distance_margin: pairs of patches whose similarities differ by less count as equal.
        adaptive: the weight is multiplied with the ratio of gradients at the encoder's last layer.

    Raises:
        FileNotFoundError: no such model here and no network.
    """

    def __init__(
        self,
        *,
        model: str = "facebook/dinov2-large",
        cosine_margin: float = 0.5,
        distance_margin: float = 0.25,
        adaptive: bool = True,
    ) -> None:
        from transformers import Dinov2Model

        super().__init__()
        self.vision = load_frozen(
            Dinov2Model,
            model,
            need="the loss 'alignment' needs",
            instead="name it as model of that loss; or leave the loss out of the recipe",
        )
        self.margins = cosine_margin, distance_margin
        self.adaptive = adaptive
        self.project: nn.Conv2d | None = None

    def prepare(self, tokenizer: ImageTokenizer) -> None:
        """Makes the projection of latents to the width of the features, which is trained.

        Raises:
            ValueError: tokens without a place in the image, whose features they would learn.
        """
        if not tokenizer.placed:
            raise ValueError(
                "got the loss 'alignment' for a tokenizer whose tokens lie on a line; it compares "
                "each with the features of its place in the image: leave it out of the recipe"
            )
        width = self.vision.network.config.hidden_size
        ends = (tokenizer.config.code_dim, width)
        self.project = nn.Conv2d(*ends, 1, bias=False, device=tokenizer.device)

    def balance(self, tokenizer: ImageTokenizer) -> Balance | None:
        """At the encoder's last convolution, if ``adaptive``."""
        return Balance(encoder_last_layer(tokenizer), LIMIT) if self.adaptive else None

    def forward(self, seen: Seen) -> Float[Tensor, ""]:
        """The sum of both losses, each a mean over the batch."""
        assert self.project is not None, "prepare(tokenizer) comes first"
        with exactly(seen.latents):
            latents = self.project(seen.latents.float())
            features = self._features(seen.images, latents.shape[2:])
            return cosine_loss(latents, features, self.margins[0]) + distance_loss(
                latents, features, self.margins[1]
            )

    def _features(self, images: Tensor, grid: tuple[int, ...]) -> Float[Tensor, "b d h w"]:
        """Patch tokens on the grid of the latents, to which the images are resized."""
        patch = self.vision.network.config.patch_size
        size = (grid[0] * patch, grid[1] * patch)
        tokens = self.vision(F.interpolate(images.float(), size, mode="bilinear")).last_hidden_state
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


def cosine_loss(
    latents: Float[Tensor, "b d h w"], features: Float[Tensor, "b d h w"], margin: float
) -> Float[Tensor, ""]:
    """Marginal cosine similarity: how far below 1 - margin the cosine of each patch is."""
    return F.relu(1 - margin - F.cosine_similarity(features, latents)).mean()


def distance_loss(
    latents: Float[Tensor, "b d h w"], features: Float[Tensor, "b d h w"], margin: float
) -> Float[Tensor, ""]:
    """Marginal distance matrix similarity: cosines of all pairs of patches of an image."""
    x, y = (F.normalize(maps.flatten(2), dim=1) for maps in (latents, features))
    difference = x.transpose(1, 2) @ x - y.transpose(1, 2) @ y  # (b, n, n)
    return F.relu(difference.abs() - margin).mean()
