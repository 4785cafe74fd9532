"""The images of a protocol, made when they are read: any index alone, and what a record says."""

import dataclasses

import numpy as np
import pytest
import torch

from arimage.eval.protocols import (
    PROTOCOLS,
    EvaluationProtocol,
    find_protocol,
    published_protocol,
)
from arimage.eval.runner import evaluate
from arimage.generator import ImageGenerator
from arimage.images import from_pixels, resized, to_pixels
from arimage.zoo import PRESETS, find_loaded

SMALL = EvaluationProtocol(
    name="small-v1",
    count=23,
    num_classes=10,
    image_size=32,
    reference="digits",
    features="digits",
    metrics=("fid", "accuracy"),
)


@pytest.fixture(scope="module")
def generator():
    return ImageGenerator.from_pretrained("digits-var", dtype=torch.float32)


def test_an_index_is_an_image_whatever_is_read_with_it(generator):
    source = generator.stream_dataset(SMALL, batch_size=5)
    whole = source.read(0, 23)
    assert whole.kept.tolist() == list(range(23))
    assert source.labels.tolist() == [i % 10 for i in range(23)]
    assert np.abs(source.read(7, 9).pixels.astype(int) - whole.pixels[7:9]).max() <= 1
    assert len(source.read(20, 99).pixels) == 3
    asked = generator(
        class_labels=source.labels.tolist(), seeds=0, batch_size=5, output_type="pixels"
    )
    np.testing.assert_array_equal(asked.images, whole.pixels)
    shifted = generator.stream_dataset(dataclasses.replace(SMALL, first_seed=3), batch_size=5)
    assert np.abs(shifted.read(0, 5).pixels.astype(int) - whole.pixels[3:8]).max() > 1  # labels


def test_the_identity_is_of_weights_protocol_and_settings(generator):
    source = generator.stream_dataset(SMALL)
    assert generator.stream_dataset(SMALL).identity == source.identity
    others = [
        generator.stream_dataset(SMALL, guidance_scale=2.0),
        generator.stream_dataset(dataclasses.replace(SMALL, count=22)),
        ImageGenerator.from_pretrained("digits-var", dtype=torch.bfloat16).stream_dataset(SMALL),
        ImageGenerator.from_pretrained("digits-llamagen").stream_dataset(SMALL),
    ]
    assert len({source.identity, *(other.identity for other in others)}) == 5


def test_a_report_says_what_was_not_as_the_authors_have_it(generator):
    report = evaluate(generator.stream_dataset(SMALL, guidance_scale=2.0, top_k=30))
    assert list(report) == ["fid", "accuracy"]
    assert report.protocol.name == "small-v1"
    assert report.protocol.settings["seeds"] == "0-22"
    assert report.protocol.settings["sampling"]["guidance_scale"] == 2.0
    assert "deviations" not in report.protocol.settings
    said = " | ".join(report.protocol.deviations)
    assert "top_k 30 instead of None" in said
    assert "count 23 instead of 1000" in said
    assert "temperature" not in said
    pixels = generator.stream_dataset(SMALL).read(0, 23).pixels
    call = {"metrics": ["fid"], "features": "pixels", "protocol": "digits-1k"}
    call["reference"] = np.zeros((9, 32, 32, 3), np.uint8)
    for labels, remark in (
        (None, "labels, seeds and rounding of the images are not known"),
        (np.zeros(23, int), "labels other than the protocol's"),
    ):
        few = evaluate(pixels, labels=labels, **call)
        said = " | ".join(few.protocol.deviations)
        for part in (
            "23 images instead of 1000",
            "features pixels instead of digits",
            "reference reference instead of digits",
            remark,
        ):
            assert part in said
    whole = dataclasses.replace(SMALL, name="whole-v1")
    given = evaluate(pixels, labels=whole.class_labels(), **{**call, "protocol": whole})
    assert "seeds and rounding of the images are not known" in given.protocol.deviations
    with pytest.raises(
        ValueError, match=r"got the protocol 'digits-1k.*' for images of 'small-v1'"
    ):
        evaluate(generator.stream_dataset(SMALL), protocol="digits-1k")


def test_what_does_not_fit_says_so(generator):
    with pytest.raises(ValueError, match="asks for 1000 classes and this generator draws from 10"):
        generator.stream_dataset("imagenet256-50k")
    with pytest.raises(KeyError, match="unknown protocol 'imagenet-50k'"):
        generator.stream_dataset("imagenet-50k")
    with pytest.raises(ValueError, match="rng='reference' draws for a whole batch"):
        generator.stream_dataset(SMALL, rng="reference")
    with pytest.raises(TypeError, match="unknown sampling setting 'topk'"):
        generator.stream_dataset(SMALL, topk=3)


