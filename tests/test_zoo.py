"""Presets: their records, cards, table and files agree with each other."""

from importlib.resources import files
from pathlib import Path

import pytest

from arimage.zoo import PRESETS, find, front_matter, markdown_table

ROOT = Path(__file__).parents[1]
MAX_BYTES = 2_000_000


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_small_and_complete(name):
    folder = Path(str(files("arimage"))) / PRESETS[name].folder
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert set(sizes) == {
        "model_index.json",
        "image_tokenizer/config.json",
        "image_tokenizer/model.safetensors",
        "transformer/config.json",
        "transformer/model.safetensors",
    }
    assert sum(sizes.values()) < MAX_BYTES


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_card_starts_with_the_record(name):
    card = (ROOT / "model_cards" / f"{name}.md").read_text()
    assert card.startswith(front_matter(PRESETS[name]))
    assert PRESETS[name].command in card


def test_the_readme_has_the_table():
    assert markdown_table() in (ROOT / "README.md").read_text()


def test_an_unknown_preset_is_told_with_suggestions():
    with pytest.raises(KeyError, match="Did you mean 'digits-var'"):
        find("digit-var")
