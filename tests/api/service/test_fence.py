from __future__ import annotations

from typing import Any, get_args, get_origin

import pytest

from api.service.fence import _NAMING, check_export, check_plugin, check_recipe, check_source
from api.service.settings import Settings, is_loopback
from data_engine import registry
from data_engine.errors import RequestError
from data_engine.recipe import ExportRecipe, LabelRecipe, SourceRecipe, validate


def allowed(settings: Settings, uri: str) -> bool:
    try:
        check_source(SourceRecipe(uri=uri), settings)
    except RequestError as error:
        assert error.code in ("not_allowed", "bad_uri")
        return False
    return True


def test_a_source_lies_below_an_allowed_prefix(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path / "inside")
    settings = Settings(lake="x", allow=(str(tmp_path / "in"), "s3://demos/kitchen", "hf://datasets/lab"))
    for good in (f"{tmp_path}/in", f"{tmp_path}/in/a.hdf5", f"file://{tmp_path}/in/a", "s3://demos/kitchen/a",
                 "hf://datasets/lab/x@main"):  # fmt: skip
        assert allowed(settings, good), good
    for bad in (f"{tmp_path}/inside", f"{tmp_path}/in/../inside", f"{tmp_path}/in/out/x", f"{tmp_path}", "/",
                "s3://demos/kitchenette", "s3://demos/kitchen/../x", "s3://demos", "http://demos/kitchen", "in",
                "hf://datasets/laboratory/x", "simplecache::s3://demos/kitchen/a", "~/x",
                f"{tmp_path}/in/a\x00"):  # fmt: skip
        assert not allowed(settings, bad), bad


def test_endpoints_and_the_variables_of_their_keys_are_named_by_the_server():
    def part(**endpoint):
        return LabelRecipe(labeller="caption", params={"endpoint": {"model": "vlm", **endpoint}})

    known, other = "http://vlm.example/v1", "http://evil.example/v1"
    settings = Settings(lake="x", allow=(known, "vlm"), environment=("VLM_KEY",))
    check_plugin(part(url=known, key_env="VLM_KEY"), settings)
    for bad in (part(url=other), part(url=known, key_env="AWS_SECRET_ACCESS_KEY"), part(url=known, model="other")):
        with pytest.raises(RequestError) as caught:
            check_plugin(bad, settings)
        assert caught.value.code == "not_allowed"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.evil.example", False), ("127.0.0.1.nip.io", False), ("", False)],
)  # fmt: skip
def test_loopback_is_this_machine_alone(host, loopback):
    assert is_loopback(host) is loopback


def test_an_export_that_refers_to_sources_names_only_those_that_are_allowed(tmp_path):
    settings = Settings(lake="x", allow=(str(tmp_path / "in"), "s3://out"))

    def export(at):
        return ExportRecipe(format="opentau", uri="s3://out/x", options={"sources": {"kitchen": str(at)}})

    check_export(export(tmp_path / "in" / "kitchen"), settings)
    for bad in (tmp_path / "other", "/etc", "s3://others/kitchen"):
        with pytest.raises(RequestError) as caught:
            check_export(export(bad), settings)
        assert caught.value.code == "not_allowed"


def test_selectors_and_weighers_are_held_against_it_too():
    base = {"source": {"uri": "s3://in/x"}, "select": [{"name": "a", "method": "random", "budget": 2}]}
    settings = Settings(lake="x", allow=("s3://in",))
    check_recipe(validate(base), settings)
    weighed = {"selection": "a", "weigher": "score", "params": {"by": "s3://x/y"}}
    chosen = {"name": "a", "method": "top_fraction", "budget": 0.5, "params": {"by": "s3://x/y"}}
    for part in ({"select": [chosen]}, {"mixture": {"entries": [weighed]}}):
        with pytest.raises(RequestError) as caught:
            check_recipe(validate(base | part), settings)
        assert caught.value.code == "not_allowed", str(caught.value)


NAMES_NOTHING_OUTSIDE = {
    "by", "of", "space", "camera", "cameras", "collection", "columns", "key", "repo_ids", "names", "env_args",
    "key_env", "goal", "baseline",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["exporters", "selectors", "weighers", "scorers", "labellers", "encoders"])
def test_every_option_of_free_text_is_fenced_or_known_to_name_nothing_outside(kind):
    seen = set()
    for name in registry.names(kind):
        seen |= free_texts(registry.load(kind, name))
    assert not seen - _NAMING - NAMES_NOTHING_OUTSIDE


def free_texts(model):
    """The options of a plug-in, and of the models inside it, that take any text."""
    found = set()
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *get_args(field.annotation)) if hasattr(each, "model_fields")]
        for each in inner:
            found |= free_texts(each)
        if not inner and takes_text(field.annotation):
            found.add(name)
    return found


def takes_text(kind):
    parts = get_args(kind)
    return kind in (str, Any) or any(takes_text(each) for each in (parts[1:] if get_origin(kind) is dict else parts))
