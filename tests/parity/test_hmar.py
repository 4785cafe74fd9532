"""HMAR against recorded outputs of the reference (tests/golden/hmar); each has a negative twin."""

import pytest
import torch
import torch.nn.functional as F
from published import built, check_random_numbers, near, save_part, var_case
from published import case as recorded
from tiny import Recorder, make_generator, make_model, make_order, sentence

from arimage import checkpoint
from arimage.ar.base import UNKNOWN, Known
from arimage.ar.convert.hmar import HMARLayout
from arimage.ar.registry import LAYOUTS
from arimage.generator import ImageGenerator
from arimage.sampling.noise import PerImageNoise
from arimage.sampling.samplers.categorical import Categorical
from arimage.tokenizers.convert.var import VARTokenizerLayout
from arimage.zoo import PRESETS

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def case():
    found = recorded("hmar")
    transformer = built(HMARLayout(), found.parts["hmar"], scales=[1, 2, 3, 4])
    tokenizer = built(VARTokenizerLayout(), var_case("var").vae, scales=[1, 2, 3, 4])
    found.generator = ImageGenerator(tokenizer, transformer)
    with torch.no_grad():
        yield found


def test_the_config_is_what_the_reference_was_built_with(case):
    config, theirs = case.generator.transformer.config, case.config
    assert (config.depth, config.refine_depth) == (theirs["depth"], theirs["n_layers_train"])
    assert (config.width, config.num_heads) == (theirs["embed_dim"], theirs["num_heads"])
    assert (config.qk_norm, config.shared_adaln) == (True, theirs["shared_aln"])
    assert (config.num_classes, config.vocab_size, config.code_dim) == (10, 256, 16)


def settings(call):
    """A recorded call in our words."""
    return {
        "guidance_scale": 1 + call["cfg"],
        "guidance_schedule": "linear_by_map",
        "top_k": call["top_k"],
        "top_p": call["top_p"] or None,
        "passes": call.get("mask_schedule"),
        "rng": "reference",
    }


def sample(case, name, **changes):
    """(final state, image in [0, 1], logits of every pass) of a recorded call."""
    check_random_numbers(case.expected["rng_probe"])
    call, labels = case.calls[name], case.expected["gen_labels"].tolist()
    seen = []
    hook = Categorical.__call__

    def spy(self, logits, step, noise):
        seen.append(logits.clone())
        return hook(self, logits, step, noise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Categorical, "__call__", spy)
        given = settings(call) | changes
        *_, state = case.generator.sample(labels, [call["g_seed"]] * 2, **given)
    image = case.generator.tokenizer.decode_canvas(state.canvas).clamp(-1, 1)
    return state, (image + 1) / 2, seen


def pooled(image):
    """As recorded."""
    return F.interpolate(image, (8, 8), mode="area")[..., ::2, ::2]


def test_greedy_generation_without_refinement(case):
    state, image, seen = sample(case, "greedy_no_mask")
    assert torch.equal(state.ids, case.expected["greedy_no_mask_ids"])
    assert near(state.canvas, case.expected["greedy_no_mask_f_hat"])
    assert near(image[..., ::4, ::4], case.expected["greedy_no_mask_image"])
    guided = torch.cat(seen, dim=1)[..., ::16]
    assert near(guided, case.expected["greedy_no_mask_cfg_logits"])
    assert not near(guided.roll(1, 1), case.expected["greedy_no_mask_cfg_logits"])


def test_refined_generation(case):
    state, image, seen = sample(case, "masked")
    assert [len(logits[0]) for logits in seen] == case.expected["masked_pass_lengths"].tolist()
    assert torch.equal(state.ids, case.expected["masked_ids"])
    assert near(state.canvas, case.expected["masked_f_hat"])
    assert near(pooled(image), case.expected["masked_image_pooled"])
    logits, theirs = torch.cat(seen, dim=1)[:1, :, ::16], case.expected["masked_logits_all_passes"]
    kept = theirs.isfinite()  # recorded after truncation
    assert kept.float().mean() > 0.05
    assert near(torch.where(kept, logits, 0), torch.where(kept, theirs, 0))


def test_seeded_generation_without_refinement(case):
    state, image, _ = sample(case, "seeded_no_mask")
    assert torch.equal(state.ids, case.expected["seeded_no_mask_ids"])
    assert near(state.canvas, case.expected["seeded_no_mask_f_hat"])
    assert near(pooled(image), case.expected["seeded_no_mask_image_pooled"])


