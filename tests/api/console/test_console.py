"""The console in a real browser, before a real server over a real lake: what a person does, done by hand and keys."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager

import pytest

from api.cli import main
from storage import keys
from storage.lake import Lake
from tests.api.service.conftest import serving
from tests.recordings import write_robomimic

playwright = pytest.importorskip("playwright.sync_api", reason="the browser's driver, playwright, is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=\"document.title='taken'\"> & </td>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")


@pytest.fixture(scope="module")
def service(curated, tmp_path_factory):
    """The curated lake, with a second dataset whose names would be markup."""
    folder = tmp_path_factory.mktemp("console")
    shutil.copytree(curated, folder / "lake")
    source = write_robomimic(folder / "odd.hdf5", episodes=3, seed=5, task=HOSTILE)
    with pytest.raises(SystemExit) as ended:
        main(["ingest", str(source), "--dataset", "odd", "--lake", str(folder / "lake"), "--json"])
        raise SystemExit(0)
    assert not ended.value.code
    with serving(folder / "lake") as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(browser, service, scope="curate"):
    """A page of a person who is signed in. Whatever goes wrong in it, and whatever it asks of others, is an error."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", lambda said: said.type == "error" and "status of" not in said.text and wrong.append(said.text))
    page.on("request", lambda asked: asked.url.startswith(service.url) or wrong.append(f"asked {asked.url}"))
    try:
        page.goto(f"{service.url}/console/")
        page.get_by_label("Key").fill(service.tokens[scope])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Datasets").wait_for()
        yield page
        assert not wrong, wrong
    finally:
        context.close()


def until(page, script, given=None):
    """Wait for what a script says to become true; the driver's own way needs ``eval``, which the page forbids."""
    for _ in range(1000):
        if page.evaluate(script, given):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never: {script}")


def rows(page, label):
    return page.get_by_role("table", name=label, exact=True).locator("tbody tr")


def test_sign_in_wrong_right_and_out(browser, service):
    with opened(browser, service) as page:
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert page.evaluate("document.cookie + localStorage.getItem('key')") == "null"
        page.reload()
        assert rows(page, "Datasets").first.inner_text().startswith("odd")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key").fill("de_wrong")
        page.keyboard.press("Enter")
        assert "not known" in page.get_by_role("alert").inner_text()
        page.goto(f"{service.url}/console/#/episodes")
        page.get_by_label("Key").wait_for()
        assert not page.context.cookies()


def test_a_dataset_shows_its_receipt(browser, service):
    with opened(browser, service) as page:
        rows(page, "Datasets").filter(has_text="reach").click()
        assert "observation.state" in rows(page, "Features").first.inner_text()
        rows(page, "Receipts").first.click()
        rows(page, "Counts").first.wait_for()
        assert rows(page, "Counts").first.locator("td").all_inner_texts() == ["episodes", "12", "12"]


def test_text_of_a_lake_is_text_of_the_page(browser, service):
    with opened(browser, service) as page:
        page.goto(f"{service.url}/console/#/episodes?where=dataset%20%3D%20'odd'")
        row = rows(page, "Episodes").first
        assert HOSTILE in row.inner_text()
        row.click()
        assert page.get_by_role("heading", level=1).inner_text() == HOSTILE
        page.get_by_role("button", name="Play").wait_for()  # without a camera it plays the curves
        assert page.locator("img").count() == 0 and page.title() != "taken"
        page.evaluate("location.hash = '#/episodes/' + encodeURIComponent('<svg onload=alert(1)>')")
        page.get_by_role("alert").wait_for()
        assert page.locator("main svg").count() == 0