def test_protocols_are_versioned_balanced_and_found():
    assert find_protocol("imagenet256-50k").name == "imagenet256-50k-balanced-v1"
    assert find_protocol("imagenet256-10k").count == 10_000
    assert find_protocol("imagenet256-fid5k-fast").count == 5_000
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name
        assert name.rpartition("-v")[2].isdigit()
        labels = protocol.class_labels()
        assert (len(labels), labels.min(), labels.max()) == (
            protocol.count,
            0,
            protocol.num_classes - 1,
        )
        counts = np.bincount(labels)
        assert (counts.min() == counts.max()) == (protocol.labels == "balanced")
    balanced = find_protocol("imagenet256-50k").class_labels()
    assert set(balanced[5000:6000].tolist()) == set(range(1000))  # any block of 1,000


CLASSED = [name for name, preset in PRESETS.items() if preset.num_classes]
NOT_OURS = [name for name in CLASSED if name.startswith(("halton", "maskbit"))]
# By the first word of a preset, what its authors' script does; the others draw classes in turn and
# round to the nearest level.
DRAWN = ("llamagen", "cca-llamagen", "par", "randar")
TRUNCATED = ("rar", "titok", "ibq", "open", "mvar", "code")


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_family_whose_score_cannot_be_repeated_is_told_why(name):
    expected = f"no published protocol is known for '{name}' .*: its .*; give one by name"
    with pytest.raises(KeyError, match=expected):
        published_protocol(name, PRESETS[name].image_size)


@pytest.mark.parametrize("name", [name for name in CLASSED if name not in NOT_OURS])
def test_every_preset_has_the_protocol_of_its_authors(name):
    preset = PRESETS[name]
    protocol = published_protocol(name, preset.image_size)
    assert protocol.num_classes == preset.num_classes
    assert protocol.labels == ("uniform" if name.startswith(DRAWN) else "balanced")
    assert protocol.rounding == ("down" if name.split("-")[0] in TRUNCATED else "nearest")
    side = 32 if preset.folder else 512 if preset.image_size == 512 else 256
    assert protocol.image_size == side
    assert protocol.reference == ("digits" if preset.folder else f"imagenet{side}")
    assert find_loaded(name, None) is preset
    if preset.repo:
        assert find_loaded(preset.repo, preset.variant) is preset


def test_lpd_is_scored_as_torch_fidelity_does():
    protocol = published_protocol("lpd-l-512", 512)
    assert protocol.metrics == ("fid", "inception_score")
    assert protocol.metric_settings == {"inception_score": {"seed": 2020}}


def test_unknown_families_have_no_published_protocol():
    with pytest.raises(KeyError, match="no published protocol is known for 'me/mine'"):
        published_protocol("me/mine", 256)
    assert find_loaded("me/mine", None) is None


def test_images_of_another_size_are_resized_as_floats(generator):
    half = dataclasses.replace(SMALL, image_size=16, count=3)
    chunk = generator.stream_dataset(half, batch_size=3).read(0, 3)
    assert chunk.pixels.shape == (3, 16, 16, 3)
    *_, state = generator.sample([0, 1, 2], [0, 1, 2])
    floats = generator.decode(state)
    expected = torch.nn.functional.interpolate(floats, size=(16, 16), mode="bicubic")
    np.testing.assert_array_equal(chunk.pixels, to_pixels(expected))
    assert torch.equal(resized(floats, 32), floats)


def test_rounding_down_is_truncation_of_255_x():
    levels = torch.linspace(-1, 1, 1000).reshape(1, 1, 10, 100).expand(1, 3, -1, -1)
    x = (levels.double() + 1) / 2
    down = to_pixels(levels, "down")[0, ..., 0].astype(int)
    truncated = (x * 255).to(torch.uint8)[0, 0].numpy().astype(int)
    assert np.abs(down - truncated).max() <= 1
    assert (down == truncated).mean() > 0.99
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert (to_pixels(from_pixels(pixels), "down") != pixels).mean() < 0.5
    assert to_pixels(levels).mean() - to_pixels(levels, "down").mean() == pytest.approx(
        0.5, abs=0.02
    )
