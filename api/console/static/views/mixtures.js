// Mixtures: what is in, why, with which weight; what sets two apart; and freezing another.

import { at, get, post } from "../lib/api.js";
import { fill, h, link } from "../lib/dom.js";
import { button, empty, facts, field, head, select, table, tell } from "../lib/parts.js";
import { count, number, percent, plain, short, when } from "../lib/words.js";

export async function show(root, context) {
  const [id, other] = context.args;
  await (other ? apart(root, id, other, context) : id ? one(root, id, context) : all(root, context));
}

async function all(root, { signal, go, writes }) {
  const [{ items }, selections] = await Promise.all([get("mixtures", {}, signal), get("selections", {}, signal)]);
  root.append(head("Mixtures"), items.length ? table([
    { name: "name" }, { name: "mixture_id", title: "id", show: (m) => h("span", { class: "mono" }, short(m.mixture_id)) },
    { name: "episodes", number: true, show: (m) => count(m.episodes) }, { name: "steps", number: true, show: (m) => count(m.steps) },
    { name: "status", show: (m) => h("span", { class: m.status === "broken" ? "tag bad" : "tag" }, m.status) },
    { name: "created_at", title: "frozen", show: (m) => when(m.created_at) },
  ], items.toReversed(), { label: "Mixtures", open: (m) => go(`mixtures/${m.mixture_id}`) }) : empty("None is frozen yet."));
  const newest = [...new Map(selections.items.map((each) => [each.name, each])).values()].reverse();
  root.append(h("h2", {}, "Selections"), newest.length ? table([
    { name: "name" }, { name: "method" }, { name: "episodes", number: true, show: (s) => count(s.episodes) },
    { name: "steps", number: true, show: (s) => count(s.steps) }, { name: "selection_id", title: "id", show: (s) => h("span", { class: "mono" }, s.selection_id) },
  ], newest, { label: "Selections" }) : empty("None is made yet: brush a score, draw a lasso, or select what a search finds."));
  if (writes && newest.length) root.append(freeze(newest, go));
}

function freeze(selections, go) {
  const name = h("input", { placeholder: "name", "aria-label": "Name of the mixture", required: true });
  const kind = select(["probability", "repeat", "choose"], "probability");
  const unit = select(["step", "episode", "dataset"], "step");
  const seed = h("input", { type: "number", value: 0, min: 0, "aria-label": "Seed" });
  const held = h("input", { type: "number", value: 0.1, min: 0, max: 0.9, step: 0.05, "aria-label": "Share held out" });
  const rows = selections.map((each) => ({ each, in: h("input", { type: "checkbox", "aria-label": `take ${each.name}` }),
    weight: h("input", { type: "number", value: 1, min: 0, step: "any", "aria-label": `weight of ${each.name}` }) }));
  return h("section", { class: "freeze" }, h("h2", {}, "Freeze a mixture"), table([
    { name: "take", show: (r) => r.in }, { name: "selection", show: (r) => r.each.name }, { name: "weight", show: (r) => r.weight },
    { name: "episodes", number: true, show: (r) => count(r.each.episodes) },
  ], rows, { label: "Entries" }),
  h("div", { class: "bar" }, field("name", name), field("weights are", kind), field("of a", unit), field("seed", seed), field("held out", held),
    button("Freeze", async () => {
      const entries = rows.filter((r) => r.in.checked).map((r) => ({ selection: r.each.name, weight: Number(r.weight.value) }));
      if (!entries.length) return "take a selection";
      if (!name.value.trim()) { name.focus(); return "name it"; }
      const out = Number(held.value);
      const made = await post("mixtures", { name: name.value.trim(), entries, weight_kind: kind.value, unit: unit.value, seed: Number(seed.value),
        ...(out > 0 ? { splits: { train: Number((1 - out).toFixed(6)), val: out } } : {}) });
      tell(`${made.name} is frozen: ${count(made.episodes)} episodes`);
      go(`mixtures/${made.mixture_id}`);
    }, { class: "main" })));
}

