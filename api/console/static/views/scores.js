// Scores: how each is distributed, and brushes that become an expression.

import { at, get, held, post } from "../lib/api.js";
import { fill, h, settled } from "../lib/dom.js";
import { histogram } from "../lib/histogram.js";
import { button, empty, field, head, problem, tell } from "../lib/parts.js";
import { count, number } from "../lib/words.js";

const FIRST = 8;

export async function show(root, { params, signal, go, writes }) {
  const there = await held();
  const headlines = there.scores.filter((each) => !each.name.includes(".")).slice(0, FIRST).map((each) => each.name);
  const shown = params.scores ? params.scores.split(",") : headlines;
  const base = h("input", { class: "wide mono", value: params.where ?? "", placeholder: "all episodes", "aria-label": "Among" });
  const made = h("input", { class: "wide mono", readonly: true, "aria-label": "Expression" });
  const said = h("p", { class: "dim", role: "status" });
  const grid = h("div", { class: "histograms" });
  const brushes = new Map();
  const parts = new Map();

  const of = (name, [low, high]) => {
    if (low === null) return `${name} <= ${number(high, 6)}`;
    return high === null ? `${name} >= ${number(low, 6)}` : `${name} BETWEEN ${number(low, 6)} AND ${number(high, 6)}`;
  };
  const but = (without) => [params.where ? `(${params.where})` : null, ...[...brushes].filter(([name]) => name !== without).map(([name, range]) => of(name, range))]
    .filter(Boolean).join(" AND ");
  let asked = 0;
  const refresh = async () => {
    const mine = ++asked;
    made.value = but(null);
    const [matching] = await Promise.all([
      get("episodes", { where: made.value, columns: "episode_id", limit: 1 }, signal),
      ...[...parts].map(async ([name, part]) => {
        const left = await get(`scores/${at(name)}/distribution`, { where: but(name), bins: 40 }, signal);
        if (mine === asked) part.update(left);
      }),
    ]);
    if (mine === asked) fill(said, `${count(matching.matched)} of ${count(there.episodes)} episodes`, matching.undecided ? `; ${count(matching.undecided)} undecided` : "");
  };
  const safely = () => refresh().catch((error) => error.name === "AbortError" || fill(said, problem(error)));
  const name = h("input", { placeholder: "name", "aria-label": "Name of the selection", size: 14 });
  root.append(
    head("Scores", h("button", { onclick: () => go("episodes", { where: made.value }) }, "Browse these"), writes ? [name, button("Select these", async () => {
      if (!name.value.trim()) { name.focus(); return "name it"; }
      const answer = await post("selections", { recipe: { name: name.value.trim(), method: "filter", ...(made.value ? { where: made.value } : {}) } });
      tell(`${answer.name}: ${count(answer.chosen)} episodes`);
      return `${count(answer.chosen)} selected`;
    })] : null),
    h("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); go("scores", { ...params, where: base.value.trim() }); } },
      h("div", { class: "grow" }, field("among", base)), h("button", {}, "Among these")),
    h("div", { class: "bar" }, h("div", { class: "grow" }, field("what the brushes say", made))), said,
    h("details", {}, h("summary", {}, "Scores shown"), there.scores.map((each) => h("label", {}, h("input", { type: "checkbox", checked: shown.includes(each.name),
      onchange: (e) => go("scores", { ...params, scores: (e.target.checked ? [...shown, each.name] : shown.filter((other) => other !== each.name)).join(",") }) }), ` ${each.name} `))),
    h("p", { class: "dim" }, "Drag over a histogram to keep a range; click to let it go."), grid);
  if (!shown.length) return void grid.append(empty("Nothing has measured anything yet: data-engine score."));
  const late = settled(safely, 80);
  await Promise.all(shown.map(async (score) => {
    const box = h("div", {});
    grid.append(box);
    try {
      const all = await get(`scores/${at(score)}/distribution`, { where: params.where, bins: 40 }, signal);
      if (!all.edges.length) return void box.replaceWith(h("section", { class: "histogram" }, h("h3", {}, score), empty("No value is known.")));
      const part = histogram(all, { onbrush: (range) => {
        if (range) brushes.set(score, range);
        else brushes.delete(score);
        late();
      } });
      parts.set(score, part);
      box.replaceWith(part.element);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      box.replaceWith(h("section", { class: "histogram" }, h("h3", {}, score), problem(error)));
    }
  }));
  await safely();
}
