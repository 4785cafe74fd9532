"""The adversarial loss of both sides, LeCAM, and the weight that VQGAN balances it with.

A critic gives logits, greater for real images. Names of losses, after the references:

    kind             critic                                              tokenizer
    hinge            (mean relu(1 - real) + mean relu(1 + fake)) / 2     -mean fake
    vanilla          (mean softplus(-real) + mean softplus(fake)) / 2    -mean fake
    non_saturating   mean softplus(-real) + mean softplus(fake)          mean softplus(-fake)

hinge: Lim and Ye 2017 (arXiv 1705.02894); the other two: Goodfellow et al. 2014 (arXiv 1406.2661).
"vanilla" keeps the linear loss for the tokenizer, as CompVis/taming-transformers@3ba01b2
taming/modules/losses/vqperceptual.py; non_saturating is as markweberdev/maskbit@5ea3d73
modeling/modules/gan_utils.py. (FoundationVision/LlamaGen@ce98ec4 swaps the arguments of its
non-saturating loss.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arimage.registry import unknown_name
from arimage.shapes import Float
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.entropy import mean_over_processes
from arimage.training.losses.base import precise

KINDS = ("hinge", "vanilla", "non_saturating")
LIMIT = 1e4  # of the adaptive weight; vqperceptual.py, as above
# Added to the gradient it divides by; vqperceptual.py. The paper has 1e-6.
DELTA = 1e-4
SCALE = 2**12  # of losses whose gradients are compared: in float16 those of means of pixels vanish
LECAM_DECAY = 0.999  # maskbit@5ea3d73 modeling/modules/losses.py; 0.99 in the paper's code


def generator_loss(kind: str, fake_logits: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """What the tokenizer minimises.

    Raises:
        KeyError: an unknown kind.
    """
    check_kind(kind)
    fake = precise(fake_logits)
    return F.softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


def critic_loss(
    kind: str, real_logits: Float[Tensor, "*shape"], fake_logits: Float[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """What the critic minimises.

    Raises:
        KeyError: an unknown kind.
    """
    check_kind(kind)
    real, fake = precise(real_logits), precise(fake_logits)
    if kind == "hinge":
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    both = F.softplus(-real).mean() + F.softplus(fake).mean()
    return both if kind == "non_saturating" else both / 2


def check_kind(kind: str) -> None:
    """Raises KeyError for an unknown kind of adversarial loss."""
    if kind not in KINDS:
        raise KeyError(unknown_name("adversarial loss", kind, KINDS))


class LeCam(nn.Module):
    """LeCAM regularisation (Tseng et al. 2021, arXiv 2104.03310): logits stay near past ones.

    On mean logits and after the loss, as markweberdev/maskbit@5ea3d73 modeling/modules/losses.py;
    the paper's is on each logit. The means are over all processes.

    Args:
        weight: of the regularisation; 0 is off.
        decay: of the moving averages of mean logits.
    """

    def __init__(self, weight: float, decay: float = LECAM_DECAY) -> None:
        super().__init__()
        self.weight, self.decay = weight, decay
        self.real: Tensor
        self.fake: Tensor
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(
        self, real_logits: Float[Tensor, "*shape"], fake_logits: Float[Tensor, "*shape"]
    ) -> Float[Tensor, ""]:
        """The weighted loss, to be added to ``critic_loss``; then the averages move."""
        if not self.weight:
            return real_logits.new_zeros((), dtype=torch.float32)
        real, fake = mean_over_processes(
            torch.stack([precise(real_logits).mean(), precise(fake_logits).mean()])
        )
        loss = F.relu(real - self.fake).square() + F.relu(self.real - fake).square()
        with torch.no_grad():
            self.real.lerp_(real, 1 - self.decay)
            self.fake.lerp_(fake, 1 - self.decay)
        return self.weight * loss


def adaptive_weight(
    reconstruction_loss: Float[Tensor, ""],
    other_loss: Float[Tensor, ""],
    last_layer: nn.Parameter,
    limit: float = LIMIT,
) -> Float[Tensor, ""]:
    """The ratio of both losses' gradients at a layer (VQGAN, arXiv 2012.09841 eq. 7), a constant.

    Gradients are averaged over processes before their norms are taken.

    Args:
        reconstruction_loss: with its weights, perceptual part included.
        other_loss: adversarial, or what else is balanced, without its weight.
        last_layer: where both gradients arrive.
        limit: the greatest ratio.

    Raises:
        ValueError: a frozen layer.
    """
    if not last_layer.requires_grad:
        raise ValueError(
            "an adaptive weight compares gradients at a layer that is frozen here; set adaptive to "
            "false in the recipe"
        )
    first, second = (
        precise(torch.autograd.grad(SCALE * loss, last_layer, retain_graph=True)[0]) / SCALE
        for loss in (reconstruction_loss, other_loss)
    )
    ratio = _norm(first) / (_norm(second) + DELTA)
    return ratio.clamp(0, limit).detach()


def _norm(gradient: Tensor) -> Tensor:
    """Of the gradient of all processes."""
    return mean_over_processes(precise(gradient)).norm()


def last_layer(tokenizer: ImageTokenizer) -> nn.Parameter:
    """The weight of the decoder's last convolution, where VQGAN balances the adversarial loss."""
    return _last_convolution(tokenizer.decoder)


def encoder_last_layer(tokenizer: ImageTokenizer) -> nn.Parameter:
    """The weight of the encoder's last convolution, where VA-VAE balances the alignment."""
    return _last_convolution(tokenizer.encoder)


def _last_convolution(network: nn.Module) -> nn.Parameter:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)][-1].weight
