from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api.service.app import make_app
from api.service.settings import Settings
from tests.api.commands import answer
from tests.recordings import write_robomimic


def camera(client):
    row = client.get("/v1/episodes", params={"limit": 1}).json()["items"][0]
    return row["episode_id"], row["videos"][0]["camera"]


def test_a_contact_sheet_holds_frames_from_first_to_last(served):
    with served.client("read") as client:
        name, front = camera(client)
        path = f"/v1/episodes/{name}"
        told = client.get(f"{path}/sheet/{front}", params={"frames": 5, "across": 3, "width": 16})
        sheet = Image.open(io.BytesIO(told.content))
        first = client.get(f"{path}/frame/{front}", params={"width": 16})
        one = Image.open(io.BytesIO(first.content))
        assert sheet.size == (3 * one.width, 2 * one.height)
        corner = np.asarray(sheet.crop((0, 0, *one.size)), float)
        assert np.abs(corner - np.asarray(one, float)).mean() < 20  # both are JPEG
        assert client.get(f"{path}/sheet/{front}", params={"frames": 5, "across": 3, "width": 16},
                          headers={"If-None-Match": told.headers["ETag"]}).status_code == 304  # fmt: skip
        for wrong in ({"frames": 0}, {"frames": 65}, {"across": 0}, {"width": 1}):
            assert client.get(f"{path}/sheet/{front}", params=wrong).status_code == 422
        assert client.get(f"{path}/sheet/none").json()["code"] == "no_camera"


def test_quantiles_are_those_asked_for(served):
    with served.client("read") as client:
        path = "/v1/scores/action_divergence/distribution"
        told = client.get(path, params={"quantiles": "0,0.5,1"}).json()
        assert [each["share"] for each in told["quantiles"]] == [0, 0.5, 1]
        assert [told["quantiles"][0]["value"], told["quantiles"][2]["value"]] == [told["min"], told["max"]]
        for wrong in ("", "2", "-0.1", "nan", "x", ","):
            assert client.get(path, params={"quantiles": wrong}).status_code == 422, wrong


def test_a_picture_is_searched_for_by_what_it_holds_alone(served):
    with served.client("read") as client:
        for wrong, code in (("%%%", "bad_image"), (base64.b64encode(b"no picture").decode(), None)):
            refused = client.post("/v1/search", json={"image": wrong})
            assert refused.status_code in (404, 422)
            assert code is None or refused.json()["code"] == code


def test_a_local_lake_has_no_other_address_for_a_video(served):
    with served.client("read") as client:
        name, front = camera(client)
        assert client.get(f"/v1/episodes/{name}/video/{front}", params={"redirect": True}).status_code == 200


@pytest.mark.usefixtures("s3_endpoint")
def test_on_s3_a_video_is_read_at_a_signed_address(s3, tmp_path, capsys):
    import httpx

    source = write_robomimic(tmp_path / "reach.hdf5", episodes=1, cameras=True)
    answer(capsys, "ingest", source, "--dataset", "reach", "--lake", f"{s3}/lake")
    app = make_app(Settings(lake=f"{s3}/lake", keys=False, folder=str(tmp_path / "runs"), rate=1e6, burst=1000))
    with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as client:
        while client.get("/v1/ready").status_code != 200:
            pass
        name, front = camera(client)
        path = f"/v1/episodes/{name}/video/{front}"
        whole = client.get(path)
        sent = client.get(path, params={"redirect": True})
        assert (whole.status_code, sent.status_code) == (200, 307)
        assert sent.headers["X-Start-S"] == whole.headers["X-Start-S"]
        assert httpx.get(sent.headers["Location"], headers={"Range": "bytes=0-9"}).content == whole.content[:10]


def test_a_video_that_cannot_be_decoded_is_a_line_that_names_it_and_no_folder_of_the_server(writable):
    with writable.client("read") as client:
        name, front = camera(client)
        (video,) = writable.lake.episodes().filter(episode_id=name)["videos"][0]
        blob, path = video["blob"], f"/v1/episodes/{name}"
        whole = writable.lake.read_bytes(blob)
        middle = len(whole) // 2
        for broken in (whole[:middle], b"", b"no video", bytes(len(whole)), whole[:100] + bytes(middle) + whole[-100:]):
            writable.lake.write_bytes(blob, broken)
            for asked in (f"{path}/frame/{front}", f"{path}/sheet/{front}"):
                said = client.get(asked)
                assert (said.status_code, said.headers["Content-Type"]) == (422, "application/problem+json"), said.text
                assert blob in said.json()["detail"] and writable.lake.uri not in said.text
        writable.lake.write_bytes(blob, whole)
        assert client.get(f"{path}/sheet/{front}").status_code == 200
