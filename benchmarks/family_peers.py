"""The own code of systems at the common size of family.py; an entry makes a call of a checkout."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from arimage.ar.orders.local_groups import STEPS, group_sizes
from arimage.zoo_relatives import HMAR_SAMPLING

VOCAB, WIDTH, DEPTH, HEADS, SIDE, HIDDEN = 16384, 256, 6, 4, 16, 768
SCALE = 2.0  # of guidance
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR's token maps at 256 px
SCALED_VOCAB, CODE_DIM, HANDOVER, SMALL_DEPTH = 4096, 32, 8, 2
Call = Callable[[], object]


def leave_out(*modules: str) -> None:
    """Stands in for what a repository imports and does not call here."""
    for name in modules:
        sys.modules.setdefault(name, MagicMock())


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
    leave_out("modeling.modules.perceptual_loss", "modeling.modules.lpips", "torchvision")
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


def flexvar_peer(path: str, labels: torch.Tensor) -> Call:
    """jiaosiyu1999/FlexVAR@04462cb: ``autoregressive_infer_cfg``, the images left undecoded."""
    sys.path.insert(0, path)
    from models.flexvar import FlexVAR

    codes = SimpleNamespace(embedding=torch.nn.Embedding(SCALED_VOCAB, CODE_DIM))
    pixels = SimpleNamespace(quantize=codes, decode_code=lambda ids, shape: ids)
    tokenizer = SimpleNamespace(Cvae=CODE_DIM, vocab_size=SCALED_VOCAB)
    sizes = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "attn_l2_norm": True}
    model = FlexVAR(tokenizer, patch_nums=SIDES, **sizes).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    call = model.autoregressive_infer_cfg
    return lambda: call(pixels, len(labels), labels, SIDES, g_seed=0, cfg=SCALE - 1)


def hmar_peer(path: str, labels: torch.Tensor) -> Call:
    """NVlabs/HMAR@595a9df: ``generate``, the images left undecoded."""
    sys.path.insert(0, path)
    leave_out("attn.block_sparse_attn_interface", "wandb", "pytz", "torchvision", "tap")
    from models.hmar import HMAR
    from models.quant import VectorQuantizer2

    resized = {"quant_resi": 0.5, "share_quant_resi": 4, "v_patch_nums": SIDES}
    codes = VectorQuantizer2(SCALED_VOCAB, CODE_DIM, using_znorm=False, **resized)
    tokenizer = torch.nn.Module()
    tokenizer.Cvae, tokenizer.vocab_size, tokenizer.quantize = CODE_DIM, SCALED_VOCAB, codes
    tokenizer.fhat_to_img = lambda canvas: canvas
    sizes = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "attn_l2_norm": True}
    model = HMAR(tokenizer, patch_nums=SIDES, n_layers_train=1, **sizes).eval()
    for head in (model.ns_head, model.mask_head):
        torch.nn.init.normal_(head.weight, std=0.02)
    passes = HMAR_SAMPLING["passes"]
    options = {"cfg": SCALE - 1, "top_k": 0, "top_p": 0.0, "mask_schedule": passes}
    return lambda: model.generate(len(labels), labels, g_seed=0, **options)


def titok_peer(path: str, labels: torch.Tensor) -> Call:
    """bytedance/1d-tokenizer@942a96f: ``generate`` of its own BERT."""
    sys.path.insert(0, path)
    leave_out("modeling.modules.perceptual_loss", "modeling.modules.lpips", "torchvision")
    from modeling.maskgit import ImageBert

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    sizes |= {"intermediate_size": HIDDEN, "image_seq_len": SIDE * SIDE, "dropout": 0.0}
    generator = {**sizes, "attn_drop": 0.0, "condition_num_classes": 1000}
    config = {"model": {"vq_model": {"codebook_size": VOCAB}, "generator": generator}}
    model = ImageBert(config).eval()
    return lambda: model.generate(labels.clone(), SCALE - 1, "linear", num_sample_steps=8)


PEERS: dict[str, Callable[[str, torch.Tensor], Call]] = {
    "par": par_peer,
    "randar": randar_peer,
    "arpg": arpg_peer,
    "lpd": lpd_peer,
    "mvar": mvar_peer,
    "code": code_peer,
    "flexvar": flexvar_peer,
    "hmar": hmar_peer,
    "halton": halton_peer,
    "maskbit": maskbit_peer,
    "ibq": ibq_peer,
    "open_magvit2": open_magvit2_peer,
    "titok_vit": titok_peer,
}