@pytest.mark.parametrize(
    "change", [{"passes": [[1], [4], [9], [16]]}, {"guidance_scale": 5.0}], ids=str
)
def test_another_setting_gives_other_ids(case, change):
    assert not torch.equal(sample(case, "masked", **change)[0].ids, case.expected["masked_ids"])


@pytest.mark.parametrize("depth", [16, 20, 24, 30])
def test_full_size_transformers_load_strictly(case, depth):
    """Widths and depths of the published models, from the keys of the recorded one."""
    width, preset = 64 * depth, PRESETS[f"hmar-d{depth}"]
    sizes = {30: 680, 4: 10, 11: 1001, 3: depth, 16: 32, 256: 4096}
    sizes |= {192 * n: n * width for n in (1, 2, 3, 4, 6)}
    weights = {}
    for key, value in case.parts["hmar"].items():
        kind, _, rest = key.partition("_blocks.0.")
        numbers = range({"base": depth - 8}.get(kind, 8)) if rest else [0]
        if not key.startswith("base_blocks.1."):
            shape = [sizes.get(n, n) for n in value.shape]
            names = [f"{kind}_blocks.{i}.{rest}" if rest else key for i in numbers]
            weights |= {name: torch.empty(shape, device="meta") for name in names}
    converted = HMARLayout().convert(weights, **preset.hints)
    assert len(converted.dropped) == depth + 8 + 2
    assert sum(value.numel() for value in converted.weights.values()) == preset.parameters[0]
    assert (converted.config.refine_depth, converted.config.scales[-1]) == (8, 16)
    assert sum(len(counts) for counts in preset.sampling["passes"]) == 14


def test_a_file_is_recognised_as_hmar_alone(case, tmp_path):
    path = save_part("hmar", "hmar", tmp_path)
    layouts = [LAYOUTS[name]() for name in LAYOUTS]
    layout, weights = checkpoint.find_one([path], layouts, "transformer")
    assert type(layout) is HMARLayout
    with pytest.raises(ValueError) as caught:
        layout.convert({**weights, "mask_blocks.0.x": torch.empty(1)}, scales=[1, 2, 3, 4])
    assert "1 left over (mask_blocks.0.x)" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        layout.convert(weights, scales=[1, 2, 3, 4], depth=16)
    assert "of depth 3, not 16" in sentence(caught)


PASSES = [[1], [1, 3], [4, 4, 8]]


@pytest.fixture(scope="module")
def tiny():
    return make_generator("hmar", "refined_scale", guidance_scale=2.0, passes=PASSES)


def test_each_refined_image_is_its_own(tiny):
    both = tiny([0, 1], seeds=[5, 6]).ids
    assert torch.equal(tiny([1], seeds=[6]).ids, both[1:])
    assert not torch.equal(tiny([0, 1], seeds=[5, 6], passes=None).ids, both)
    assert torch.equal(tiny.compile("trace")([0, 1], seeds=[5, 6]).ids, both)
    tiny.compile("off")
    previews = list(tiny.stream([0], seeds=5))
    assert [preview.step for preview in previews] == [1, 2, 3, 4, 5, 6]


def test_open_tokens_are_marked_and_fewer_each_time(tiny):
    states = list(tiny.sample([0, 1], [5, 6]))
    opened = [(state.ids < UNKNOWN).sum(1).tolist() for state in states]
    assert opened == [[0, 0], [3, 3], [0, 0], [12, 12], [8, 8], [0, 0]]
    before, after = states[3].ids[:, 5:], states[4].ids[:, 5:]
    assert torch.equal(after[before > UNKNOWN], before[before > UNKNOWN])
    assert torch.equal(states[2].canvas, states[3].canvas)
    assert not torch.equal(states[4].canvas, states[5].canvas)


def test_given_tokens_are_never_masked(tiny):
    ids = torch.randint(0, 32, (2, 21), generator=torch.Generator().manual_seed(1))
    known = Known(ids, torch.arange(21).expand(2, -1) % 2 == 0)
    for state in tiny.sample([0, 1], [5, 6], known):
        chosen = state.ids[known.mask]
        assert ((chosen == UNKNOWN) | (chosen == ids[known.mask])).all()
    assert (state.ids >= 0).all()


