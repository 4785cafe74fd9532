"""MVAR against recorded outputs of the reference (tests/golden/mvar); each has a negative twin."""

import dataclasses

import pytest
import torch
from published import built, check_random_numbers, full_size, near, save_part, save_var
from published import case as recorded
from tiny import Recorder, ToyFuser, sentence

from arimage import checkpoint
from arimage.ar.convert.mvar import MVARLayout
from arimage.ar.convert.var import VARLayout
from arimage.ar.mvar import MVARConfig
from arimage.ar.orders.within_scale import WithinScaleOrder
from arimage.ar.registry import LAYOUTS
from arimage.convert import write
from arimage.generator import ImageGenerator
from arimage.sampling.loop import Branch, generate
from arimage.sampling.noise import ReferenceNoise
from arimage.sampling.settings import Settings
from arimage.slots import square_grids
from arimage.tokenizers.convert.var import VARTokenizerLayout
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity
SEEDED = ("seeded", "seeded_cfg1", "seeded_plain")
WINDOWS = {"window": 3, "window_from": 2}


@pytest.fixture(scope="module")
def case():
    found = recorded("mvar")
    transformer = built(MVARLayout(), found.parts["mvar"], **WINDOWS)
    tokenizer = built(VARTokenizerLayout(), found.parts["vae"], scales=transformer.config.scales)
    found.generator = ImageGenerator(tokenizer, transformer)
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.generator.transformer.config, case.config
    assert list(config.scales) == theirs["patch_nums"]
    assert (config.depth, config.width) == (theirs["depth"], theirs["embed_dim"])
    assert (config.window, config.window_from) == (theirs["kernel_size"], theirs["refine_step"])
    assert (config.num_heads, config.qk_norm, config.num_classes) == (2, True, 10)


def teacher_forced(case, order):
    """Logits of all maps in one pass under the rule of ``order``."""
    transformer, ids = case.generator.transformer, case.expected["tf_ids"]
    lesson = order.lesson(ids, torch.Generator())
    assert near(lesson.inputs, case.expected["var_input"])
    context = transformer.prepare(case.expected["tf_label"])
    return transformer.head(transformer(lesson.inputs, context, lesson.step))


def test_teacher_forced_logits(case):
    expected = case.expected
    windowed = teacher_forced(case, case.generator.order())
    whole = teacher_forced(case, WithinScaleOrder(case.generator.tokenizer, 1, "cpu"))
    assert near(whole, expected["logits"])
    assert near(windowed[:, :5], expected["logits"][:, :5])
    assert near(windowed[:, 5:14], expected["logits_nattn_scale2"])
    assert near(windowed[:, 14:], expected["logits_nattn_scale3"])
    assert not near(whole[:, 14:], expected["logits_nattn_scale3"])
    cut = WithinScaleOrder(case.generator.tokenizer, 1, "cpu", window=1, window_from=2)
    assert not near(teacher_forced(case, cut)[:, 14:], expected["logits_nattn_scale3"])


def settings(call):
    """A recorded call in our words; a cfg of 1 is off there."""
    return Settings(
        guidance_scale=1.0 if call["cfg"] == 1 else 1 + call["cfg"],
        guidance_schedule="linear",
        top_k=call["top_k"] or None,
        top_p=call["top_p"] or None,
    )


