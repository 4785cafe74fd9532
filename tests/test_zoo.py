"""Presets: their records, cards, table and files agree with each other."""

from importlib.resources import files
from pathlib import Path

import pytest
from tiny import sentence

from arimage.card_rules import check_card, parsed
from arimage.names import imagenet
from arimage.sampling.settings import Settings
from arimage.zoo import (
    PRESETS,
    find,
    find_file,
    find_published,
    find_variant,
    markdown_table,
    packaged,
    published_tokenizer,
)
from arimage.zoo_cards import card, front_matter

ROOT = Path(__file__).parents[1]
MAX_BYTES = 2_000_000


PUBLISHED = sorted(set(PRESETS) - set(packaged()))


@pytest.mark.parametrize("name", packaged())
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
    text = (ROOT / "model_cards" / f"{name}.md").read_text()
    assert text.startswith(front_matter(PRESETS[name]))
    assert PRESETS[name].command in text


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_hub_would_accept_the_card(name):
    preset, text = PRESETS[name], (ROOT / "model_cards" / f"{name}.md").read_text()
    check_card(text, name)
    head = parsed(text.split("---")[1], name)
    assert head["license"] == preset.licence.lower()
    assert head["parameters"] == dict(
        zip(("transformer", "tokenizer"), preset.parameters, strict=True)
    )
    if preset.repo:
        assert preset.repo in head["base_model"]
    scores = preset.scores or preset.published
    results = [result for entry in head.get("model-index", ()) for result in entry["results"]]
    found = {metric["type"]: metric["value"] for r in results for metric in r["metrics"]}
    assert found == scores
    assert all(metric["name"] for result in results for metric in result["metrics"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_card_of_a_published_model_is_made_from_its_record(name):
    preset = PRESETS[name]
    assert (ROOT / "model_cards" / f"{name}.md").read_text() == card(preset)
    if preset.published:
        assert f"FID {preset.published['fid']} ({preset.published_by})" in card(preset)
    assert preset.remark in card(preset)
    assert "our score | not verified" in card(preset)
    assert not preset.scores
    Settings.from_json(preset.sampling)


def test_every_card_has_a_preset():
    assert {path.stem for path in (ROOT / "model_cards").glob("*.md")} == set(PRESETS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_found_by_repository_and_variant(name):
    preset = PRESETS[name]
    assert find_published(preset.repo, preset.variant) is preset
    assert published_tokenizer(name) is preset
    assert published_tokenizer(preset.repo, preset.variant) is preset
    file = preset.file.rpartition("/")[2]
    alone = [p for p in PRESETS.values() if p.file.rpartition("/")[2] == file] == [preset]
    assert find_file(file) is (preset if alone else None)
    assert find_variant(name) is preset
    assert find_variant(preset.variant).variant == preset.variant


def test_what_several_models_share_means_the_first():
    assert find_variant("d16").name == "var-d16"
    assert find_variant("c2i-B-384").name == "llamagen-b-384"
    with pytest.raises(ValueError) as caught:
        find_variant("c2i-XL-256")
    assert "unknown variant 'c2i-XL-256'. Did you mean 'c2i-" in sentence(caught)
    assert find_file("nothing.pt") is None


def test_scores_of_resized_images_are_said_to_be():
    for name in PUBLISHED:
        regions = PRESETS[name].order == "regions"
        resized = ("llamagen" in name or regions) and PRESETS[name].image_size == 384
        assert ("384 px samples resized to 256 px" in card(PRESETS[name])) == resized


def test_the_published_variants_of_llamagen():
    c2i = {p.variant for p in PRESETS.values() if p.repo == "FoundationVision/LlamaGen"}
    assert c2i == {f"c2i-{s}-384" for s in ("B", "L", "XL", "XXL", "3B")} | {
        "c2i-B-256",
        "c2i-L-256",
    }


@pytest.mark.parametrize(
    ("variant", "words"),
    [(None, "give variant: d16, d20, d24, d30, d36"), ("d31", "unknown variant of Foundation")],
)
def test_a_variant_that_is_not_there_is_told(variant, words):
    with pytest.raises(ValueError) as caught:
        find_published("FoundationVision/var", variant)
    assert words in sentence(caught)


def test_the_imagenet_names():
    names = imagenet()
    assert len(set(names)) == 1000
    assert (names[0], names[207], names[360], names[999]) == (
        "tench",
        "golden retriever",
        "otter",
        "toilet tissue",
    )


def test_the_readme_has_the_table():
    assert markdown_table() in (ROOT / "README.md").read_text()


def test_an_unknown_preset_is_told_with_suggestions():
    with pytest.raises(KeyError, match="Did you mean 'digits-var'"):
        find("digit-var")
