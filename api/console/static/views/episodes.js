// Episodes: found by an expression, by what is seen, or as the like of another; and one of them, played.

import { at, get, held, post } from "../lib/api.js";
import { fill, h, link } from "../lib/dom.js";
import { button, empty, facts, field, head, problem, select, table, tell } from "../lib/parts.js";
import { player } from "../lib/player.js";
import { count, number, plain, seconds, short, when } from "../lib/words.js";

const FACTS = ["episode_id", "dataset", "task", "operator", "success", "n_steps", "duration_s"];

export async function show(root, context) {
  await (context.args[0] ? one(root, context) : all(root, context));
}

async function all(root, { params, signal, go, writes }) {
  const there = await held();
  const headlines = there.scores.filter((each) => !each.name.includes("."));
  const shown = params.columns ? params.columns.split(",") : headlines.slice(0, 4).map((each) => each.name);
  const where = h("input", { class: "wide mono", value: params.where ?? "", placeholder: "success AND percentile(composite) > 50", "aria-label": "Expression",
    spellcheck: "false", list: "known" });
  const known = h("datalist", { id: "known" }, [...there.columns, ...there.scores.map((each) => each.name)].map((name) => h("option", { value: name })));
  const text = h("input", { value: params.text ?? "", placeholder: "the cup is on the shelf", "aria-label": "Text" });
  const space = select(there.spaces.map((each) => each.space), params.space, null, { "aria-label": "Space" });
  const said = h("p", { class: "dim", role: "status" }, "…");
  const found = h("div", {});
  const state = { where: params.where, order: params.order, columns: params.columns, text: params.text, like: params.like, space: params.space };
  const search = (event) => {
    event.preventDefault();
    go("episodes", { ...state, like: undefined, where: where.value.trim(), text: text.value.trim(), space: text.value.trim() ? space.value : undefined });
  };
  const name = h("input", { placeholder: "name", "aria-label": "Name of the selection", size: 14 });
  const keep = button("Select these", async () => {
    if (!name.value.trim()) { name.focus(); return "name it"; }
    const body = { recipe: { name: name.value.trim(), method: "filter", ...(state.where ? { where: state.where } : {}) } };
    const made = await post("selections", body);
    tell(`${made.name}: ${count(made.chosen)} episodes`);
    return `${count(made.chosen)} selected`;
  });
  const scores = h("details", {}, h("summary", {}, "Scores shown"), there.scores.map((each) => h("label", {}, h("input", { type: "checkbox", value: each.name,
    checked: shown.includes(each.name), onchange: (e) => go("episodes", { ...state, columns: (e.target.checked ? [...shown, each.name]
      : shown.filter((other) => other !== each.name)).join(",") }) }), ` ${each.name} `)));
  root.append(head("Episodes", writes && !params.text && !params.like ? [name, keep] : null),
    h("form", { class: "bar", role: "search", onsubmit: search }, h("div", { class: "grow" }, field("where", where), known),
      there.spaces.length ? [field("what is seen", text), field("in", space)] : null, h("button", { class: "main" }, "Search")),
    scores, said, found);

  if (params.text || params.like) {
    const body = { where: params.where || undefined, space: params.space || there.spaces[0]?.space, k: 100,
      ...(params.like ? { episode: params.like } : { text: params.text }) };
    const { items } = await post("search", body, signal);
    fill(said, params.like ? ["like ", link(`episodes/${at(params.like)}`, params.like), `, in ${body.space}`] : `nearest to “${params.text}”`);
    fill(found, hits(items, go));
    return;
  }
  const columns = [...FACTS, ...shown];
  let shownRows = [];
  const page = async (after) => {
    const answer = await get("episodes", { where: params.where, order_by: params.order, columns: columns.join(","), limit: 100, after }, signal);
    shownRows = [...shownRows, ...answer.items];
    fill(said, `${count(answer.matched)} of ${count(there.episodes)} episodes`,
      answer.undecided ? `; ${count(answer.undecided)} left out, for a value that the expression looks at is missing` : "");
    const order = (name) => go("episodes", { ...state, order: name });
    fill(found, shownRows.length ? table([
      { name: "episode_id", title: "episode", show: (r) => h("span", { class: "mono" }, r.episode_id) },
      { name: "dataset", order: "dataset" }, { name: "task", order: "task" }, { name: "operator", order: "operator" },
      { name: "success", order: "success", show: (r) => plain(r.success) },
      { name: "n_steps", title: "steps", number: true, order: "n_steps", show: (r) => count(r.n_steps) },
      { name: "duration_s", title: "lasts", number: true, order: "duration_s", show: (r) => seconds(r.duration_s) },
      ...shown.map((score) => ({ name: score, number: true, order: score, show: (r) => number(r[score]) })),
    ], shownRows, { label: "Episodes", order: params.order, sort: order, open: (r) => go(`episodes/${at(r.episode_id)}`) }) : empty("No episode matches."),
    answer.next ? button("More", () => page(answer.next), { class: "more" }) : null);
  };
  try {
    await page();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    fill(said, problem(error));
  }
}

