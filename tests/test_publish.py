"""The scenes of tests/loopback/publish_scenes.py: publishing to a hub on loopback."""

import pytest
from loopback.scenes import names, outcomes

FILE = "publish_scenes.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return outcomes(FILE, tmp_path_factory.mktemp("publish"))


@pytest.mark.parametrize("name", names(FILE))
def test_scene(found, name):
    assert name in found
    assert not found[name], found[name]
