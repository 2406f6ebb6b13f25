"""Episodes: found, looked at, and their steps and frames handed out."""

from __future__ import annotations

import io
import json
import mimetypes
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from api.service.asking import After, Columns, Held, Limit, LiveLake, OrderBy, Where, limit_of, split
from api.service.rows import JSON, TABULAR, UNCHANGED, immutable, paged, tabular
from data_engine.errors import RequestError, SourceError
from flows.paging import page
from storage.snapshot import Snapshot

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["episodes"])

EpisodeId = Annotated[str, Path(description="The episode's id.", examples=["ep_0123456789abcdef0123"], max_length=200)]
Camera = Annotated[str, Path(description="The camera's name.", examples=["front"], max_length=200)]
_SIGNED_S = 300
_VIDEO = {
    200: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}, "description": "The video."},
    206: {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}, "description": "A part of it."},
    304: {"description": "It is what you hold."},
    307: {"description": "It is there, for five minutes."},
    416: {"description": "It has no such range."},
}
_PICTURE = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "The frame."},
    304: {"description": "It is what you hold."},
}


class Lineage(BaseModel):
    """Where an episode comes from, and what was made of it."""

    run_id: str | None = Field(description="The ingest that brought it.")
    parent: str | None
    children: list[str]
    copies: list[str] = Field(description="Others of the same content.")
    selections: list[dict[str, Any]] = Field(description="That chose it.")


class Episode(BaseModel):
    """An episode and what is known of it."""

    episode: dict[str, Any]
    scores: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    lineage: Lineage


@router.get("/episodes", responses=TABULAR, response_class=Response)
async def episodes(
    request: Request, live: LiveLake, lake: Held, where: Where = None, order_by: OrderBy = None,
    columns: Columns = None, limit: Limit = None, after: After = None,
) -> Response:  # fmt: skip
    """The episodes that an expression admits: a page as JSON, the whole result as Arrow or Parquet."""

    def answer() -> Response:
        rows, order, most = split(columns) or None, split(order_by), limit_of(request, limit)
        return paged(request, page(lake, where, columns=rows, order_by=order, limit=most, after=after))

    return await live.in_turn(answer)


@router.get("/episodes/{episode_id}", response_class=Response, responses={200: {"model": Episode}})
async def episode(episode_id: EpisodeId, lake: Held) -> Response:  # async: what it needs lies ready in memory
    """One episode with its scores, annotations and lineage."""
    (place,) = _place(lake, episode_id)
    mine = lake.episodes()[int(place)]
    recording, run_id, parent = (mine[name][0] for name in ("content_hash", "run_id", "parent"))
    scores = lake.pivot.rows_at(int(lake.slots()[place]))
    scores.sort(
        key=lambda row: [str(row[name]) for name in ("scorer", "metric", "version", "fit_id")] + [row["start"] or 0]
    )
    said = lake.rows_of("annotations", "episode_id", episode_id)
    if len(said):
        said = said.filter(pl.col("content_hash") == recording).sort("start", "stop", "kind", "producer")
        said = said.drop("content_hash")
    chosen = lake.rows_of("selections", "episode_id", episode_id)
    if len(chosen):
        chosen = chosen.filter(pl.col("rank").is_not_null()).sort("name", "rank")
        chosen = chosen.select("name", "selection_id", "rank", "weight", "start", "stop")
    lineage = {
        "run_id": run_id, "parent": parent, "children": _others(lake, "parent", episode_id, place),
        "copies": _others(lake, "content_hash", recording, place), "selections": _plain(chosen),
    }  # fmt: skip
    body = to_json({"scores": scores, "annotations": _plain(said), "lineage": lineage})
    return Response(b'{"episode":%s,%s' % (mine.write_json()[1:-1].encode(), body[1:]), media_type=JSON)


@router.get("/episodes/{episode_id}/steps", responses=TABULAR | UNCHANGED, response_class=Response)
def steps(request: Request, episode_id: EpisodeId, lake: Held, columns: Columns = None) -> Response:
    """The steps of an episode, in order."""
    mine = lake.episodes()[_place(lake, episode_id)]
    (found,) = lake.steps(mine, split(columns) or None)
    missing = [name for name in split(columns) if name not in found[1].column_names]
    if missing:
        raise RequestError(f"its steps have no column {missing[0]!r}", code="unknown_column")
    headers, held = immutable(request, mine["content_hash"][0], formed=True)
    return Response(status_code=304, headers=headers) if held else tabular(request, found[1], headers=headers)