def test_search_and_open_by_keys(browser, service):
    with opened(browser, service) as page:
        page.keyboard.press("g")
        page.keyboard.press("e")
        rows(page, "Episodes").first.wait_for()
        page.keyboard.press("/")
        page.keyboard.type("operator = 'steady' AND nothing > 1")
        page.keyboard.press("Enter")
        assert "nothing" in page.get_by_role("alert").inner_text()
        page.get_by_label("Expression").fill("operator = 'steady' AND action_divergence IS NOT NULL")
        page.keyboard.press("Enter")
        page.get_by_text("4 of 15 episodes").wait_for()
        assert rows(page, "Episodes").count() == 4
        page.get_by_role("button", name="steps").click()  # the longest first
        until(page, "location.hash.includes('order=-n_steps')")
        rows(page, "Episodes").nth(3).wait_for()
        steps = [int(each.locator("td").nth(5).inner_text()) for each in rows(page, "Episodes").all()]
        assert steps == sorted(steps, reverse=True)
        rows(page, "Episodes").first.focus()
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Play").wait_for()
        page.get_by_role("link", name="Like this (trajectory)").click()
        rows(page, "Episodes found").first.wait_for()
        likeness = [float(each.locator("td").nth(5).inner_text()) for each in rows(page, "Episodes found").all()]
        assert len(likeness) > 3 and likeness == sorted(likeness, reverse=True)


def test_play_moves_video_playhead_and_clock_together(browser, service):
    episode = service.lake.episodes(dataset="reach").row(3, named=True)
    with opened(browser, service) as page:
        page.goto(f"{service.url}/console/#/episodes/{episode['episode_id']}")
        page.get_by_role("button", name="Play").wait_for()
        start = episode["videos"][0]["start_s"]
        until(page, "document.querySelector('video').readyState >= 2")
        page.keyboard.press("Space")
        until(page, f"document.querySelector('video').currentTime > {start} + 0.3")
        page.keyboard.press("Space")
        page.get_by_role("button", name="Play").wait_for()
        shown = page.evaluate(
            """() => ({video: document.querySelector("video").currentTime,
                  clock: document.querySelector(".clock").textContent,
                  heads: [...document.querySelectorAll('.playhead')].map((each) => each.style.transform)})"""
        )
        step, seconds = re.fullmatch(r"step (\d+) · ([\d.]+) s", shown["clock"]).groups()
        assert abs(shown["video"] - start - float(seconds)) < 0.15
        assert len(shown["heads"]) >= 3 and len(set(shown["heads"])) == 1 and shown["heads"][0] != "translateX(0px)"
        for key, by in (("ArrowRight", 1), (",", 0), ("Shift+ArrowRight", 10)):
            page.keyboard.press(key)
            wanted = int(step) + by
            assert page.locator(".clock").inner_text().startswith(f"step {wanted} ")
        until(page, "!document.querySelector('video').seeking")
        ((_, steps),) = service.lake.steps(service.lake.episodes().filter(_is(episode)), ["timestamp"])
        time = steps["timestamp"]
        at = time[wanted].as_py()
        assert abs(page.evaluate("document.querySelector('video').currentTime") - start - at) < 0.01
        box = page.locator(".u-over").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)  # a click on a curve goes there
        middle = page.evaluate("Number(document.querySelector('input[aria-label=Time]').value)")
        assert abs(middle - time[-1].as_py() / 2) < 0.1
        page.get_by_label("First step").wait_for()
        page.get_by_label("Label").fill("grasp")
        page.get_by_role("button", name="from here").click()
        page.get_by_role("button", name="Annotate").click()
        page.get_by_text("written down").wait_for()
        (said,) = service.lake.scan("annotations").collect().filter(_is(episode)).to_dicts()
        assert (said["label"], said["producer"]) == ("grasp", "person:curateer") and said["start"] > 0


def _is(episode):
    import polars as pl

    return pl.col("episode_id") == episode["episode_id"]


