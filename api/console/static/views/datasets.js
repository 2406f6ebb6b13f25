// Datasets: what was ingested, with the receipts that say what went in, what is stored and what was left out.

import { at, get } from "../lib/api.js";
import { h, link } from "../lib/dom.js";
import { empty, facts, head, table } from "../lib/parts.js";
import { count, number, plain, quoted, short, when } from "../lib/words.js";

export async function show(root, context) {
  await (context.args[0] === undefined ? all(root, context) : context.args[1] ? receipt(root, context) : one(root, context));
}

async function all(root, { signal, go }) {
  const { items } = await get("datasets", {}, signal);
  const sum = (name) => items.reduce((total, each) => total + each[name], 0);
  root.append(head("Datasets"),
    h("div", { class: "figures" }, [["datasets", items.length], ["episodes", sum("episodes")], ["steps", sum("steps")]]
      .map(([name, n]) => h("div", {}, h("b", {}, count(n)), h("span", {}, name))),
    h("div", {}, h("b", {}, number(sum("hours"), 3)), h("span", {}, "hours"))));
  if (!items.length) return void root.append(empty("Nothing is ingested yet: data-engine ingest URI --dataset NAME, or start a run."));
  root.append(table([
    { name: "dataset" }, { name: "embodiment" }, { name: "control_mode", title: "control mode" },
    { name: "fps", number: true, show: (r) => number(r.fps) },
    { name: "episodes", number: true, show: (r) => count(r.episodes) },
    { name: "steps", number: true, show: (r) => count(r.steps) },
    { name: "hours", number: true, show: (r) => number(r.hours, 3) },
    { name: "licence" }, { name: "format" }, { name: "origin" },
  ], items, { label: "Datasets", open: (row) => go(`datasets/${encodeURIComponent(row.dataset)}`) }));
}

async function one(root, { args: [name], signal, go }) {
  const [{ dataset, ...held }, receipts, quarantine] = await Promise.all([
    get(`datasets/${at(name)}`, {}, signal),
    get("receipts", { dataset: name }, signal),
    get("quarantine", { where: `dataset = ${quoted(name)}`, limit: 200 }, signal),
  ]);
  root.append(
    head(dataset.name, link(`episodes?${new URLSearchParams({ where: `dataset = ${quoted(name)}` })}`, "Browse its episodes")),
    h("div", { class: "columns" },
      facts({ embodiment: dataset.embodiment, "control mode": dataset.control_mode, fps: number(dataset.fps), licence: dataset.licence ?? "not stated",
        format: dataset.format, origin: dataset.origin }),
      facts({ episodes: count(held.episodes), steps: count(held.steps), hours: number(held.hours, 3),
        tasks: `${held.tasks.slice(0, 8).map((task) => task ?? "not named").join(" · ")}${held.tasks.length > 8 ? ` and ${count(held.tasks.length - 8)} more` : ""}` })),
    h("h2", {}, "Features"),
    table([
      { name: "name" }, { name: "dtype" }, { name: "shape", show: (f) => f.shape.join(" × ") || "scalar" }, { name: "unit" },
      { name: "components", show: (f) => h("span", { title: plain(f.components) }, short(plain(f.components), 40)) },
      { name: "source", title: "in the source" },
      { name: "findings", title: "inferred", show: (f) => f.findings.map((each) =>
        h("div", { title: each.evidence }, `${each.kind} ${each.value} (${number(each.confidence, 2)})`)) },
    ], dataset.features, { label: "Features" }),
    h("h2", {}, "Receipts"),
    table([
      { name: "created_at", title: "when", show: (r) => when(r.created_at) }, { name: "run_id", title: "run" },
      { name: "source_fingerprint", title: "source", show: (r) => short(r.source_fingerprint) },
    ], receipts.items.toReversed(), { label: "Receipts", open: (r) => go(`datasets/${encodeURIComponent(name)}/${encodeURIComponent(r.run_id)}`) }));
  if (quarantine.matched) {
    root.append(h("h2", {}, `Quarantine (${count(quarantine.matched)})`), table([
      { name: "source_key", title: "in the source" }, { name: "code" }, { name: "reason" }, { name: "created_at", title: "when", show: (r) => when(r.created_at) },
    ], quarantine.items, { label: "Quarantine" }));
  }
}

async function receipt(root, { args: [name, run], signal }) {
  const found = (await get(`receipts/${at(run)}`, {}, signal)).map((each) => each.receipt).filter((each) => each.dataset === name);
  root.append(head(`Receipt of ${name}`, link(`datasets/${encodeURIComponent(name)}`, "The dataset")), h("p", { class: "dim mono" }, run));
  for (const each of found) root.append(...said(each));
}

function said(receipt) {
  const flow = ["episodes", "steps"].map((what) => ({ what, in: receipt.in?.[what], stored: receipt.stored?.[what] }));
  for (const [camera, frames] of Object.entries(receipt.in?.frames ?? {})) {
    flow.push({ what: `frames of ${camera}`, in: frames, stored: receipt.stored?.frames?.[camera] });
  }
  const list = (title, rows, line) => rows?.length ? [h("h2", {}, `${title} (${count(rows.length)})`), h("ul", {}, rows.slice(0, 500).map((each) =>
    h("li", {}, line(each)))), rows.length > 500 ? empty(`and ${count(rows.length - 500)} more, in the JSON`) : null].filter(Boolean) : [];
  const streams = Object.entries(receipt.streams ?? {});
  return [
    h("div", { class: "columns" },
      table([{ name: "what" }, { name: "in", number: true, show: (r) => count(r.in) }, { name: "stored", number: true, show: (r) => count(r.stored) }], flow, { label: "Counts" }),
      facts({ source: receipt.source?.uri, format: receipt.source?.format, bytes: count(receipt.source?.bytes), fps: number(receipt.fps),
        "control mode": receipt.control_mode?.mode, because: receipt.control_mode?.evidence, removed: receipt.removed || null })),
    ...list("Notes", receipt.notes, plain),
    ...list("Quarantined", receipt.quarantined, (each) => `${each.source_key ?? ""} ${each.code ?? ""}: ${each.reason ?? plain(each)}`),
    ...list("Defects", receipt.defects, plain),
    ...list("Duplicates", receipt.duplicates, plain),
    h("h2", {}, "Columns"),
    table([{ name: "source" }, { name: "column" }, { name: "dtype" }, { name: "shape", show: (c) => c.shape?.join(" × ") || "scalar" },
      { name: "stored_as", title: "stored as" }, { name: "change", show: (c) => plain(c.change) }], receipt.columns ?? [], { label: "Columns" }),
    ...(streams.length ? [h("h2", {}, `Video (${count(streams.length)})`), table([
      { name: "stream", show: ([key]) => key }, { name: "codec", show: ([, s]) => s.codec }, { name: "size", show: ([, s]) => `${s.width} × ${s.height}` },
      { name: "fps", number: true, show: ([, s]) => number(s.fps) }, { name: "frames", number: true, show: ([, s]) => count(s.frames) },
      { name: "used", number: true, show: ([, s]) => count(s.used) }, { name: "kept", show: ([, s]) => s.kept },
      { name: "psnr", title: "PSNR dB", number: true, show: ([, s]) => number(s.psnr_db) },
    ], streams.slice(0, 50), { label: "Video" }), streams.length > 50 ? empty(`and ${count(streams.length - 50)} more, in the JSON`) : ""] : []),
    h("details", {}, h("summary", {}, "JSON"), h("pre", {}, JSON.stringify(receipt, null, 1).slice(0, 200000))),
  ];
}