@torch.no_grad()
def test_a_lesson_teaches_what_the_passes_ask():
    """Rows of a lesson are what a pass over each map alone computes, in either branch."""
    model = make_model("hmar", "refined_scale").double()
    order = make_order(model, passes=PASSES)
    ids = torch.randint(0, 32, (8, 21), generator=torch.Generator().manual_seed(2))
    lesson = order.lesson(ids, torch.Generator().manual_seed(3))
    refined = lesson.inputs[:, 0, -1] > 0
    assert 0 < refined.sum() < 8
    assert lesson.counts[~refined].all()
    hidden = lesson.inputs[..., -1] == 2
    assert torch.equal(lesson.counts[refined][:, 1:], hidden[refined])
    assert not lesson.counts[refined][:, 0].any()
    context = model.prepare(torch.zeros(8, dtype=torch.long))
    logits = model.head(model(lesson.inputs, context, lesson.step))
    plain = order.replay(ids, torch.Generator()).inputs
    for index, span in ((1, (1, 5)), (2, (1, 5)), (3, (5, 21)), (5, (5, 21))):
        step, rows = order.step(index), slice(span[0] - 1, span[1] - 1)
        again = index in (2, 5)
        given = lesson.inputs[:, rows] if again else plain[:, rows]
        alone = model.head(model(given, context, step))
        mine = refined if again else ~refined
        assert torch.allclose(logits[mine][:, slice(*span)], alone[mine], atol=1e-9)
        assert not torch.allclose(logits[~mine][:, slice(*span)], alone[~mine], atol=1e-2)


def test_lessons_do_not_depend_on_the_batch():
    order = make_order(make_model("hmar", "refined_scale"))
    ids = torch.randint(0, 32, (6, 21), generator=torch.Generator().manual_seed(0))
    whole, part = (
        order.lesson(ids[rows], [torch.Generator().manual_seed(i) for i in range(6)][rows])
        for rows in (slice(0, 6), slice(2, 5))
    )
    assert torch.equal(whole.inputs[2:5], part.inputs)
    assert torch.equal(whole.counts[2:5], part.counts)


def test_refinement_passes_use_no_null_rows(tiny):
    rows = []
    tiny.openings.free()
    handle = tiny.transformer.register_forward_pre_hook(
        lambda _, given: rows.append(len(given[1].prefix))
    )
    tiny([0, 1], seeds=[5, 6], guidance_schedule="linear_by_map")
    handle.remove()
    assert rows == [2, 4, 2, 4, 2, 2]


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ([[1], [1, 3]], "got passes for 2 token maps; the model has 3"),
        ([[1], [4], [16], [25]], "got passes for 4 token maps; the model has 3"),
        ([[1], [1, 2], [16]], "[1, 2] for the token map of 2 x 2, which sum to 3; expected"),
        ([[1], [4, 0], [16]], "expected counts above 0 that sum to 4"),
        ([[1], [4], [16, 4]], "which sum to 20; expected counts above 0 that sum to 16"),
        ([[1], 4, [16]], "expected for each token map a list of token counts"),
        (3, "expected for each token map a list of token counts"),
    ],
)
def test_passes_that_do_not_fit_are_told(tiny, passes, words):
    with pytest.raises(ValueError) as caught:
        tiny([0], seeds=0, passes=passes)
    assert words in sentence(caught)


def test_passes_of_a_model_that_refines_nothing_are_told():
    with pytest.raises(ValueError) as caught:
        make_generator("var", "next_scale")([0], seeds=0, passes=PASSES)
    assert "the order 'next_scale' has no such setting: leave it out" in sentence(caught)


def test_the_most_probable_tokens_are_refined_by_their_own_certainty(tiny):
    """Greedy draws say how sure they are, too."""
    order, noise = tiny.order(passes=PASSES), PerImageNoise([0], "cpu")
    draw = Recorder()(torch.zeros(1, 1, 32), order.step(0), noise)
    state = order.commit(order.start(noise), order.step(0), draw, noise)
    logits = torch.zeros(1, 4, 32)
    logits[0, :, 7] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    drawn = Categorical(temperature=0)(logits, order.step(1), noise)
    state = order.commit(state, order.step(1), drawn, noise)
    assert state.ids[0, 1:5].tolist() == [7, -9, -9, -9]