def test_brush_scores_into_an_expression_and_freeze_what_it_selects(browser, service):
    with opened(browser, service) as page:
        page.keyboard.press("g")
        page.keyboard.press("s")
        drawing = page.get_by_role("img", name="Histogram of action_divergence")
        box = drawing.bounding_box()
        page.mouse.move(box["x"] + 1, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40, steps=4)
        page.mouse.up()
        until(page, "document.querySelector('[aria-label=Expression]').value.includes('BETWEEN')")
        said = page.get_by_label("Expression").input_value()
        assert re.fullmatch(r"action_divergence BETWEEN [\d.e-]+ AND [\d.e-]+", said)
        with service.client() as client:
            matched = client.get("/v1/episodes", params={"where": said}).json()["matched"]
        assert 0 < matched < 12
        page.get_by_text(f"{matched} of 15 episodes").wait_for()
        page.get_by_label("Name of the selection").fill("brushed")
        page.get_by_role("button", name="Select these").click()
        page.get_by_text(f"{matched} selected").wait_for()

        page.keyboard.press("Escape")
        page.get_by_role("link", name="Mixtures").click()
        page.get_by_label("take brushed").check()
        page.get_by_label("weight of brushed").fill("2")
        page.get_by_label("Name of the mixture").fill("from_console")
        page.get_by_role("button", name="Freeze").click()
        page.get_by_role("heading", name="from_console").wait_for()
        rows(page, "Episodes of the mixture").first.wait_for()
        assert rows(page, "Episodes of the mixture").count() == matched
        assert "it qualifies" in rows(page, "Episodes of the mixture").first.inner_text()
        assert said in rows(page, "Entries").first.inner_text()  # why it is in
        page.get_by_label("what sets it apart from").select_option(index=1)
        page.get_by_text("Only in the first").wait_for()
        assert "brushed" in page.get_by_role("table", name="Settings").inner_text()
    with service.client() as client:
        frozen = client.get("/v1/mixtures").json()["items"][-1]
        assert (frozen["name"], frozen["episodes"]) == ("from_console", matched)


def test_a_lasso_on_the_map_selects(browser, service):
    with opened(browser, service) as page:
        page.goto(f"{service.url}/console/#/map?colour=operator")
        page.get_by_text("12 episodes.").wait_for()
        assert "steady 4" in page.locator(".legend").inner_text()
        box = page.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        for x, y in ((1, 0), (1, 1), (0, 1)):
            page.mouse.move(box["x"] + 2 + x * (box["width"] - 4), box["y"] + 2 + y * (box["height"] - 4), steps=3)
        page.mouse.up()
        page.get_by_text("12 episodes in the lasso").wait_for()
        page.get_by_label("Name of the selection").fill("ringed")
        page.get_by_role("button", name="Select these").click()
        page.get_by_text("12 selected").wait_for()
    with service.client() as client:
        assert client.get("/v1/selections/ringed").json()["matched"] == 12


def test_the_queue_is_judged_by_keys(browser, service):
    with opened(browser, service) as page:
        page.keyboard.press("g")
        page.keyboard.press("v")
        page.get_by_role("button", name="keep").wait_for()
        first = page.locator("li[aria-current]").inner_text()
        looped = page.get_by_title("stop looping").inner_text()
        page.keyboard.press("d")
        until(page, "(was) => document.querySelector('li[aria-current]')?.innerText !== was", first)
        assert page.locator("ol li").first.inner_text().startswith("drop")
        page.get_by_role("table", name="Reviewers").wait_for()
        assert rows(page, "Reviewers").first.locator("td").all_inner_texts()[:2] == ["curateer", "1"]
        start, stop = map(int, re.search(r"(\d+)–(\d+)", looped).groups())
        with service.client("admin") as other:  # who says the same of the same flag
            items = other.get("/v1/review/queue", params={"limit": 500}).json()["items"]
            (flag,) = (each for each in items if each["verdicts"])
            said = {name: flag[name] for name in ("episode_id", "reason", "start", "stop")} | {"verdict": "drop"}
            assert other.post("/v1/review/verdicts", json={"items": [said]}).json()["added"] == 1
        page.reload()
        page.get_by_text("adminer and curateer agree on 100 % of 1").wait_for()
        flagged = rows(page, "Reasons").filter(has_text=flag["reason"])
        assert flag["reason"] == "unflagged" or "100 %" in flagged.inner_text()
    said = service.lake.scan("annotations").collect().filter(kind="verdict").sort("producer")
    assert said["producer"].to_list() == ["person:adminer", "person:curateer"]
    assert said.select("label", "start", "stop").unique().rows() == [("drop", start, stop)]


def test_a_run_is_started_watched_and_seen_to_finish(browser, service):
    with opened(browser, service) as page:
        page.keyboard.press("g")
        page.keyboard.press("r")
        page.get_by_text("Start a run").click()
        page.get_by_label("Work").fill('{"verb": "score", "scorers": [{"scorer": "integrity"}]}')
        page.get_by_role("button", name="Start").click()
        page.locator("dl .tag.completed").wait_for(timeout=200_000)
        assert '"scored": 15' in page.get_by_role("main").inner_text()
        until(page, "() => { const bar = document.querySelector('progress'); return bar?.value === bar?.max && bar; }")
        said = page.get_by_label("Log").inner_text()
        assert re.search(r"score integrity: 0 of (\d+)\n(.|\n)*score integrity: \1 of \1", said)  # as it went
        run = page.url.rpartition("/")[2]
        page.get_by_role("link", name="Runs").click()
        assert "completed" in rows(page, "Runs").filter(has_text=run).inner_text()
    scores = Lake.open(service.lake.uri).scan("scores").collect().filter(scorer="integrity")
    assert scores["unit_id"].n_unique() == 15 and run in set(scores["run_id"])


