// Runs: every one of the lake; one of them, watched while it works; and a way to start another.

import { at, forget, get, held, post } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { button, empty, facts, field, head, problem, select, table } from "../lib/parts.js";
import { when } from "../lib/words.js";

const STARTS = {
  score: { verb: "score", scorers: [{ scorer: "integrity" }] },
  embed: { verb: "embed", space: { name: "trajectory", encoder: "trajectory" } },
  label: { verb: "label", labellers: [{ labeller: "keyposes" }] },
  ingest: { verb: "ingest", source: { uri: "s3://bucket/set", name: "name" } },
  select: { verb: "select", recipe: { name: "near", method: "transport", space: "trajectory", target: { where: "success" }, budget: 0.5 } },
  mix: { verb: "mix", recipe: { name: "training", entries: [{ selection: "near", weight: 1 }] } },
  export: { verb: "export", mixture: "training", export: { format: "lerobot_v3", uri: "s3://bucket/out" } },
  curate: { verb: "curate", recipe: { source: { uri: "s3://bucket/set" }, select: [{ name: "all" }] } },
};
const state = (value) => h("span", { class: `tag ${value}` }, value);

export async function show(root, context) {
  await (context.args[0] ? one(root, context) : all(root, context));
}

const LOOK_MS = 3000;

async function all(root, { signal, go, writes }) {
  const list = h("div", {});
  const wrong = h("div", {});
  const plan = h("div", {});
  const look = async () => {
    const { items } = await get("runs", { limit: 500 }, signal);
    fill(list, items.length ? table([
      { name: "started_at", title: "started", show: (r) => when(r.started_at) }, { name: "verb" }, { name: "state", show: (r) => state(r.state) },
      { name: "took", number: true, show: (r) => took(r) }, { name: "run_id", title: "run", show: (r) => h("span", { class: "mono" }, r.run_id) }, { name: "error" },
    ], items.toReversed(), { label: "Runs", open: (r) => go(`runs/${at(r.run_id)}`) }) : empty("Nothing has run yet."));
    return items.some((each) => each.state === "running");
  };
  root.append(head("Runs"), writes ? start(go) : "", wrong, plan, list);
  const watch = async () => {
    let going = true;
    try {
      going = await look();
      fill(wrong);
    } catch (error) {
      if (!signal.aborted) fill(wrong, problem(error)); // what was seen last stays, and it is asked again
    }
    if (signal.aborted) return;
    const timer = setTimeout(watch, going ? LOOK_MS : 5 * LOOK_MS);
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  };
  await Promise.all([watch(), schedules(plan, { signal, writes })]);
}

/** What the service begins by itself, and what it missed. */
async function schedules(box, { signal, writes }) {
  const { standing, why, items } = await get("schedules", {}, signal);
  const held = items.filter((each) => each.state !== "removed");
  if (!held.length) return void fill(box);
  const ask = (each, what) => button(what, async () => {
    await post(`schedules/${at(each.name)}/${what}`, {});
    await schedules(box, { signal, writes });
  });
  fill(box, h("h2", {}, "Schedules"), standing === "up" ? null : h("p", { class: "dim" }, `Their keeper is ${standing}${why ? `: ${why}` : ""}.`), table([
    { name: "name" }, { name: "when" }, { name: "state", show: (s) => state(s.state) }, { name: "next_due", title: "next", show: (s) => when(s.next_due) },
    { name: "last", show: (s) => (s.last ? [state(s.last.state), ` ${when(s.last.started_at)}`] : "–") },
    { name: "passed_over", title: "missed since", show: (s) => s.passed_over.map((each) => h("div", {}, each)) }, { name: "by" },
    ...(writes ? [{ name: "do", title: "", show: (s) => [ask(s, s.state === "paused" ? "resume" : "pause"), ask(s, "run")] }] : []),
  ], held, { label: "Schedules" }), h("h2", {}, "Runs"));
}

function took({ started_at: began, ended_at: ended }) {
  if (!began || !ended) return "–";
  return `${((new Date(ended) - new Date(began)) / 1000).toFixed(1)} s`;
}

