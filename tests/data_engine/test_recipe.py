from __future__ import annotations

import json

import pytest
import yaml

from data_engine.errors import RequestError
from data_engine.recipe import (
    Recipe,
    SourceRecipe,
    apply_overrides,
    parse,
    read,
    render,
    schema,
    template,
    validate,
    validate_mix,
)

MINIMAL = {"source": {"uri": "data/demos.hdf5"}, "select": [{"name": "all", "method": "filter"}]}


def test_the_template_is_a_valid_recipe():
    recipe = validate(yaml.safe_load(template()))
    assert recipe.select[0].method == "transport"
    keys = set(yaml.safe_load(template()))
    assert (keys - {"source"}) | {"sources", "label", "schedule"} == set(Recipe.model_fields)
    named = validate(apply_overrides(yaml.safe_load(template()), ["source.uri=s3://b/c"]))
    assert [source.uri for source in named.sources] == ["s3://b/c"]


def test_resolving_fills_in_every_default_and_is_a_fixed_point():
    recipe = validate(MINIMAL)
    assert recipe.sources[0].name == "demos"
    assert recipe.sources[0].uri.endswith("/data/demos.hdf5")
    assert recipe.mixture.entries[0].selection == "all"
    assert recipe.spaces[0].params == recipe.spaces[0].params | {}
    again = validate(recipe.model_dump(mode="json"))
    assert again == recipe
    assert again.hash == recipe.hash