def test_who_may_only_read_is_offered_nothing_to_write(browser, service):
    with opened(browser, service, "read") as page:
        for view, what in (
            ("runs", "Start a run"),
            ("mixtures", "Freeze"),
            ("scores", "Select these"),
            ("review", "drop"),
        ):
            page.goto(f"{service.url}/console/#/{view}")
            page.get_by_role("heading", level=1).wait_for()
            page.wait_for_load_state("networkidle")
            assert page.get_by_role("button", name=what).count() == 0


def test_a_key_that_ends_mid_work_asks_for_another_and_the_view_is_there_again(browser, service):
    key, service.tokens["guest"] = keys.make(service.lake, "guest", "curate")
    service.app.state.live.refresh()
    with opened(browser, service, "guest") as page:
        page.goto(f"{service.url}/console/#/review")
        page.get_by_role("button", name="keep").wait_for()
        keys.revoke(service.lake, key.id)
        service.app.state.live.refresh()
        page.keyboard.press("d")
        page.get_by_text("The session has ended.").wait_for()
        assert page.locator("video").count() == 0
        page.get_by_label("Key").fill(service.tokens["curate"])
        page.keyboard.press("Enter")
        page.get_by_role("button", name="keep").wait_for()
        assert "curateer" in page.get_by_role("navigation").inner_text()
    assert service.lake.scan("annotations").collect().filter(producer="person:guest").is_empty()


def test_a_map_and_a_histogram_are_used_without_a_pointer(browser, service):
    with opened(browser, service) as page:
        page.goto(f"{service.url}/console/#/map?colour=operator")
        page.get_by_role("button", name="steady 4").focus()
        page.keyboard.press("Enter")
        page.get_by_text("4 episodes in the lasso").wait_for()
        page.keyboard.press("g")
        page.keyboard.press("s")
        page.get_by_label("action_divergence to").focus()
        page.keyboard.type("0.5")
        page.keyboard.press("Tab")
        until(page, "document.querySelector('[aria-label=Expression]').value.startsWith('action_divergence <= 0.5')")


@pytest.mark.parametrize("filled", [False, True])
def test_a_lake_without_anything_and_one_without_scores_and_video_have_every_view(browser, tmp_path, filled):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    if filled:
        source = write_robomimic(tmp_path / "odd.hdf5", episodes=2, task="a_name_without_an_end" * 20)
        with pytest.raises(SystemExit) as ended:
            main(["ingest", str(source), "--dataset", "odd", "--lake", lake.uri, "--json"])
            raise SystemExit(0)
        assert not ended.value.code
    with serving(tmp_path / "lake") as empty, opened(browser, empty) as page:
        views = ["datasets", "episodes", "scores", "map", "mixtures", "review", "runs"]
        if filled:
            views += ["datasets/odd", f"episodes/{lake.episodes()['episode_id'][0]}"]
        for number, view in enumerate(views):
            page.goto(f"{empty.url}/console/?{number}#/{view}")  # loaded anew
            page.get_by_role("heading", level=1).first.wait_for()
            page.wait_for_load_state("networkidle")
            assert page.get_by_role("alert").count() == 0, view
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_an_episode_whose_steps_are_lost_shows_what_is_known_of_it(browser, curated, tmp_path):
    shutil.copytree(curated, tmp_path / "lake")
    lake = Lake.open(str(tmp_path / "lake"))
    row = lake.episodes().row(0, named=True)
    lake.remove(row["steps_file"])
    with serving(tmp_path / "lake") as service, opened(browser, service) as page:
        page.goto(f"{service.url}/console/#/episodes/{row['episode_id']}")
        assert "missing" in page.get_by_role("alert").inner_text()
        assert "integrity" in page.get_by_role("table", name="Scores").inner_text()
