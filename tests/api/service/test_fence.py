from __future__ import annotations

import pytest

from api.service.fence import check_plugin, check_source
from api.service.settings import Settings, is_loopback
from data_engine.errors import RequestError
from data_engine.recipe import LabelRecipe, SourceRecipe


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