def test_the_hash_follows_content_not_spelling():
    longer = {
        "sources": [{"uri": "data/demos.hdf5", "format": "auto"}],
        "select": [{"method": "filter", "name": "all"}],
    }
    assert validate(longer).hash == validate(MINIMAL).hash
    assert validate(MINIMAL | {"mixture": {"seed": 1}}).hash != validate(MINIMAL).hash


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"selct": []}, "unknown key 'selct'; did you mean 'select'"),
        ({"mixture": {"wieght_kind": "choose"}}, "did you mean 'weight_kind'"),
        ({"mixture": {"weight_kind": "share"}}, "mixture.weight_kind"),
        ({"mixture": {"splits": {"train": 0.5}}}, "splits sum to 0.5"),
        ({"mixture": {"entries": [{"selection": "none"}]}}, "names selection 'none'; the recipe makes all"),
        ({"select": [{"name": "a", "method": "nope"}]}, "unknown selector 'nope'"),
        ({"select": [{"name": "a", "method": "transport"}]}, "needs a target"),
        ({"select": [{"name": "a", "method": "filter", "budget": "auto"}]}, "no automatic budget"),
        ({"select": [{"name": "a", "method": "random", "budget": "many"}]}, "'many' is neither a count, nor a share"),
        ({"select": [{"name": "a", "method": "random", "budget": True}]}, "True is neither a count"),
        ({"select": [{"name": "a", "method": "random", "budget": 0}]}, "0 chooses nothing"),
        ({"select": [{"name": "a", "method": "random", "budget": 1.5}]}, "1.5 is not a share"),
        ({"select": [{"name": "a b", "method": "filter"}]}, "is no name"),
        ({"select": [{"name": "a", "method": "filter"}] * 2}, "'a' is named twice"),
        ({"select": [{"name": "a", "method": "nearest", "space": "eyes", "target": {"ids": ["e"]}}]}, "space 'eyes'"),
        ({"select": [{"name": "a", "method": "filter", "target": {"top": 3}}]}, "top and by go together"),
        ({"select": [{"name": "a", "method": "filter", "target": {"where": "success", "ids": ["e"]}}]}, "exactly one"),
        ({"score": [{"scorer": "integrty"}]}, "did you mean 'integrity'"),
        ({"score": [{"scorer": "mutual_information", "params": {"kk": 5}}]}, "unknown key 'kk'"),
        ({"export": [{"format": "lerobot_v9", "uri": "x"}]}, "unknown exporter 'lerobot_v9'"),
        ({"schedule": {"cron": "0 3 * * *", "interval_s": 5}}, "either cron or interval_s"),
        ({"sources": [{"uri": "b"}]}, "source or sources, not both"),
        ({"source": {}}, "uri"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_gets_one_line_that_says_what_is_right(change, line):
    with pytest.raises(RequestError) as caught:
        validate(MINIMAL | change)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mixture_alone_is_enough_to_freeze_stored_selections():
    recipe = validate_mix({"name": "again", "mixture": {"entries": [{"selection": "stored"}], "seed": 3}})
    assert (recipe.mixture.name, recipe.mixture.entries[0].selection) == ("again", "stored")
    assert recipe.mixture.entries[0].params == validate(MINIMAL).mixture.entries[0].params
    assert validate_mix(recipe.model_dump(mode="json")).hash == recipe.hash
    assert validate_mix(MINIMAL) == validate(MINIMAL)
    for wrong, line in (
        ({"mixture": {}}, "the mixture has no entries; name a selection"),
        ({"mixture": {"entries": [{"selection": "a"}], "sed": 1}}, "did you mean 'seed'"),
        ({}, "mixture"),
        ({"select": [], "mixture": {"entries": [{"selection": "a"}]}}, "sources"),
    ):
        with pytest.raises(RequestError, match=line):
            validate_mix(wrong)


def test_overrides_reach_any_depth_and_read_yaml():
    value = {"source": {"uri": "a"}, "select": [{"name": "x"}]}
    changed = apply_overrides(value, ["source.uri=s3://b/c", "select.0.budget=0.25", "mixture.splits={train: 1.0}"])
    assert changed["source"]["uri"] == "s3://b/c"
    assert changed["select"][0]["budget"] == 0.25
    assert changed["mixture"] == {"splits": {"train": 1.0}}
    assert value == {"source": {"uri": "a"}, "select": [{"name": "x"}]}


@pytest.mark.parametrize(
    "override", ["source.uri", "=x", "select.x=1", "select.5.name=a", "source.uri.deep=1", "a..b=1"]
)
def test_a_wrong_override_is_refused(override):
    with pytest.raises(RequestError, match="--set"):
        apply_overrides({"source": {"uri": "a"}, "select": [{}]}, [override])


def test_reads_files_and_says_what_is_wrong_with_them(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert render(str(path), ["mixture.seed=7"]).mixture.seed == 7
    with pytest.raises(RequestError, match="cannot read"):
        read(str(tmp_path / "absent.yaml"))
    path.write_text("a: [1,")
    with pytest.raises(RequestError, match="is not YAML"):
        read(str(path))
    path.write_text("- 1")
    with pytest.raises(RequestError, match="holds no mapping"):
        read(str(path))


def test_the_schema_is_json():
    assert "weight_kind" in json.dumps(schema())


def test_a_base_set_is_named_in_one_way_and_where_a_scorer_needs_it():
    def scored(**part):
        return validate({"source": {"uri": "x"}, "score": [part], "select": [{"name": "a", "method": "random"}]}).score

    (item,) = scored(scorer="compatibility", base={"where": "success"})
    assert item.base.where == "success"
    assert item.params["members"] == 5
    assert scored(scorer="compatibility", fit="fit_1")[0].fit == "fit_1"
    for part, message in (
        ({"scorer": "compatibility"}, "'compatibility' needs a base set"),
        ({"scorer": "integrity", "base": {}}, "exactly one of where, ids or selection"),
        ({"scorer": "integrity", "base": {"where": "success"}, "fit": "fit_1"}, "base or fit, not both"),
    ):
        with pytest.raises(RequestError, match=message):
            scored(**part)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("a/kitchen.zarr.zip", "kitchen"),
        ("bridge_rlds/1.0.0", "bridge_rlds"),
        ("sim/v2.1/", "sim"),
        ("x/run.7.mcap", "run.7"),
        ("clip 10s.MP4", "clip_10s"),
        ("1.0.0", None),
    ],
)
def test_a_dataset_is_named_by_what_is_no_container_and_no_version(uri, name):
    found = SourceRecipe(uri=f"s3://bucket/{uri}").dataset
    assert found == (name or "bucket")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, *a]",
        "!!python/object/apply:os.system ['true']",
        "[" * 5000,
        "1" * 5000,
        "a: {",
        "\0",
        "a: &a [x, x, x]\n"
        + "".join(f"k{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(12)),
    ],
)
def test_yaml_that_is_no_plain_value_of_a_bounded_size_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)
