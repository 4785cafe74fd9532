"""Autoguidance (arXiv 2406.02507): a weaker model of the same tokens as a second branch.

w + s (m - w), where m and w are the logits of the model and of the weaker one, both of the asked
class (or prompt): what training longer, or a larger model, made better is pushed further. Added
over branches this is s m + (1 - s) w. The weaker model is an earlier checkpoint or a smaller one,
over the same tokenizer and in the same order. It goes together with guidance: then m is guided.
"""

import dataclasses
from typing import Any

from arimage.sampling.handover import facts, share_codes
from arimage.sampling.loop import Branch
from arimage.sampling.settings import Settings


def autoguided(branches: list[Branch], weaker: Branch, scale: float) -> list[Branch]:
    """All branches with their weights; ``scale`` 1 would be the first ones alone.

    ``branches``: of which one speaks at each step.
    """
    strong = [dataclasses.replace(branch, weight=scale) for branch in branches]
    return [*strong, dataclasses.replace(weaker, weight=1 - scale)]


class Guidable:
    """Gives a generator ``guide_of``; a guide that is named by a setting is loaded once."""

    transformer: Any
    tokenizer: Any

    def guide_of(self, settings: Settings) -> Any:
        """The weaker generator that ``settings`` ask for, checked; None where it is off.

        Raises:
            ValueError: one that does not fit, see ``check_guide``. FileNotFoundError and the like:
                as ``from_pretrained``, for a name.
        """
        if settings.guide is None or settings.guide_scale == 1:
            return None
        guide, place = settings.guide, (self.transformer.dtype, self.transformer.device)
        if isinstance(guide, str):
            loaded = vars(self).setdefault("_guides", {})
            key = (guide, *place)
            if key not in loaded:
                load: Any = type(self)
                loaded[key] = load.from_pretrained(guide, dtype=place[0], device=place[1])
            guide = loaded[key]
        check_guide(self, guide)
        return guide


def check_guide(main: Any, guide: Any) -> None:
    """Raises ValueError unless a guide predicts the same tokens of the same conditions in turn.

    Args:
        main, guide: generators, or what has their ``tokenizer`` and ``transformer``.
    """
    for name in ("tokenizer", "transformer"):
        if not hasattr(guide, name):
            raise ValueError(
                f"got a guide of type {type(guide).__name__}; expected an ImageGenerator or the "
                "name of one"
            )
    ours, theirs = facts(main), facts(guide)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"the guide's {name} is {theirs[name]} and this model's {value}; give a weaker "
                "model over the same tokenizer, of the same classes and order"
            )
    if not share_codes(main, guide):
        raise ValueError(
            "the guide's tokenizer has other codes: its ids mean something else; give a weaker "
            "model that was trained on tokens of the same tokenizer"
        )
