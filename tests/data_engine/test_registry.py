from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.registry import Plugin

ASKING = {  # what cannot be without being told something: weights, a server, prompts, other selections, a metric
    "encoders": {"open_clip", "open_clip_text", "timm", "torch_module"},
    "labellers": {"caption", "success", "vlm_reward"},
    "scorers": {"instruction_match"},
    "selectors": {"difference", "intersection", "quality_coverage", "top_fraction", "union"},
    "weighers": {"score"},
}


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_registered_plugin_loads_and_has_defaults_or_asks_in_one_line(kind):
    for name in registry.names(kind):
        if name in ASKING.get(kind, ()):
            with pytest.raises(RequestError) as caught:
                registry.make(kind, name)
            assert caught.value.code == "bad_option"
            assert "\n" not in str(caught.value)
            assert issubclass(registry.load(kind, name), Plugin)
            continue
        plugin = registry.make(kind, name)
        assert isinstance(plugin, Plugin)
        assert registry.make(kind, name, plugin.config) == plugin
        assert plugin.config_hash == registry.make(kind, name).config_hash


def test_names_are_the_entry_points():
    assert registry.names("selectors") == sorted(point.name for point in entry_points(group="data_engine.selectors"))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match=r"unknown selector 'transprot' \(did you mean 'transport'\?\)"):
        registry.load("selectors", "transprot")
    with pytest.raises(RequestError, match="known: "):
        registry.load("selectors", "qqqq")


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match="unknown key 'varianc'; did you mean 'variance'"):
        registry.make("selectors", "transport", {"varianc": 0.9})


def test_a_wrong_value_names_its_place():
    with pytest.raises(RequestError, match="format 'lerobot_v3': fps"):
        registry.make("formats", "lerobot_v3", {"fps": "fast"})
