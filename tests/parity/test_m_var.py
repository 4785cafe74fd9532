"""M-VAR against recorded outputs of the reference (tests/golden/m_var), and its state."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from branches import guided_logits
from published import built, check_random_numbers, near, save_part
from published import case as recorded
from tiny import Recorder, make_generator, make_model, make_order, sentence

from arimage import checkpoint
from arimage.ar import mamba
from arimage.ar.convert.m_var import MambaVARLayout
from arimage.ar.m_var import MambaVARConfig
from arimage.ar.mamba import ScanState
from arimage.ar.registry import LAYOUTS
from arimage.generator import ImageGenerator
from arimage.parts import make_order as make_bound
from arimage.sampling.guidance import Guidance, Linear
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import PerImageNoise, ReferenceNoise
from arimage.sampling.samplers.categorical import Categorical
from arimage.sampling.settings import Settings
from arimage.tokenizers.convert.var import VARTokenizerLayout
from arimage.training.ar_trainer import train_transformer
from arimage.training.recipes import find_recipe
from arimage.training.small import small_tokenizer, small_transformer
from arimage.zoo import PRESETS, VAR_SCHEDULES

pytestmark = pytest.mark.parity
SEEDED = ("seeded", "seeded_plain")


@pytest.fixture(scope="module")
def case():
    found = recorded("m_var")
    transformer = built(MambaVARLayout(), found.parts["m_var"])
    weights = recorded("mvar").parts["vae"]
    tokenizer = built(VARTokenizerLayout(), weights, scales=transformer.config.scales)
    found.generator = ImageGenerator(tokenizer, transformer)
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.generator.transformer.config, case.config
    assert list(config.scales) == theirs["patch_nums"]
    assert (config.depth, config.width) == (theirs["depth"], theirs["embed_dim"])
    assert (config.num_heads, config.qk_norm, config.num_classes) == (2, True, 10)
    sizes = {name: theirs["mamba2"][name] for name in ("d_state", "d_conv", "expand", "headdim")}
    assert list(sizes.values()) == [mamba.STATE, mamba.KERNEL, mamba.EXPAND, mamba.HEAD]


@pytest.mark.parametrize("chunk", [1, 4, 128])
def test_the_recurrence(case, monkeypatch, chunk):
    monkeypatch.setattr(mamba, "CHUNK", chunk)
    layer, x = case.generator.transformer.blocks[0].mamba, case.expected["mamba_in"]
    step = case.generator.order().step(0)
    assert near(layer(x, step), case.expected["mamba_out"])
    assert not near(layer(x.flip(1), step).flip(1), case.expected["mamba_out"])


def settings(call):
    """A recorded call in our words."""
    return Settings(
        guidance_scale=1 + call["cfg"],
        guidance_schedule="linear",
        top_k=call["top_k"] or None,
        top_p=call["top_p"] or None,
    )


def sample(case, name, sampler=None, **changes):
    """(final state, image in [0, 1]) of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    asked, order = settings(case.calls[name]).updated(changes), case.generator.order()
    labels = case.expected["gen_labels"]
    branch = Branch.of(case.generator.transformer, order, labels, asked.guidance())
    noise = ReferenceNoise([case.calls[name]["g_seed"]] * len(labels), "cpu")
    *_, state = generate([branch], order, sampler or asked.make_sampler(), noise)
    image = case.generator.tokenizer.decode_canvas(state.canvas).clamp(-1, 1)
    return state, (image + 1) / 2


def test_greedy_generation(case):
    state, image = sample(case, "greedy")
    assert torch.equal(state.ids, case.expected["greedy_ids"])
    assert near(state.canvas, case.expected["greedy_f_hat"])
    assert near(image[..., ::4, ::4], case.expected["greedy_image"])
    recorder = Recorder()
    sample(case, "greedy", recorder)
    guided = torch.cat(recorder.logits, dim=1)
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    state, image = sample(case, name)
    assert torch.equal(state.ids, case.expected[f"{name}_ids"])
    assert near(state.canvas, case.expected[f"{name}_f_hat"])
    assert near(F.avg_pool2d(image, 8), case.expected[f"{name}_image_pooled"])


@pytest.mark.parametrize("change", [{"guidance_scale": 9.0}, {"temperature": 2.0}], ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change)[0].ids, case.expected["seeded_ids"])


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("m-var-")])
def test_full_size_transformers_load_strictly(name):
    """The recorded keys, block by block, in the shapes of a model of the published depth."""
    preset, layout = PRESETS[name], MambaVARLayout()
    sizes = {"depth": preset.depth, "width": 64 * preset.depth, "num_heads": preset.depth}
    sizes |= {"scales": VAR_SCHEDULES[256], "vocab_size": 4096, "code_dim": 32}
    config = MambaVARConfig(num_classes=1000, qk_norm=preset.depth > 20, **sizes)
    with torch.device("meta"):
        shapes = layout.model(config).state_dict()
        weights = {}
        for key in recorded("m_var").parts["m_var"]:
            if key.startswith("blocks.1.") or ("scale_mul" in key and not config.qk_norm):
                continue
            for i in range(preset.depth if ".0." in key else 1):
                full = key.replace(".0.", f".{i}.", 1)
                ours = layout.rename(full, config)
                weights[full] = torch.empty(10) if ours is None else torch.empty_like(shapes[ours])
        weights["pos_1LC"] = weights["pos_1LC"][None]
    converted = layout.convert(weights, **preset.hints)
    assert converted.config == config
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]


