"""The systems that ``generate.py`` times: ours at published sizes, the official code beside them.

Weights are random. A ``Peer`` builds the official models from a checkout and runs their own loop
with the settings of ``SETTINGS``; ``ours_from`` reads the peer's state dicts as if they were
published files. What official code imports without needing it here (torchvision for losses, timm
for one MLP) is stood in for.
"""

import importlib.util
import sys
import types
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import transformers
from torch import nn

from arimage.ar.llama import LlamaConfig, LlamaModel
from arimage.ar.rar import RARConfig, RARModel
from arimage.ar.registry import LAYOUTS
from arimage.ar.var import VARConfig, VARModel
from arimage.generator import ImageGenerator
from arimage.sampling.settings import Settings
from arimage.tokenizers.multiscale_vq import MultiScaleVQConfig, MultiScaleVQTokenizer
from arimage.tokenizers.registry import LAYOUTS as TOKENIZER_LAYOUTS
from arimage.tokenizers.vq import VQTokenizer, VQTokenizerConfig

SCALES = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
SIDES = {"tiny": 4}  # of the token map; 16 elsewhere. "tiny" is ours, to try the benchmarks
LLAMAGEN = {  # depth, width, heads, hidden (FoundationVision/LlamaGen@ce98ec4 gpt.py)
    "tiny": (2, 64, 1, 128),
    "B": (12, 768, 12, 2048),
    "L": (24, 1024, 16, 2816),
    "XL": (36, 1280, 20, 3584),
}
RAR = {  # depth, width, hidden (bytedance/1d-tokenizer@942a96f README_RAR.md)
    "tiny": (2, 64, 128),
    "B": (24, 768, 3072),
    "L": (24, 1024, 4096),
    "XL": (32, 1280, 5120),
    "XXL": (40, 1408, 6144),
}
SETTINGS = {  # the official sampling settings in this package's convention
    "var": {
        "guidance_scale": 2.5,
        "guidance_schedule": "linear",
        "top_k": 900,
        "top_p": 0.96,
    },
    "llamagen": {"guidance_scale": 2.0},
    "rar": {
        "guidance_scale": 16.0,
        "guidance_schedule": {"name": "power_cosine", "power": 2.75},
    },
}