def sample(case, name, sampler=None, **changes):
    """The final state of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    asked, order = settings(case.calls[name]).updated(changes), case.generator.order()
    labels = case.expected["gen_labels"]
    branch = Branch.of(case.generator.transformer, order, labels, asked.guidance())
    assert branch.cache is None
    noise = ReferenceNoise([case.calls[name]["g_seed"]] * len(labels), "cpu")
    *_, state = generate([branch], order, sampler or asked.make_sampler(), noise)
    return state


def test_greedy_generation(case):
    state = sample(case, "greedy")
    assert torch.equal(state.ids, case.expected["greedy_ids"])
    assert near(state.canvas, case.expected["greedy_f_hat"])
    image = case.generator.tokenizer.decode_canvas(state.canvas).clamp(-1, 1)
    assert near(image[..., ::4, ::4], case.expected["greedy_image"])
    recorder = Recorder()
    sample(case, "greedy", recorder)
    guided = torch.cat(recorder.logits, dim=1)[:1]
    assert near(guided, case.expected["greedy_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_cfg_logits"])


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_generation(case, name):
    state = sample(case, name)
    assert torch.equal(state.ids, case.expected[f"{name}_ids"])
    assert near(state.canvas, case.expected[f"{name}_f_hat"])


@pytest.mark.parametrize("change", [{"guidance_scale": 9.0}, {"temperature": 2.0}], ids=str)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "seeded", **change).ids, case.expected["seeded_ids"])


def test_every_token_of_a_window_sees_as_many():
    order = WithinScaleOrder(ToyFuser(square_grids((1, 8, 13)), 4, 2), 1, "cpu", 7, 2)
    assert order.step(1).mask is None
    seen = order.step(2).mask.view(13, 13, 13, 13)
    assert (seen.flatten(2).sum(-1) == 49).all()
    assert seen[0, 12].nonzero().amin(0).tolist() == [0, 6]
    assert seen[0, 12].nonzero().amax(0).tolist() == [6, 12]
    assert seen[6, 5].nonzero().amin(0).tolist() == [3, 2]


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("mvar-")])
def test_full_size_transformers_load_strictly(name):
    """VAR's manifests of the same depth: the keys and shapes are the same."""
    preset = PRESETS[name]
    converted = MVARLayout().convert(full_size(f"var_d{preset.depth}"), **preset.hints)
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert (converted.config.window, converted.config.window_from) == (7, 8)
    assert converted.config.scales == (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def test_a_file_is_told_from_vars_by_its_mask(tmp_path):
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, _ = checkpoint.find_one([save_part("mvar", "mvar", tmp_path)], layouts, "transformer")
    assert type(layout) is MVARLayout
    layout, _ = checkpoint.find_one([save_var("var", tmp_path)[0]], layouts, "transformer")
    assert type(layout) is VARLayout


def test_a_file_without_its_mask_is_refused_where_mvar_is_asked_for(tmp_path):
    weights = {k: v for k, v in recorded("mvar").parts["mvar"].items() if "masking" not in k}
    torch.save({"mvar_wo_ddp": weights}, tmp_path / "mvar-d16.pth")
    torch.save(recorded("mvar").parts["vae"], tmp_path / "vae_ch160v4096z32.pth")
    preset = dataclasses.replace(PRESETS["mvar-d16"], depth=2, scales=(1, 2, 3, 5))
    files = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError) as caught:
        write(files, tmp_path / "out", preset, **preset.hints)
    assert "mvar-d16 runs in the order 'within_scale' and the file holds a VAR" in sentence(caught)


def test_run_as_var_it_gives_other_tokens(case):
    config = case.generator.transformer.config
    fields = {name: getattr(config, name) for name in VARLayout.model.config_class.own_fields()}
    del fields["order"]
    model = VARLayout.model(VARLayout.model.config_class(**fields)).eval()
    model.load_state_dict(case.generator.transformer.state_dict())
    generator = ImageGenerator(case.generator.tokenizer, model)
    other = dataclasses.replace(settings(case.calls["greedy"]), rng="reference")
    generator.settings = other
    *_, state = generator.sample(case.expected["gen_labels"].tolist(), 0)
    assert not torch.equal(state.ids, case.expected["greedy_ids"])


@pytest.mark.parametrize("fields", [{"window": 4}, {"window": 5}, {"window": 0}], ids=str)
def test_windows_that_do_not_fit_are_told(fields):
    with pytest.raises(ValueError) as caught:
        MVARConfig(scales=(1, 2, 3, 4), **{"window_from": 2} | fields)
    assert f"got a window of {fields['window']} from token map 2 on" in sentence(caught)


def test_a_cache_dtype_or_another_order_is_told(case):
    with pytest.raises(ValueError) as caught:
        case.generator([1], seeds=[0], cache_dtype="fp8")
    assert "keeps no keys and values between steps" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        MVARConfig(order="next_scale")
    assert "next_scale" in sentence(caught)