@router.get("/episodes/{episode_id}/step-values", responses=TABULAR, response_class=Response)
def step_values(
    request: Request, episode_id: EpisodeId, lake: Held,
    scorer: Annotated[str | None, Query(description="Of this scorer only.", max_length=200)] = None,
) -> Response:  # fmt: skip
    """The scores of an episode that have a number a step, with those numbers and the spans they flag."""
    mine = _row(lake, episode_id)
    rows = lake.scan("scores", version=lake.version("scores")) if lake.version("scores") is not None else None
    if rows is None:
        return tabular(request, lake.scan("scores").collect().clear())
    of_it = (pl.col("unit_id") == episode_id) & (pl.col("content_hash") == mine["content_hash"])
    of_it = of_it & (pl.col("scorer") == scorer) if scorer is not None else of_it
    told = ["scorer", "metric", "version", "fit_id", "start", "stop", "value", "reason", "step_values", "spans"]
    found = rows.filter(of_it & pl.col("step_values").is_not_null()).select(told).collect()
    return tabular(request, found.sort("scorer", "metric", "version", "fit_id"))


@router.head("/episodes/{episode_id}/video/{camera}", include_in_schema=False)
@router.get("/episodes/{episode_id}/video/{camera}", response_class=Response, responses=_VIDEO)
def video(
    request: Request, episode_id: EpisodeId, camera: Camera, lake: Held,
    redirect: Annotated[bool, Query(description="Where the lake is on S3, answer with a signed address there: send no "
                                    "key along.")] = False,
) -> Response:  # fmt: skip
    """The video file that an episode's frames lie in, by range. Its span in it is the episode's ``videos.start_s``."""
    found = _video(lake, episode_id, camera)
    headers, held = immutable(request, _blob(found))
    if held:
        return Response(status_code=304, headers=headers)
    headers |= {"X-Start-S": str(found["start_s"]), "X-End-S": str(found["end_s"])}
    if redirect and (signed := lake.signed(found["blob"], _SIGNED_S)) is not None:
        return Response(status_code=307, headers={**headers, "Location": signed, "Cache-Control": "no-store"})
    kind = mimetypes.guess_type(found["blob"])[0] or "application/octet-stream"
    return FileResponse(lake.local(found["blob"]), headers=headers, media_type=kind)


@router.get("/episodes/{episode_id}/frame/{camera}", response_class=Response, responses=_PICTURE)
def frame(
    request: Request, episode_id: EpisodeId, camera: Camera, lake: Held,
    at: Annotated[float, Query(description="Seconds from the episode's start.", ge=0, le=1e7)] = 0.0,
    width: Annotated[int, Query(description="Pixels; 0 is the video's own.", ge=0, le=4096)] = 320,
) -> Response:  # fmt: skip
    """The frame nearest a time of an episode, as a JPEG thumbnail."""
    found = _video(lake, episode_id, camera)
    length = found["end_s"] - found["start_s"]
    if at > length:
        raise RequestError(f"the episode ends at {length:g} s", code="bad_time", fix="ask for an earlier frame")
    headers, held = immutable(request, f"{_blob(found)}-{found['start_s']}-{at}-{width}")
    if held:
        return Response(status_code=304, headers=headers)
    (picture,) = _pictures(lake, found, [at], width)
    return Response(_jpeg(picture), headers=headers, media_type="image/jpeg")


