"""How long do the systems of the family take beside raster decoding, and beside their own code?

    python benchmarks/family.py --system par [--peer PATH] [--batch 4] [--runs 3]

One size for all: width 256, depth 6, a grid of 16 x 16, LlamaGen's vocabulary, guidance on, random
weights, float32; tokens alone, no pixels. Raster decoding of LlamaGen's blocks at that size is
timed in turn; ``speedup`` should be at least half of ``steps_ratio``. ``--peer`` is a checkout of
the system's repository, whose loop runs with a model of the same size. Last line: one JSON object.

Relatives of VAR (``SCALED``) run over its ten token maps and its vocabulary, beside VAR itself at
that size, which takes as many steps. ``code`` hands over to a model of depth 2 after eight. MVAR's
code needs natten; M-VAR's needs CUDA, so that it has no peer here.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from arimage.ar.base import Backbone
from arimage.ar.orders.local_groups import STEPS, group_sizes
from arimage.ar.registry import MODELS
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.settings import Settings
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS

VOCAB, WIDTH, DEPTH, HEADS, SIDE, HIDDEN = 16384, 256, 6, 4, 16, 768
SCALE = 2.0  # of guidance
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR's token maps at 256 px
SCALED_VOCAB, CODE_DIM, HANDOVER, SMALL_DEPTH = 4096, 32, 8, 2
Call = Callable[[], object]

# model -> settings besides the scale
SYSTEMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "par": {},
    "randar": {"guidance_schedule": "linear_before"},
    "arpg": {"guidance_schedule": "linear_after"},
    "lpd": {"guidance_schedule": "linear_per_token"},
    "var": {"guidance_schedule": "linear"},
    "mvar": {"guidance_schedule": "linear"},
    "m_var": {"guidance_schedule": "linear"},
    "code": {"guidance_schedule": "linear"},
    "halton": {},
    "ibq": {},
    "open_magvit2": {},
    "maskbit": {"guidance_schedule": {"name": "power_cosine", "power": 3.0}},
}
SCALED = ("var", "mvar", "m_var", "code")
FIELDS: dict[str, dict[str, Any]] = {"open_magvit2": {"first_part": 64}}  # besides the sizes


def built(name: str, depth: int = DEPTH) -> Backbone:
    """A model of the common size with random weights."""
    cls = MODELS[name]
    fields = {"width": WIDTH, "depth": depth, "num_heads": HEADS, "num_classes": 1000}
    if name in SCALED:
        fields |= {"vocab_size": SCALED_VOCAB, "scales": list(SIDES), "code_dim": CODE_DIM}
    else:
        fields |= {"vocab_size": VOCAB, "grid": [SIDE, SIDE], "mlp_hidden": HIDDEN}
    model = cls(cls.config_class(**fields, **FIELDS.get(name, {}))).eval()
    if hasattr(model, "output"):
        for weight in (w for w in model.output.parameters() if w.ndim > 1):
            torch.nn.init.normal_(weight, std=0.02)
    return model


def tokenizer_for(name: str) -> ImageTokenizer:
    """A small one with the system's tokens."""
    fields = {"image_size": 16 * SIDE, "downsample_factor": 16, "channels": 8, "norm_groups": 4}
    fields |= {"channel_multipliers": [1, 1, 1, 1, 1], "vocab_size": VOCAB, "code_dim": 8}
    if name in SCALED:
        fields |= {"vocab_size": SCALED_VOCAB, "code_dim": CODE_DIM, "scales": list(SIDES)}
    cls = TOKENIZERS["multiscale_vq" if name in SCALED else "vq"]
    return cls(cls.config_class(**fields)).eval()