async function one(root, id, { signal, go }) {
  const [mixture, rows, others] = await Promise.all([
    get(`mixtures/${at(id)}`, {}, signal), get(`mixtures/${at(id)}/episodes`, {}, signal), get("mixtures", {}, signal)]);
  const names = mixture.entries.map((each) => each.selection);
  const told = await Promise.all(names.map((name) => get(`selections/${at(name)}`, {}, signal).then(({ items }) => [name, items]).catch(() => [name, null])));
  const reasons = new Map(told.flatMap(([name, items]) => (items ?? []).map((r) => [`${name}/${r.episode_id}/${r.start}/${r.stop}`, r.reason])));
  const inputs = new Map(told.map(([name, items]) => [name, items?.length ? JSON.parse(items[0].inputs) : null]));
  const why = (row) => reasons.get(`${row.selection}/${row.episode_id}/${row.start}/${row.stop}`) ?? null;
  const total = rows.items.reduce((sum, row) => sum + row.weight * (row.stop - row.start), 0) || 1;
  const rest = others.items.filter((each) => each.mixture_id !== mixture.mixture_id && each.status === "frozen");
  root.append(head(mixture.name || "mixture", rest.length ? field("what sets it apart from", select([["", "…"], ...rest.map((m) => [m.mixture_id, `${m.name} ${short(m.mixture_id, 8)}`])], "",
    (other) => other && go(`mixtures/${mixture.mixture_id}/${other}`))) : null),
  h("p", { class: "dim mono" }, mixture.mixture_id),
  h("div", { class: "figures" }, [["ranges", rows.items.length], ["steps", rows.items.reduce((s, r) => s + r.stop - r.start, 0)], ["datasets", Object.keys(mixture.datasets).length]]
    .map(([what, n]) => h("div", {}, h("b", {}, count(n)), h("span", {}, what)))),
  h("div", { class: "columns" },
    facts({ weights: `${mixture.weight_kind}, of a ${mixture.unit}`, seed: mixture.seed, splits: Object.entries(mixture.splits ?? {}).map(([k, v]) => `${k} ${number(v)}`).join(", ") || null,
      "epoch size": mixture.epoch_size, conversions: mixture.conversions?.length ? plain(mixture.conversions) : null }),
    h("div", {}, bars("By dataset", rows.items, (r) => r.dataset, total), bars("By task", rows.items, (r) => r.task ?? "no task", total))),
  h("div", { class: "columns" },
    h("section", {}, h("h2", {}, "What it was made from"), table([{ name: "selection" }, { name: "weight", number: true, show: (e) => number(e.weight) },
      { name: "weigher", show: (e) => plain(e.weigher) }, { name: "method", show: (e) => plain(inputs.get(e.selection)?.method) },
      { name: "chosen from", show: (e) => plain(inputs.get(e.selection)?.where ?? inputs.get(e.selection)?.target) }], mixture.entries, { label: "Entries" })),
    h("section", {}, h("h2", {}, "Evidence"), table([{ name: "scorer" }, { name: "version" }, { name: "fit_id", title: "fit" }], mixture.scorers, { label: "Scorers" }))),
  h("h2", {}, "What is in, and why"));
  const body = h("div", {});
  root.append(body);
  let shown = 200;
  const sorted = rows.items.toSorted((a, b) => b.weight - a.weight);
  const list = () => fill(body, table([
    { name: "episode_id", title: "episode", show: (r) => link(`episodes/${at(r.episode_id)}`, r.episode_id, { class: "mono" }) }, { name: "dataset" }, { name: "task" },
    { name: "split" }, { name: "steps", number: true, show: (r) => `${r.start}–${r.stop}` }, { name: "weight", number: true, show: (r) => number(r.weight) },
    { name: "share", number: true, show: (r) => `${number((100 * r.weight * (r.stop - r.start)) / total, 3)} %` },
    { name: "selection" }, { name: "why", show: (r) => why(r) ?? h("span", { class: "dim" }, "its selection is gone, or newer") },
  ], sorted.slice(0, shown), { label: "Episodes of the mixture", open: (r) => go(`episodes/${at(r.episode_id)}`, { from: r.start, to: r.stop }) }),
  sorted.length > shown ? button(`${count(sorted.length - shown)} more`, async () => { shown += 1000; list(); }) : null);
  list();
  root.append(h("h2", {}, "Normalisation"), Object.entries(mixture.statistics).length ? h("div", {}, Object.entries(mixture.statistics).map(([group, features]) => h("details", {},
    h("summary", {}, group), table([{ name: "feature", show: ([name]) => name }, ...["mean", "std", "q01", "q99"].map((what) => ({ name: what, show: ([, s]) => short(plain(s[what]), 60) }))],
      Object.entries(features), { label: `Statistics of ${group}` })))) : empty("There is none."));
}

/** Shares of the mass (weight times steps) by what `of` says of a row. */
function bars(title, rows, of, total) {
  const mass = new Map();
  for (const row of rows) mass.set(of(row), (mass.get(of(row)) ?? 0) + row.weight * (row.stop - row.start));
  const order = [...mass].sort((a, b) => b[1] - a[1]);
  return h("section", {}, h("h2", {}, title), h("div", { class: "bars" }, order.slice(0, 8).map(([name, value]) => [
    h("span", { title: name }, short(name, 40)), h("span", { class: "share" }, h("i", { style: { width: `${(100 * value) / total}%` } })), h("span", { class: "number" }, percent(value / total))])),
  order.length > 8 ? empty(`and ${count(order.length - 8)} more`) : null);
}

async function apart(root, first, second, { signal }) {
  const found = await get(`mixtures/${at(first)}/diff/${at(second)}`, {}, signal);
  const settings = Object.entries(found.settings);
  const ranges = (title, rows, extra = []) => [h("h2", {}, `${title} (${count(rows.length)})`), rows.length ? table([
    { name: "episode_id", title: "episode", show: (r) => link(`episodes/${at(r.episode_id)}`, r.episode_id, { class: "mono" }) }, { name: "selection" },
    { name: "steps", show: (r) => `${r.start}–${r.stop}` }, ...extra,
  ], rows.slice(0, 500), { label: title }) : empty("None."), rows.length > 500 ? empty(`and ${count(rows.length - 500)} more`) : ""];
  root.append(head("What sets two mixtures apart"),
    h("p", { class: "mono" }, link(`mixtures/${first}`, short(first)), " and ", link(`mixtures/${second}`, short(second))),
    h("p", {}, `${count(found.same)} ranges are the same, with the same weight.`),
    ...(settings.length ? [h("h2", {}, "Settings"), table([{ name: "setting", show: ([name]) => name }, { name: "first", show: ([, v]) => plain(v.first) },
      { name: "second", show: ([, v]) => plain(v.second) }], settings, { label: "Settings" })] : []),
    ...ranges("Only in the first", found.only_first), ...ranges("Only in the second", found.only_second),
    ...ranges("Changed", found.changed, [{ name: "weight", number: true, show: (r) => `${number(r.weight)} → ${number(r.other_weight)}` }, { name: "content", show: (r) => (r.content ? "changed" : "the same") }]));
}