class Peer(ABC):
    """Official tokenizer and transformer with random weights, and their loop."""

    tokenizer: nn.Module
    transformer: nn.Module

    @abstractmethod
    def __init__(self, path: str, config: str, device: str) -> None: ...

    @abstractmethod
    def images(self, labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Pixels (b, 3, H, W) of one official call."""

    def freeze(self) -> None:
        """Small random weights everywhere, eval mode."""
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in self.tokenizer.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
                else:
                    parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for model in (self.tokenizer, self.transformer):
            model.eval().requires_grad_(False)


class VARPeer(Peer):
    """FoundationVision/VAR; bfloat16 is its demo's autocast."""

    def __init__(self, path: str, config: str, device: str) -> None:
        sys.path.insert(0, path)
        from models import build_vae_var  # type: ignore[import-not-found]

        plain = (nn.Linear, nn.LayerNorm, nn.Conv2d)
        resets = {cls: cls.reset_parameters for cls in plain}
        self.tokenizer, self.transformer = build_vae_var(
            device=device, patch_nums=tuple(SCALES), depth=int(config[1:])
        )
        for cls, reset in resets.items():  # it switches them off for every model of the process
            cls.reset_parameters = reset
        self.freeze()

    def images(self, labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Its ``autoregressive_infer_cfg``, as its demo calls it."""
        half = dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(labels.device.type, torch.bfloat16, enabled=half),
        ):
            return self.transformer.autoregressive_infer_cfg(
                B=len(labels), label_B=labels, cfg=1.5, top_k=900, top_p=0.96, g_seed=0
            )


class LlamaGenPeer(Peer):
    """FoundationVision/LlamaGen; bfloat16 casts the transformer alone, as its script does."""

    def __init__(self, path: str, config: str, device: str) -> None:
        sys.path.insert(0, path)
        from autoregressive.models.generate import generate  # type: ignore[import-not-found]
        from autoregressive.models.gpt import GPT_models  # type: ignore[import-not-found]
        from tokenizer.tokenizer_image.vq_model import VQ_models  # type: ignore[import-not-found]

        self.generate = generate
        self.tokenizer = VQ_models["VQ-16"](codebook_size=16384, codebook_embed_dim=8).to(device)
        self.transformer = GPT_models[f"GPT-{config}"](
            block_size=256, num_classes=1000, cls_token_num=1, model_type="c2i"
        ).to(device)
        nn.init.normal_(self.transformer.output.weight, std=0.02)  # published as zeros
        self.freeze()

    def images(self, labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Its ``generate`` and the tokenizer's ``decode_code``."""
        self.transformer.to(dtype)
        self.transformer.freqs_cis = self.transformer.freqs_cis.to(labels.device)
        ids = self.generate(
            self.transformer, labels, 256, cfg_scale=2.0, temperature=1.0, top_k=0, top_p=1.0
        )
        return self.tokenizer.decode_code(ids, [len(labels), 8, 16, 16])


class RARPeer(Peer):
    """RAR of bytedance/1d-tokenizer; its code is float32, bfloat16 casts the transformer."""

    def __init__(self, path: str, config: str, device: str) -> None:
        sys.path.insert(0, path)
        stand_in("timm", layers=stand_in("timm.layers", Mlp=Mlp))
        base = load_file("base_model", Path(path, "modeling/modules/base_model.py"))
        vqgan = load_file("maskgit_vqgan", Path(path, "modeling/modules/maskgit_vqgan.py"))
        stand_in("modeling.modules", BaseModel=base.BaseModel)
        rar = load_file("rar", Path(path, "modeling/rar.py"))
        depth, width, hidden = RAR[config]
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": 16,
            "intermediate_size": hidden,
            "image_seq_len": 256,
            "condition_num_classes": 1000,
        }
        generator = Namespace(**sizes, dropout=0.0, attn_drop=0.0, use_checkpoint=False)
        codes = Namespace(codebook_size=1024)
        self.transformer = rar.RAR(Namespace(model=Namespace(generator=generator, vq_model=codes)))
        self.transformer.set_random_ratio(0)
        network = Namespace(
            channel_mult=[1, 1, 2, 2, 4],
            num_resolutions=5,
            dropout=0.0,
            hidden_channels=128,
            num_channels=3,
            num_res_blocks=2,
            resolution=256,
            z_channels=256,
        )
        self.tokenizer = nn.Module()
        self.tokenizer.encoder = vqgan.Encoder(network)
        self.tokenizer.decoder = vqgan.Decoder(network)
        self.tokenizer.quantize = vqgan.VectorQuantizer(
            num_embeddings=1024, embedding_dim=256, commitment_cost=0.25
        )
        self.tokenizer.to(device)
        self.transformer.to(device)
        self.freeze()
        for name, parameter in self.transformer.named_parameters():
            if "adaLN_modulation" in name:  # initialised as zeros, which no trained model has
                nn.init.normal_(parameter, std=0.02)

    def images(self, labels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Its ``generate`` with the key-value cache, then look-up and decoder."""
        self.transformer.to(dtype)
        ids = self.transformer.generate(
            labels, guidance_scale=16.0, randomize_temperature=1.0, guidance_scale_pow=2.75
        )
        return self.tokenizer.decoder(self.tokenizer.quantize.get_codebook_entry(ids)).clamp(0, 1)


class Namespace(types.SimpleNamespace):
    """A configuration that is read by attribute or by ``get``."""

    def get(self, name: str, default: object = None) -> object:
        """As a dict's."""
        return getattr(self, name, default)


class Mlp(nn.Module):
    """Linear, GELU, linear, under the names that RAR expects."""

    def __init__(
        self, in_features: int, hidden_features: int, act_layer: type, drop: float
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape out."""
        return self.fc2(self.act(self.fc1(x)))


def stand_in(name: str, **members: object) -> types.ModuleType:
    """A module made of ``members``, imported under ``name``."""
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module
    return module


def load_file(name: str, path: Path) -> types.ModuleType:
    """Runs one file of a repository without its package."""
    spec = importlib.util.spec_from_file_location(f"peer_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS: dict[str, type[Peer]] = {"var": VARPeer, "llamagen": LlamaGenPeer, "rar": RARPeer}


def ours_from(peer: Peer, model: str) -> ImageGenerator:
    """Our generator with the peer's weights."""
    parts, hints = [], {"scales": SCALES} if model == "var" else {}
    for layouts, source in ((TOKENIZER_LAYOUTS, peer.tokenizer), (LAYOUTS, peer.transformer)):
        state = source.state_dict()
        known = (layouts[name]() for name in layouts)
        layout = next(one for one in known if one.recognizes(state))
        converted = layout.convert(state, **hints)
        part = layout.model(converted.config)
        part.load_state_dict(converted.weights)
        parts.append(part)
    return ImageGenerator(*parts, Settings(**SETTINGS[model]))


def ours(model: str, config: str) -> ImageGenerator:
    """Our generator at a published size, as initialised."""
    torch.manual_seed(0)
    return ImageGenerator(*BUILDERS[model](config), Settings(**SETTINGS[model]))


def build_var(config: str) -> tuple[MultiScaleVQTokenizer, VARModel]:
    """``config`` is d16, d20, d24 or d30, or tiny."""
    depth = 2 if config == "tiny" else int(config[1:])
    scales = [scale for scale in SCALES if scale <= SIDES.get(config, 16)]
    transformer = VARConfig(
        scales=scales,
        depth=depth,
        width=64 * depth,
        num_heads=depth,
        vocab_size=4096,
        code_dim=32,
        num_classes=1000,
    )
    tokenizer = MultiScaleVQConfig(
        image_size=16 * scales[-1],
        downsample_factor=16,
        channels=32 if config == "tiny" else 160,
        channel_multipliers=[1, 1, 2, 2, 4],
        num_res_blocks=2,
        latent_channels=32,
        vocab_size=4096,
        code_dim=32,
        scales=scales,
        quantizer="vq_learned",
    )
    return MultiScaleVQTokenizer(tokenizer), VARModel(transformer)


def build_llamagen(config: str) -> tuple[VQTokenizer, LlamaModel]:
    """``config`` is a key of ``LLAMAGEN``."""
    depth, width, heads, hidden = LLAMAGEN[config]
    transformer = LlamaConfig(
        grid=(SIDES.get(config, 16),) * 2,
        depth=depth,
        width=width,
        num_heads=heads,
        mlp_hidden=hidden,
        vocab_size=16384,
        num_classes=1000,
    )
    tokenizer = vq_config(config, vocab_size=16384, code_dim=8, quantizer="vq_learned_cosine")
    return VQTokenizer(tokenizer), LlamaModel(transformer)


def build_rar(config: str) -> tuple[VQTokenizer, RARModel]:
    """``config`` is a key of ``RAR``."""
    depth, width, hidden = RAR[config]
    transformer = RARConfig(
        grid=(SIDES.get(config, 16),) * 2,
        depth=depth,
        width=width,
        num_heads=16,
        mlp_hidden=hidden,
        vocab_size=1024,
        num_classes=1000,
    )
    tokenizer = vq_config(
        config, vocab_size=1024, code_dim=256, quantizer="vq_learned", network="maskgit"
    )
    return VQTokenizer(tokenizer), RARModel(transformer)


def vq_config(config: str, **fields: object) -> VQTokenizerConfig:
    """An f16 VQGAN at 256 px; at 64 px and a quarter of the width if ``config`` is tiny."""
    return VQTokenizerConfig(
        image_size=16 * SIDES.get(config, 16),
        downsample_factor=16,
        channels=32 if config == "tiny" else 128,
        channel_multipliers=[1, 1, 2, 2, 4],
        num_res_blocks=2,
        latent_channels=256,
        **fields,
    )


BUILDERS = {"var": build_var, "llamagen": build_llamagen, "rar": build_rar}


class TransformersLlama:
    """What a person would otherwise take: ``transformers``' Llama of the same shape, static cache.

    1-D rotary positions, so other numbers; the same products, and both rows of guidance.
    """

    def __init__(self, config: str, device: str) -> None:
        depth, width, heads, hidden = LLAMAGEN[config]
        self.length = SIDES.get(config, 16) ** 2
        torch.manual_seed(0)
        sizes = transformers.LlamaConfig(
            vocab_size=16384,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            max_position_embeddings=512,
            eos_token_id=None,
            bos_token_id=0,
            pad_token_id=0,
        )
        self.model = transformers.LlamaForCausalLM(sizes).to(device).eval()

    def tokens(self, batch: int, dtype: torch.dtype) -> torch.Tensor:
        """An image's tokens for 2 * batch rows."""
        self.model.to(dtype)
        start = torch.zeros(2 * batch, 1, dtype=torch.long, device=self.model.device)
        with torch.no_grad():
            return self.model.generate(
                start,
                attention_mask=torch.ones_like(start),  # else 0 is taken for padding
                max_new_tokens=self.length,
                do_sample=True,
                top_k=0,
                cache_implementation="static",
            )
