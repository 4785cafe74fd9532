"""Editing against recorded in-painting and out-painting of the reference (tests/golden/var)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from published import check_random_numbers, near, var_case
from safetensors.torch import load_file

from arimage.ar.convert.var import VARLayout
from arimage.generator import ImageGenerator
from arimage.sampling.editing import known_tokens
from arimage.tokenizers.convert.var import VARTokenizerLayout

pytestmark = pytest.mark.parity
RECORDED = Path(__file__).parents[1] / "golden" / "var" / "editing.safetensors"
# Settings of the recorded calls; labels None are the case's own, 10 is no class.
CALLS = {
    "inpaint": {"seed": 1, "label": None, "more_smooth": False},
    "outpaint": {"seed": 1, "label": 10, "more_smooth": False},
    "inpaint_smooth": {"seed": 0, "label": 10, "more_smooth": True},
}


@pytest.fixture(scope="module")
def case():
    found = var_case("var")
    parts = []
    for layout, weights in ((VARTokenizerLayout(), found.vae), (VARLayout(), found.var)):
        hints = {"scales": found.config["patch_nums"]} if not parts else {}
        converted = layout.convert(weights, **hints)
        model = layout.model(converted.config)
        model.load_state_dict(converted.weights)
        parts.append(model.eval())
    found.generator = ImageGenerator(*parts)
    found.edits = load_file(RECORDED)
    check_random_numbers(found.expected["rng_probe"])
    return found


def edit(case, name, mask):
    """(final state, which ids were drawn) of a recorded call with ``mask`` (1 = kept, 4 x 4)."""
    call, generator = CALLS[name], case.generator
    labels = case.expected["gen_labels"].tolist()
    if call["label"] is not None:
        labels = [call["label"]] * len(labels)
    draws = [np.kron(mask.numpy() == 0, np.ones((16, 16), bool))] * len(labels)
    with torch.no_grad():
        ids = generator.tokenizer.encode(case.expected["image"])
        known = known_tokens(ids, draws, generator.tokenizer.slots)
        *_, state = generator.sample(
            labels,
            [call["seed"]] * len(labels),
            known,
            guidance_scale=4.0,  # cfg 3
            guidance_schedule="linear",
            top_k=42,
            top_p=0.95,
            more_smooth=call["more_smooth"],
            rng="reference",
        )
    return state, ~known.mask


@pytest.mark.parametrize("name", CALLS)
def test_recorded_edits(case, name):
    state, drawn = edit(case, name, case.edits[f"{name}_mask"])
    assert near(state.canvas, case.edits[f"{name}_f_hat"])
    if f"{name}_ids" in case.edits:
        assert torch.equal(state.ids[drawn], case.edits[f"{name}_ids"].long()[drawn])
    assert bool(drawn.any())
    assert not bool(drawn.all())


@pytest.mark.parametrize("name", CALLS)
def test_the_inverse_mask_gives_another_image(case, name):
    state, _ = edit(case, name, 1 - case.edits[f"{name}_mask"])
    assert not near(state.canvas, case.edits[f"{name}_f_hat"])