function start(go) {
  const work = h("textarea", { spellcheck: "false", "aria-label": "Work", value: JSON.stringify(STARTS.score, null, 2) });
  const verb = select(Object.keys(STARTS), "score", (name) => { work.value = JSON.stringify(STARTS[name], null, 2); }, { "aria-label": "Verb" });
  return h("details", { class: "start" }, h("summary", {}, "Start a run"), h("div", { class: "bar" }, field("verb", verb)), work,
    h("div", { class: "bar" }, button("Start", async () => {
      let body;
      try {
        body = JSON.parse(work.value);
      } catch (error) {
        throw new Error(`that is no JSON: ${error.message}`);
      }
      go(`runs/${at((await post("runs", body)).run_id)}`);
    }, { class: "main" })));
}

async function one(root, { args: [id], signal, writes, go }) {
  let run;
  try {
    run = await get(`runs/${at(id)}`, {}, signal);
  } catch (error) {
    if (error.code !== "unknown_run") throw error;
    return recorded(root, id, signal);
  }
  const what = h("div", {});
  const bar = h("p", { class: "dim", role: "status" });
  const log = h("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const answer = h("div", {});
  const cancel = writes ? button("Cancel", async () => { await post(`runs/${at(id)}/cancel`, {}); return "asked to end"; }) : null;
  const again = writes ? button("Start again", async () => go(`runs/${at((await post("runs", run.work)).run_id)}`)) : null;
  const actions = h("span", {});
  const shown = (now) => {
    run = now;
    const over = ["completed", "failed", "cancelled"].includes(run.state);
    fill(what, facts({ state: state(run.state), verb: run.verb, "asked by": run.by, asked: when(run.asked_at), started: when(run.started_at), ended: when(run.ended_at) }));
    fill(actions, over ? again : cancel);
    fill(answer, run.error ? problem({ message: run.error.message, fix: run.error.fix }) : null,
      run.result ? [h("h2", {}, "Result"), h("pre", {}, JSON.stringify(run.result, null, 1).slice(0, 100000))] : null);
    if (over) forget();
    return over;
  };
  root.append(head(`Run: ${run.verb}`, actions), h("p", { class: "dim mono" }, id), what, bar, answer, h("h2", {}, "Log"), log,
    h("details", {}, h("summary", {}, "What was asked"), h("pre", {}, JSON.stringify(run.work, null, 1))));
  const follow = () => {
    fill(log);
    const events = new EventSource(`/v1/runs/${at(id)}/events`);
    signal.addEventListener("abort", () => events.close());
    events.onerror = () => events.readyState === EventSource.CLOSED && later(); // otherwise it asks again by itself
    events.addEventListener("state", (event) => { if (shown(JSON.parse(event.data))) events.onerror = () => events.close(); });
    events.addEventListener("log", (event) => {
      const stage = event.data.match(/^(.+): (\d+) of (\d+)( .*)?$/);
      if (stage) fill(bar, h("progress", { max: stage[3], value: Number(stage[2]), "aria-label": stage[1] }), ` ${event.data}`);
      const low = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.append(document.createTextNode(`${event.data}\n`));
      while (log.childNodes.length > 5000) log.firstChild.remove();
      if (low) log.scrollTop = log.scrollHeight;
    });
  };
  const later = () => { // the service answered with an error: it starts again, or the key counts no more
    const timer = setTimeout(async () => {
      try {
        shown(await get(`runs/${at(id)}`, {}, signal));
        follow();
      } catch (error) {
        if (signal.aborted) return;
        fill(bar, problem(error));
        later();
      }
    }, LOOK_MS);
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  };
  shown(run);
  follow();
}

async function recorded(root, id, signal) {
  const { items } = await get("runs", {}, signal);
  const run = items.find((each) => each.run_id === id);
  root.append(head(run ? `Run: ${run.verb}` : "Run"), h("p", { class: "dim mono" }, id), run
    ? facts({ state: state(run.state), started: when(run.started_at), ended: when(run.ended_at), took: took(run), error: run.error })
    : empty("The lake knows no such run."), run ? empty("It was not started by this service, so its log is not here.") : "");
}
