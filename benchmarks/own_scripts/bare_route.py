"""The limit of what a route can do here: FastAPI with a dict to look up in and a table to filter, and nothing else.

python bare_route.py LAKE PORT
"""

import sys

import uvicorn
from fastapi import FastAPI

from storage.lake import Lake

rows = Lake.open(sys.argv[1]).episodes(columns=["episode_id", "dataset", "task", "n_steps", "success"])
places = {name: place for place, name in enumerate(rows["episode_id"])}
app = FastAPI()


@app.get("/bare/{episode_id}")
def bare(episode_id: str) -> dict[str, object]:
    return rows.row(places[episode_id], named=True)


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