def test_a_file_is_recognised_as_m_var_alone(tmp_path):
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    path = save_part("m_var", "m_var", tmp_path)
    layout, _ = checkpoint.find_one([path], layouts, "transformer")
    assert type(layout) is MambaVARLayout


def logits_of(model, change=lambda step, cache: None):
    """Greedy logits of all steps; ``change`` sees the state after each."""
    order, recorder = make_order(model), Recorder()
    branch = Branch.of(model, order, torch.tensor([0, 1]), Guidance(2.0))
    for state in generate([branch], order, recorder, PerImageNoise([0, 1], "cpu")):
        change(state.step, branch.cache)
    return recorder.logits, branch.cache


def test_what_is_kept_has_one_size_and_is_read():
    model = make_model("m_var", "within_scale")
    plain, cache = logits_of(model)
    assert isinstance(cache, ScanState)
    assert cache.states.shape == (2, 4, 2, 1, 64, 64)

    def poison(step, cache):
        for half in (cache.states, cache.inputs):
            half[:, :, step % 2] = torch.nan  # the half that the next step writes

    def forget(step, cache):
        cache.states.zero_()

    unread, _ = logits_of(model, poison)
    assert all(map(torch.equal, plain, unread))
    lost, _ = logits_of(model, forget)
    assert torch.equal(plain[0], lost[0])
    assert (plain[1] - lost[1]).abs().max() > 1e-3


def test_a_step_may_be_run_again():
    model = make_model("m_var", "within_scale")
    order = make_order(model)
    branch = Branch.of(model, order, torch.tensor([0, 1]), Guidance())
    state = order.start(PerImageNoise([0, 1], "cpu"))
    while (step := order.next_step(state)) is not None:
        inputs = order.inputs(state, step)
        with torch.no_grad():
            first, second = (guided_logits(branch, inputs, step, 2) for _ in range(2))
        assert torch.equal(first, second)
        draw = Recorder()(first, step, None)
        state = order.commit(state, step, draw, PerImageNoise([0, 1], "cpu"))


def test_rows_that_guidance_no_longer_needs_are_dropped():
    generator = make_generator("m_var", "within_scale")
    bound = generator.order()
    ids = []
    for schedule in (Linear(last=1), Linear()):
        guidance = Guidance(3.0, schedule)
        branch = Branch.of(generator.transformer, bound, torch.tensor([0, 1]), guidance)
        noise = PerImageNoise([0, 1], "cpu")
        *_, state = generate([branch], bound, Categorical(), noise)
        ids.append(state.ids)
    assert torch.equal(ids[0][:, :5], ids[1][:, :5])
    assert not torch.equal(ids[0], ids[1])


def test_what_a_recurrence_cannot_do_is_told():
    with pytest.raises(ValueError) as caught:
        make_generator("m_var", "within_scale")([1], seeds=[0], cache_dtype="fp8")
    assert "keeps no keys and values between steps" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        MambaVARConfig(width=80)
    assert "got width 80; the recurrence takes multiples of 32" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        MambaVARConfig(shared_adaln=True)
    assert "got shared_adaln, which M-VAR does not have" in sentence(caught)


def test_the_recurrence_starts_as_published():
    """state-spaces/mamba mamba_ssm/modules/mamba2.py: steps of 0.001 to 0.1, decays of 1 to 16."""
    torch.manual_seed(0)
    layer = mamba.Mamba2(1024)
    steps, decays = F.softplus(layer.step_bias), layer.log_decay.exp()
    assert (steps.min() >= 1e-3 * 0.999, steps.max() <= 0.1 * 1.001) == (True, True)
    assert (decays.min() >= 1, decays.max() <= 16) == (True, True)
    assert dataclasses.is_dataclass(ScanState)


@pytest.mark.parametrize("family", ["mvar", "m_var"])
def test_a_few_steps_of_training_lower_the_loss(family):
    tokenizer = small_tokenizer("within_scale", 24, 0).eval()
    transformer = small_transformer("within_scale", tokenizer, 2, 0, family)
    ids = torch.randint(0, 128, (8, 14), generator=torch.Generator().manual_seed(0))
    recipe = find_recipe("small", steps=25, batch_size=8, label_dropout=0.0)
    bound = make_bound(tokenizer, transformer)
    with torch.enable_grad():
        _, history = train_transformer(transformer, bound, ids, np.arange(8) % 2, recipe)
    assert history.losses[-1] < 0.8 * history.losses[0]