def ours(name: str, labels: torch.Tensor, **more: Any) -> tuple[Call, int]:
    """A call that makes the tokens of ``labels``, and how many steps it takes.

    ``more``: settings.
    """
    settings = Settings.from_json({"guidance_scale": SCALE, **SYSTEMS[name], **more})
    models = [built("var" if name == "code" else name)]
    spans: list[tuple[int, int | None]] = [(0, None)]
    if name == "code":
        models.append(built("var", SMALL_DEPTH))
        spans = [(0, HANDOVER), (HANDOVER, None)]
    order = make_order(tokenizer_for(name), models[0], **settings.order_options)

    @torch.no_grad()
    def call() -> object:
        parts = order, labels, settings.guidance()
        branches = [
            Branch.of(model, *parts, first=first, last=last)
            for model, (first, last) in zip(models, spans, strict=True)
        ]
        noise = settings.make_noise(list(range(len(labels))), "cpu")
        *_, state = generate(branches, order, settings.make_sampler(), noise)
        return state.ids

    return call, order.num_steps


def par_peer(path: str, labels: torch.Tensor) -> Call:
    """Epiphqny/PAR@d96acea: ``generate`` over its own model."""
    sys.path.insert(0, path)
    from autoregressive.models.generate import generate as theirs
    from autoregressive.models.gpt import ModelArgs, Transformer

    sizes = {"dim": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "vocab_size": VOCAB}
    model = Transformer(ModelArgs(block_size=SIDE * SIDE, **sizes)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_logits": True}
    return torch.no_grad()(lambda: theirs(model, labels, SIDE * SIDE, cfg_scale=SCALE, **options))


def randar_peer(path: str, labels: torch.Tensor) -> Call:
    """ziqipang/RandAR@d374a72: ``generate`` of its own model."""
    sys.path.insert(0, path)
    from RandAR.model.randar_gpt import RandARTransformer

    sizes = {"dim": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "vocab_size": VOCAB}
    model = RandARTransformer(block_size=SIDE * SIDE, grad_checkpointing=False, **sizes).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)
    return torch.no_grad()(lambda: model.generate(labels, None, (1.0, SCALE)))


def with_null(labels: torch.Tensor) -> torch.Tensor:
    """What SEED-Voken's loops take: the classes, then as many times none, (2 b, 1)."""
    return torch.cat([labels, torch.full_like(labels, 1000)])[:, None]


def ibq_peer(path: str, labels: torch.Tensor) -> Call:
    """TencentARC/SEED-Voken@b9a17ea: ``sample_IBQ`` over its own model."""
    sys.path.insert(0, path)
    from src.IBQ.modules.transformer.llama import GPT, sample_IBQ

    sizes = {"n_layer": DEPTH, "n_head": HEADS, "n_embd": WIDTH, "cond_dim": WIDTH}
    model = GPT(VOCAB, SIDE * SIDE, **sizes).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    options = {"top_k": 0, "top_p": 1.0, "cfg_scale": SCALE}
    return torch.no_grad()(lambda: sample_IBQ(with_null(labels), model, SIDE * SIDE, **options))


def open_magvit2_peer(path: str, labels: torch.Tensor) -> Call:
    """TencentARC/SEED-Voken@b9a17ea: ``sample_Open_MAGVIT2`` over its own model."""
    sys.path.insert(0, path)
    from src.Open_MAGVIT2.modules.transformer.gpt import GPT, sample_Open_MAGVIT2

    sizes = {"spatial_n_layer": DEPTH, "factorized_n_layer": 2, "n_head": HEADS, "dim": WIDTH}
    parts = {"token_factorization": True, "factorized_bits": [6, 8]}
    model = GPT(VOCAB, SIDE * SIDE, **sizes, **parts).eval()
    for head in model.head:
        torch.nn.init.normal_(head.weight, std=0.02)
    options = {"temperature": [1.0, 1.0], "top_k": [0, 0], "top_p": [1.0, 1.0]}
    options |= {"cfg_scale": [SCALE, SCALE]}
    given = with_null(labels), model, SIDE * SIDE
    return torch.no_grad()(lambda: sample_Open_MAGVIT2(*given, **options))


