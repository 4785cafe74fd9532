"""Sampling settings: what they make, and their record."""

import json

import pytest
from tiny import TINY_SAMPLERS, TINY_SCHEDULES, entry, sentence

from arimage.sampling.guidance import Interval, PowerCosine
from arimage.sampling.registry import SAMPLERS, SCHEDULES
from arimage.sampling.settings import Settings

SETTINGS = [
    Settings(),
    Settings(guidance_scale=3.0, guidance_schedule="linear", temperature=0.0, top_k=5, top_p=0.5),
    Settings(guidance_schedule=PowerCosine(2.75), num_steps=4, sampler="argmax"),
    Settings(guidance_schedule=Interval(1, None)),
    Settings(more_smooth=True, rng="reference"),
    Settings(cache_dtype="fp8"),
    *(
        Settings(guidance_schedule=SCHEDULES[name](**options))
        for name in SCHEDULES
        for options, _ in TINY_SCHEDULES.get(name, [])
    ),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_come_back_from_json(settings):
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize("name", SAMPLERS)
def test_settings_make_every_sampler_with_its_options(name):
    options, _ = entry("sampler", TINY_SAMPLERS, name)[-1]
    assert Settings(sampler=name, **options).make_sampler() == SAMPLERS[name](**options)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"temperatur": 1.0}, "'temperatur'. Did you mean 'temperature'"),
        ({"guidance_schedule": "lin"}, "unknown guidance schedule 'lin'"),
        ({"guidance_schedule": {"name": "interval", "fist": 1}}, "Did you mean 'first'"),
        ({"guidance_schedule": {"first": 1}}, "unknown guidance schedule ''"),
        ({"top_k": 0}, "got top_k 0"),
        ({"cache_dtype": "fp9"}, "unknown cache_dtype 'fp9'. Did you mean 'fp8'"),
        ({"rng": "refrence"}, "unknown rng 'refrence'. Did you mean 'reference'"),
        ({"more_smooth": True, "sampler": "argmax"}, "greedy sampling draws none"),
        ({"more_smooth": True, "temperature": 0.0}, "greedy sampling draws none"),
    ],
)
def test_settings_that_cannot_be_read_are_told(record, message):
    with pytest.raises(ValueError) as caught:
        Settings.from_json(record)
    assert message in sentence(caught)