@router.get("/episodes/{episode_id}/sheet/{camera}", response_class=Response, responses=_PICTURE)
def sheet(
    request: Request, episode_id: EpisodeId, camera: Camera, lake: Held,
    frames: Annotated[int, Query(description="From the first to the last, evenly apart.", ge=1, le=64)] = 12,
    across: Annotated[int, Query(description="In a row.", ge=1, le=16)] = 4,
    width: Annotated[int, Query(description="Of each, in pixels.", ge=16, le=640)] = 160,
) -> Response:  # fmt: skip
    """A contact sheet: frames of an episode side by side, in rows, as one JPEG."""
    from PIL import Image

    found = _video(lake, episode_id, camera)
    headers, held = immutable(request, f"{_blob(found)}-{found['start_s']}-sheet-{frames}-{across}-{width}")
    if held:
        return Response(status_code=304, headers=headers)
    length = found["end_s"] - found["start_s"]
    times = [length * number / max(frames - 1, 1) for number in range(frames)]
    pictures = _pictures(lake, found, times, width)
    wide, high = pictures[0].size
    whole = Image.new("RGB", (wide * min(across, frames), high * -(-frames // across)))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % across * wide, number // across * high))
    return Response(_jpeg(whole), headers=headers, media_type="image/jpeg")


def _pictures(lake: Snapshot, found: dict[str, Any], times: list[float], width: int) -> list[Any]:
    """The frames nearest to ``times`` in seconds, ascending, no wider than ``width`` (0: as they are), as pictures.

    Raises ``SourceError`` where one cannot be decoded.
    """
    from PIL import Image

    from data_engine.video import FrameReader

    step = 1.0 / max(found["fps"] or 1.0, 1e-6)
    last = max(found["end_s"] - found["start_s"] - step / 2, 0.0)
    wide, high = found["width"], found["height"]
    size = (max(1, round(high * width / wide)), width) if 0 < width < (wide or 0) else None  # scaled as each is decoded
    path = str(lake.local(found["blob"]))
    try:
        with FrameReader(path, size) as reader:
            seen = reader.at([found["start_s"] + min(at, last) for at in times], tolerance_s=step)
    except SourceError as error:
        said = error.message.replace(path, found["blob"])  # where the lake lies on this machine is nobody's business
        raise SourceError(said, code=error.code, fix="`data-engine check` names what is damaged") from error
    return [Image.fromarray(pixels) for pixels in seen]


def _jpeg(picture: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=85)
    return sink.getvalue()


def _blob(video: dict[str, Any]) -> str:
    return str(video["blob"]).rpartition("/")[2].partition(".")[0]


def _place(lake: Snapshot, episode_id: str) -> Any:
    """Where the episode lies among all. Raises ``RequestError`` where it does not."""
    places = lake.places_of("episodes", "episode_id", episode_id)
    if not len(places):
        raise RequestError(f"no episode {episode_id!r} in the lake", code="unknown_episode", fix="see /v1/episodes")
    return places


def _row(lake: Snapshot, episode_id: str) -> dict[str, Any]:
    return lake.episodes().row(int(_place(lake, episode_id)[0]), named=True)


def _others(lake: Snapshot, column: str, value: str, but: int) -> list[str]:
    """The episodes with ``value`` in a column, without the one that lies at ``but``."""
    places = lake.places_of("episodes", column, value)
    places = places[places != but]
    return sorted(lake.episodes()["episode_id"][places].to_list()) if len(places) else []


def _video(lake: Snapshot, episode_id: str, camera: str) -> dict[str, Any]:
    """The episode's video of that camera. Raises ``RequestError`` where a removed episode lies in the same file."""
    videos = _row(lake, episode_id)["videos"] or []
    found = next((each for each in videos if each["camera"] == camera), None)
    if found is None:
        known = ", ".join(each["camera"] for each in videos) or "none"
        raise RequestError(f"{episode_id} has no camera {camera!r}", code="no_camera", fix=f"it has: {known}")
    if found["blob"] in lake.remembered("withheld", lambda: _withheld(lake), ("episodes", "removals")):
        raise RequestError(
            "a removed episode lies in the same file", code="shared_recording", fix="run `data-engine vacuum --erase`"
        )
    return found


def _withheld(lake: Snapshot) -> set[str]:
    gone = lake.episodes(removed=True).join(lake.episodes(), on="episode_id", how="anti")
    return {video["blob"] for videos in gone["videos"].to_list() for video in videos or ()}


def _plain(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values: times as text, NaN as null."""
    return json.loads(rows.write_json()) if len(rows) else []
