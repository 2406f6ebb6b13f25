// The review queue: what would teach most first, played where it is flagged, judged by one key.

import { at, get, post } from "../lib/api.js";
import { fill, h, link } from "../lib/dom.js";
import { button, empty, field, head, problem, table } from "../lib/parts.js";
import { player } from "../lib/player.js";
import { count, number, percent } from "../lib/words.js";

const KEYS = { k: "keep", d: "drop", t: "trim", l: "relabel" };

export async function show(root, { params, signal, go, writes }) {
  const where = h("input", { class: "wide mono", value: params.where ?? "", placeholder: "all episodes", "aria-label": "Expression" });
  const list = h("ol", { "aria-label": "Queue" });
  const stage = h("div", {});
  const tally = h("div", {});
  const left = h("span", { class: "dim", role: "status" });
  const again = h("input", { type: "checkbox", checked: params.again === "true", onchange: () => go("review", { ...params, again: again.checked || "" }) });
  root.append(head("Review", left), h("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); go("review", { ...params, where: where.value.trim() }); } },
    h("div", { class: "grow" }, field("among", where)), h("label", {}, again, " also what I judged"), h("button", {}, "Show"),
    params.reason ? h("span", { class: "tag" }, params.reason, h("button", { class: "plain", type: "button", "aria-label": "any reason", onclick: () => go("review", { ...params, reason: "" }) }, "×")) : null),
  h("div", { class: "review-area" }, list, stage), tally);

  let items = [], here = 0, shown = null, opening = 0, matched = 0;
  const load = async () => {
    const answer = await get("review/queue", { where: params.where, reason: params.reason, again: params.again, limit: 100 }, signal);
    ({ items, matched } = answer);
    fill(left, `${count(matched)} to judge`);
    paint();
  };
  const paint = () => fill(list, items.map((item, i) => h("li", { "aria-current": i === here ? "true" : null, onclick: () => open(i) },
    item.mine ? h("b", {}, `${item.mine} · `) : null, item.reason,
    h("small", {}, `${item.task ?? item.dataset} · steps ${item.start}–${item.stop}${item.disagreement === null ? "" : ` · scorers disagree ${percent(item.disagreement)}`}`))));
  const count_ = async () => fill(tally, ...tables(await get("review/tally", {}, signal), { go, params }));

  async function open(i) {
    if (!items[i]) {
      shown?.stop();
      shown = null;
      return void fill(stage, empty("The queue is empty: score some episodes, or widen what is asked for."));
    }
    here = i;
    const mine = ++opening;
    paint();
    list.children[i]?.scrollIntoView({ block: "nearest" });
    const item = items[i];
    shown?.stop();
    shown = null;
    const box = h("div", {});
    const text = h("input", { placeholder: "remark, or the new label", "aria-label": "Remark" });
    fill(stage, h("h2", {}, item.reason, h("span", { class: "dim" }, ` · steps ${item.start}–${item.stop} of ${item.n_steps}${item.scorer ? ` · by ${item.scorer}` : ""}${item.spans > 1 ? ` · the longest of ${item.spans}` : ""}`)),
      h("p", { class: "dim" }, link(`episodes/${at(item.episode_id)}`, item.episode_id, { class: "mono" }), ` · ${item.task ?? item.dataset}`,
        item.verdicts ? ` · judged by ${item.reviewers.length === 1 && item.mine ? "you" : count(item.verdicts)}` : ""),
      writes ? h("div", { class: "verdicts" }, Object.entries(KEYS).map(([key, verdict]) =>
        h("button", { "aria-pressed": item.mine === verdict ? "true" : "false", onclick: () => say(verdict, text.value) }, h("kbd", {}, key), verdict)), text) : empty("This key may look, not judge."), box);
    try {
      const { episode, annotations } = await get(`episodes/${at(item.episode_id)}`, {}, signal);
      const made = await player(box, episode, { annotations: annotations.filter((a) => a.kind !== "verdict"), signal, range: [item.start, item.stop] });
      if (mine !== opening || signal.aborted) return made.stop();
      shown = made;
      shown.play();
    } catch (error) {
      if (error.name !== "AbortError" && mine === opening) fill(box, problem(error));
    }
  }
  async function say(verdict, text) {
    const item = items[here];
    if (!item || !writes) return;
    if (verdict === "relabel" && !text) {
      stage.querySelector("input[aria-label=Remark]")?.focus();
      return void fill(left, "say what it should be called, then relabel");
    }
    try {
      await post("review/verdicts", { items: [{ episode_id: item.episode_id, reason: item.reason, start: item.start, stop: item.stop, verdict, ...(text ? { text } : {}) }] });
    } catch (error) {
      return void fill(left, problem(error));
    }
    if (!item.mine) {
      item.verdicts += 1;
      matched -= 1;
    }
    item.mine = verdict;
    fill(left, `${count(Math.max(matched, 0))} to judge`);
    count_().catch(() => {});
    const next = items.findIndex((each, i) => i > here && !each.mine);
    if (next >= 0) await open(next);
    else {
      here = 0;
      await load();
      await open(0);
    }
  }
  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select, dialog")) return;
    const text = stage.querySelector("input[aria-label=Remark]")?.value ?? "";
    if (KEYS[event.key]) say(KEYS[event.key], text);
    else if (event.key === "n" && here < items.length - 1) open(here + 1);
    else if (event.key === "p" && here > 0) open(here - 1);
    else return;
    event.preventDefault();
  };
  addEventListener("keydown", keys);
  signal.addEventListener("abort", () => {
    removeEventListener("keydown", keys);
    shown?.stop();
  });
  await Promise.all([load(), count_()]);
  await open(0);
}

function tables(said, { go, params }) {
  const inAll = said.reasons.filter((each) => each.dataset === null);
  const by = said.reasons.filter((each) => each.dataset !== null);
  const columns = [
    { name: "reason", show: (r) => h("button", { class: "plain", onclick: () => go("review", { ...params, reason: r.reason }) }, r.reason) },
    { name: "flagged", number: true, show: (r) => count(r.flagged) }, { name: "judged", number: true, show: (r) => count(r.judged) },
    { name: "precision", title: "is right", number: true, show: (r) => percent(r.precision) },
    { name: "interval", title: "95 %", number: true, show: (r) => (r.low === null ? "–" : `${percent(r.low)} to ${percent(r.high)}`) },
  ];
  return [h("div", { class: "columns" },
    h("section", {}, h("h2", {}, "How often each reason is right here"), inAll.length ? table(columns, inAll, { label: "Reasons" }) : empty("Nothing is flagged."),
      new Set(by.map((each) => each.dataset)).size > 1 ? h("details", {}, h("summary", {}, "by dataset"), table([{ name: "dataset" }, ...columns], by, { label: "Reasons by dataset" })) : null),
    h("section", {}, h("h2", {}, "Reviewers"), said.reviewers.length ? table([{ name: "reviewer" }, ...["verdicts", "keep", "drop", "trim", "relabel"].map((name) => ({ name, number: true, show: (r) => count(r[name]) }))],
      said.reviewers, { label: "Reviewers" }) : empty("Nobody has judged anything yet."),
    h("p", {}, said.shared ? `${count(said.shared)} judged by several; Krippendorff's alpha ${number(said.alpha, 2)}` : "No flag was judged by several yet."),
    said.pairs.map((p) => h("p", { class: "dim" }, `${p.first} and ${p.second} agree on ${percent(p.agree)} of ${count(p.shared)}`))))];
}