def arpg_peer(path: str, labels: torch.Tensor) -> Call:
    """hp-l33/ARPG@1a1758c: ``generate`` of its own model."""
    sys.path.insert(0, path)
    from models.arpg import ModelArgs, Transformer

    sizes = {"dim": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "vocab_size": VOCAB}
    model = Transformer(ModelArgs(block_size=SIDE * SIDE, **sizes)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return torch.no_grad()(lambda: model.generate(labels.clone(), guidance_scale=SCALE))


def lpd_peer(path: str, labels: torch.Tensor) -> Call:
    """mit-han-lab/lpd@f447b83: ``sample_tokens`` of its own model, whose ``device = "cuda"`` was
    changed to "cpu". Its orders are drawn beforehand there, and with the tokens here.
    """
    sys.path.insert(0, path)
    from models.lpd import LPD

    sizes = group_sizes(SIDE * SIDE, STEPS[SIDE * SIDE])
    fields = {"decoder_embed_dim": WIDTH, "decoder_depth": DEPTH, "decoder_num_heads": HEADS}
    model = LPD(mlp_ratio=HIDDEN / WIDTH, vqgan_vocab_size=VOCAB, **fields).eval()
    blocks = torch.arange(len(sizes) + 1).repeat_interleave(torch.tensor([1, *sizes]))
    mask = torch.zeros(len(blocks), len(blocks))
    mask = mask.masked_fill(blocks[None] > blocks[:, None], -torch.inf)
    orders = torch.rand(len(labels), SIDE * SIDE).argsort(1)
    options = {"group_sizes": sizes, "orders": orders, "attn_mask": mask}
    sample = torch.no_grad()(model.sample_tokens)
    return lambda: sample(len(labels), cfg=SCALE, labels=labels, **options)


def scaled_vae() -> tuple[Any, dict[str, Any]]:
    """The tokenizer of the checkout in ``sys.path``, without its decoder; sizes of a model."""
    from models.vqvae import VQVAE

    sizes = {"vocab_size": SCALED_VOCAB, "z_channels": CODE_DIM, "ch": 32, "share_quant_resi": 4}
    vae = VQVAE(v_patch_nums=SIDES, **sizes).eval()
    vae.fhat_to_img = torch.clone
    sizes = {"embed_dim": WIDTH, "num_heads": HEADS, "attn_l2_norm": True, "patch_nums": SIDES}
    return vae, sizes


def mvar_peer(path: str, labels: torch.Tensor) -> Call:
    """CVL-UESTC/MVAR@d0e035a: ``autoregressive_infer`` of its own model."""
    sys.path.insert(0, path)
    from models.mvar import MVAR

    vae, sizes = scaled_vae()
    model = MVAR(vae_local=vae, depth=DEPTH, **sizes).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    return lambda: model.autoregressive_infer(
        B=len(labels), label_B=labels, g_seed=0, cfg=SCALE - 1 + 1e-6
    )


def code_peer(path: str, labels: torch.Tensor) -> Call:
    """czg1225/CoDe@bfb204d: its drafter, then its refiner."""
    sys.path.insert(0, path)
    from models.var import VAR

    vae, sizes = scaled_vae()
    models = [VAR(vae_local=vae, depth=depth, **sizes).eval() for depth in (DEPTH, SMALL_DEPTH)]
    for model in models:
        torch.nn.init.normal_(model.head.weight, std=0.02)
    options = {"B": len(labels), "label_B": labels, "g_seed": 0, "cfg": SCALE - 1}
    options |= {"top_k": [0] * len(SIDES), "temp": [1.0] * len(SIDES)}

    def call() -> object:
        f_hat, hub = models[0].autoregressive_infer_cfg_draft(exit_num=HANDOVER, **options)
        return models[1].autoregressive_infer_cfg_refine(
            draft=hub, f_hat=f_hat, entry_num=HANDOVER, **options
        )

    return call


def halton_peer(path: str, labels: torch.Tensor) -> Call:
    """valeoai/Halton-MaskGIT@f61b0a1: its Halton sampler over its own model, nothing decoded."""
    sys.path.insert(0, path)
    from Network.transformer import Transformer
    from Sampler.halton_sampler import HaltonSampler

    sizes = {"hidden_dim": WIDTH, "depth": DEPTH, "heads": HEADS, "codebook_size": VOCAB}
    model = Transformer(input_size=SIDE, mlp_dim=4 * WIDTH, nclass=1000, **sizes)
    args = SimpleNamespace(device="cpu", mask_value=VOCAB, codebook_size=VOCAB)
    trainer = SimpleNamespace(
        vit=model,
        input_size=SIDE,
        args=args,
        autocast=nullcontext(),
        ae=SimpleNamespace(decode_code=lambda ids: ids.float()),
    )
    sampler = HaltonSampler(w=SCALE - 1, step=32, randomize=True)
    return lambda: sampler(trainer, nb_sample=len(labels), labels=labels, verbose=False)


def maskbit_peer(path: str, labels: torch.Tensor) -> Call:
    """markweberdev/maskbit@5ea3d73: ``sample`` over its own model, nothing decoded."""
    sys.path.insert(0, path)
    from modeling.bert import LFQBert
    from modeling.modules.sampling import sample

    sizes = {"hidden_dim": WIDTH, "depth": DEPTH, "heads": HEADS, "mlp_dim": HIDDEN}
    model = LFQBert(img_size=16 * SIDE, codebook_size=VOCAB, codebook_splits=2, **sizes)
    pixels = torch.nn.Identity()
    pixels.decode_tokens = lambda ids: ids
    options = {"num_steps": 64, "mask_schedule_strategy": "arccos", "scale_pow": 3.0}
    options |= {"guidance_scale": SCALE - 1, "guidance_annealing": "cosine", "mask_token": 128}
    options |= {"codebook_size": VOCAB, "codebook_splits": 2, "patch_size": SIDE}
    return lambda: sample(model, pixels, len(labels), labels, **options)


PEERS: dict[str, Callable[[str, torch.Tensor], Call]] = {
    "par": par_peer,
    "randar": randar_peer,
    "arpg": arpg_peer,
    "lpd": lpd_peer,
    "mvar": mvar_peer,
    "code": code_peer,
    "halton": halton_peer,
    "maskbit": maskbit_peer,
    "ibq": ibq_peer,
    "open_magvit2": open_magvit2_peer,
}


def in_turn(calls: dict[str, Call], runs: int) -> dict[str, float]:
    """Median seconds of each call, after one to warm up; one run of each before the next."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Times a system, raster decoding and, where given, the system's own code."""
    parser = argparse.ArgumentParser(description=__doc__)
    systems = sorted(set(SYSTEMS) - {"llama", "var"})
    parser.add_argument("--system", choices=systems, required=True)
    parser.add_argument("--peer", help="a checkout of the system's repository")
    parser.add_argument("--refresh", type=int, help="full passes every so many, for halton")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    labels = torch.arange(options.batch)
    raster, raster_steps = ours("llama", labels)
    system, steps = ours(options.system, labels, refresh=options.refresh)
    calls = {"raster": raster, options.system: system}
    if options.system in SCALED:
        calls["var"] = ours("var", labels)[0]
    if options.peer:
        calls["peer"] = PEERS[options.system](options.peer, labels)
    seconds = in_turn(calls, options.runs)
    record = {
        "system": options.system,
        "batch": options.batch,
        "runs": options.runs,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "steps": steps,
        "steps_ratio": round(raster_steps / steps, 2),
        "speedup": round(seconds["raster"] / seconds[options.system], 2),
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if options.system in SCALED:
        record["var_ratio"] = round(seconds["var"] / seconds[options.system], 2)
    if options.peer:
        record["peer_ratio"] = round(seconds["peer"] / seconds[options.system], 2)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
