"""What a transformer is trained by, besides what every training has."""

from dataclasses import dataclass

from arimage.training.common import Recipe

# Names of VAR's decay-free parameters in ours: start, pos_1LC, lvl_embed, ada_gss, scale_mul. Its
# list names no class embedding, which decays (train.py and utils/lr_control.py of the same commit).
UNDECAYED = ("start", "position_embedding", "scale_embedding", "modulation", "log_scale")
# The same for RAR, whose rule is a name with "embed", "norm" or "ln", as in adaln_before_head:
# bytedance/1d-tokenizer@942a96f utils/train_utils.py create_optimizer.
RAR_UNDECAYED = (
    "class_embedding",
    "token_embedding",
    "position_embedding",
    "target_embedding",
    "step_embedding",
    "out_modulation",
)
UNDECAYED_OF = dict.fromkeys(("var", "mvar", "m_var", "flexvar", "hmar"), UNDECAYED)  # by family
UNDECAYED_OF |= {"rar": RAR_UNDECAYED}


@dataclass(frozen=True, kw_only=True)
class TransformerRecipe(Recipe):
    """A recipe with what transformers alone have.

    Attributes:
        label_dropout: share of labels replaced by the null class, which so learns the
            unconditional model.
        drop_path: share of residual branches dropped per image in the last block, divided by the
            depth (it grows linearly from none in the first block; arXiv 1603.09382).
        gate_init: factor of the adaLN gates' initialisation where the family has gates; None for
            the family's own.
        family: of a transformer that is made anew; None for what fits the order.
        anneal_start, anneal_end: shares of the training. Each image is taught in a random order
            of its own until the first, in the transformer's from the second on, and with a
            probability that falls linearly in between (RAR, arXiv 2411.00776). 0, 0 is never.
        attention: "flex" or "sdpa", to rounding the same; None as the device says
            (``ar.block_mask.choose_attention``).
    """

    label_dropout: float = 0.1  # VAR and LlamaGen
    drop_path: float = 0.0
    gate_init: float | None = None
    family: str | None = None
    anneal_start: float = 0.0
    anneal_end: float = 0.0
    attention: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"got {name} {getattr(self, name)}; expected 0 to below 1")
        if not 0 <= self.anneal_start <= self.anneal_end <= 1:
            raise ValueError(
                f"got anneal_start {self.anneal_start} and anneal_end {self.anneal_end}; expected "
                "shares of the training in this order: 0 <= anneal_start <= anneal_end <= 1"
            )

    def random_share(self, progress: float) -> float:
        """Probability that an image is taught in a random order at ``progress``, 0 to below 1."""
        if progress < self.anneal_start:
            return 1.0
        if progress >= self.anneal_end:
            return 0.0
        return (self.anneal_end - progress) / (self.anneal_end - self.anneal_start)