const hits = (items, go) => items.length ? table([
  { name: "episode_id", title: "episode", show: (r) => h("span", { class: "mono" }, r.episode_id) }, { name: "dataset" }, { name: "task" },
  { name: "operator" }, { name: "success", show: (r) => plain(r.success) },
  { name: "similarity", number: true, show: (r) => number(r.similarity) },
  { name: "where", show: (r) => (r.start === undefined || r.start === null ? "–" : `${r.camera ?? ""} ${r.start}–${r.stop}`) },
], items, { label: "Episodes found", open: (r) => go(`episodes/${at(r.episode_id)}`, r.start === undefined || r.start === null ? {} : { from: r.start, to: r.stop }) })
  : empty("Nothing is near.");

async function one(root, { args: [id], params, signal, writes }) {
  const { episode, scores, annotations, lineage } = await get(`episodes/${at(id)}`, {}, signal);
  const there = await held();
  root.append(head(episode.task ?? episode.source_key,
    there.spaces.map(({ space }) => link(`episodes?${new URLSearchParams({ like: id, space })}`, `Like this (${space})`))),
  h("p", { class: "dim" }, h("span", { class: "mono" }, id), " · ", link(`datasets/${at(episode.dataset)}`, episode.dataset), ` · ${count(episode.n_steps)} steps · ${seconds(episode.duration_s)}`,
    episode.success === null ? "" : episode.success ? " · succeeded" : " · failed", episode.operator ? ` · by ${episode.operator}` : ""));
  const playing = h("div", {});
  root.append(playing);
  const range = params.from !== undefined ? [Number(params.from), Number(params.to)] : null;
  let shown = null; // where its steps cannot be read, what is known of it is shown all the same
  try {
    shown = await player(playing, episode, { annotations, signal, range });
  } catch (error) {
    if (signal.aborted) throw error;
    fill(playing, problem(error));
  }
  signal.addEventListener("abort", () => shown?.stop());

  const headline = new Set(there.scores.map((each) => each.name));
  root.append(h("div", { class: "columns" },
    h("section", {}, h("h2", {}, "Scores"), scores.length ? table([
      { name: "metric", title: "score", show: (s) => (headline.has(s.scorer) && !headline.has(`${s.scorer}.${s.metric}`) ? s.scorer : `${s.scorer}.${s.metric}`) },
      { name: "value", number: true, show: (s) => h("span", { title: s.unit ?? "" }, number(s.value)) },
      { name: "percentile", number: true, show: (s) => (s.percentile === null ? "–" : s.percentile.toFixed(0)) },
      { name: "better", show: (s) => ({ higher: "higher is better", lower: "lower is better" })[s.better] ?? "neither" },
      { name: "reason", show: (s) => h("span", { title: s.reason ?? "" }, short(s.reason, 60)) },
    ], scores, { label: "Scores" }) : empty("Nothing has measured it yet.")),
    h("section", {}, h("h2", {}, "Annotations"), annotations.length ? table([
      { name: "kind" }, { name: "steps", show: (a) => h("button", { class: "plain", onclick: () => shown?.loop(a.start, a.stop) }, `${a.start}–${a.stop}`) },
      { name: "said", show: (a) => [a.label, a.text, a.value !== null && a.kind !== "verdict" ? number(a.value) : null].filter(Boolean).join(" · ") || "–" },
      { name: "reason", show: (a) => short(a.reason, 40) }, { name: "producer" },
    ], annotations, { label: "Annotations" }) : empty("Nobody has said anything of it."),
    writes && shown ? annotate(id, episode, shown) : null,
    h("h2", {}, "Where it comes from"), facts({
      "in the source": episode.source_key, embodiment: episode.embodiment, "control mode": episode.control_mode, scene: episode.scene, provenance: episode.provenance,
      language: episode.language?.length ? plain(episode.language) : null, labels: episode.labels?.length ? plain(episode.labels) : null,
      ingested: when(episode.ingested_at), run: lineage.run_id ? link(`runs/${at(lineage.run_id)}`, lineage.run_id) : null,
      parent: lineage.parent ? link(`episodes/${at(lineage.parent)}`, lineage.parent) : null,
      children: lineage.children.length ? lineage.children.map((each) => link(`episodes/${at(each)}`, `${each} `)) : null,
      copies: lineage.copies.length ? lineage.copies.map((each) => link(`episodes/${at(each)}`, `${each} `)) : null,
      "chosen by": lineage.selections.length ? lineage.selections.map((s) => h("div", {}, `${s.name}: place ${s.rank + 1}, weight ${number(s.weight)}`)) : null,
      "content hash": h("span", { class: "mono" }, short(episode.content_hash, 24)),
    }))));
}

function annotate(id, episode, shown) {
  const label = h("input", { placeholder: "label", "aria-label": "Label", size: 12 });
  const kind = h("input", { value: "segment", "aria-label": "Kind", size: 9 });
  const from = h("input", { type: "number", min: 0, max: episode.n_steps, value: 0, "aria-label": "First step" });
  const to = h("input", { type: "number", min: 1, max: episode.n_steps, value: episode.n_steps, "aria-label": "Step after the last" });
  return h("div", { class: "bar" }, kind, label, from, h("button", { type: "button", onclick: () => { from.value = shown.step(); } }, "from here"), to,
    h("button", { type: "button", onclick: () => { to.value = Math.min(shown.step() + 1, episode.n_steps); } }, "to here"),
    button("Annotate", async () => {
      const said = { episode_id: id, kind: kind.value, start: Number(from.value), stop: Number(to.value), ...(label.value ? { label: label.value } : {}) };
      const { added } = await post("annotations", { items: [said] });
      return added ? "written down" : "it was there already";
    }));
}
