// The map: episodes where their vectors lie, coloured by what they are or how they score; a lasso makes a selection.

import { at, get, held, post } from "../lib/api.js";
import { KINDS, named, ramp } from "../lib/colours.js";
import { fill, h, link } from "../lib/dom.js";
import { button, empty, field, head, select, tell } from "../lib/parts.js";
import { count, number, percent, plain } from "../lib/words.js";

const COLUMNS = ["dataset", "task", "operator", "scene", "provenance", "success"];

export async function show(root, { params, signal, go, writes }) {
  const there = await held();
  if (!there.spaces.length) return void root.append(head("Map"), empty("No episode is embedded yet: data-engine embed."));
  const space = params.space ?? there.spaces[0].space;
  const groups = there.spaces.find((each) => each.space === space)?.groups ?? [];
  const headlines = there.scores.filter((each) => !each.name.includes(".")).map((each) => each.name);
  const colour = params.colour ?? "dataset";
  const where = h("input", { class: "wide mono", value: params.where ?? "", placeholder: "all episodes", "aria-label": "Expression" });
  const canvas = h("canvas", { tabindex: "0", role: "img", "aria-label": "Episodes by their vectors" });
  const side = h("aside", {});
  const again = (changed) => go("map", { ...params, space, colour, ...changed });
  root.append(head("Map"), h("form", { class: "bar", onsubmit: (event) => { event.preventDefault(); again({ where: where.value.trim() }); } },
    field("space", select(there.spaces.map((each) => each.space), space, (v) => go("map", { space: v, colour }))),
    field("robots", select(groups.map((g, i) => [i, `${g.embodiment ?? "unknown"}, ${g.control_mode ?? "unknown"} (${count(g.episodes)})`]), params.group ?? 0, (v) => again({ group: v }))),
    field("colour", select([...COLUMNS, ...headlines], colour, (v) => again({ colour: v }))),
    h("div", { class: "grow" }, field("among", where)), h("button", {}, "Show")),
  h("div", { class: "map-area" }, canvas, side));
  const map = await get(`spaces/${at(space)}/map`, { colour, where: params.where, group: params.group }, signal);
  if (!map.x.length) return void fill(side, empty("No episode matches."));
  draw({ canvas, side, map, go, writes, signal });
}

function draw({ canvas, side, map, go, writes, signal }) {
  const numeric = map.value.some((v) => typeof v === "number");
  const { colourOf, legend } = numeric ? byNumber(map) : byKind(map, (value) => {
    chosen = new Set(map.value.map((_, i) => i).filter((i) => map.value[i] === value));
    told();
    soon();
  });
  const n = map.x.length;
  const bounds = [Math.min(...map.x), Math.max(...map.x), Math.min(...map.y), Math.max(...map.y)];
  let scale = 1, dx = 0, dy = 0, chosen = new Set(), lasso = null, drag = null, hovered = -1;
  const context = canvas.getContext("2d");
  const size = () => ({ w: canvas.clientWidth, h: canvas.clientHeight });
  const fit = () => {
    const { w, h } = size();
    return 0.92 * Math.min(w / (bounds[1] - bounds[0] || 1), h / (bounds[3] - bounds[2] || 1));
  };
  const place = (i) => {
    const { w, h } = size();
    const k = fit() * scale;
    return [w / 2 + dx + k * (map.x[i] - (bounds[0] + bounds[1]) / 2), h / 2 + dy - k * (map.y[i] - (bounds[2] + bounds[3]) / 2)];
  };
  const paint = () => {
    const { w, h } = size();
    const sharp = devicePixelRatio || 1;
    canvas.width = w * sharp;
    canvas.height = h * sharp;
    context.scale(sharp, sharp);
    const radius = n > 5000 ? 2 : n > 500 ? 3 : 4.5;
    for (let i = 0; i < n; i++) {
      const [x, y] = place(i);
      context.globalAlpha = chosen.size && !chosen.has(i) ? 0.18 : 0.85;
      context.fillStyle = colourOf(i);
      context.beginPath();
      context.arc(x, y, i === hovered ? radius + 3 : radius, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    if (lasso) {
      context.strokeStyle = named("accent");
      context.fillStyle = named("wash");
      context.lineWidth = 1.5;
      context.beginPath();
      lasso.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.fill();
      context.stroke();
    }
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  };
  const nearest = (px, py) => {
    let best = -1, least = 100;
    for (let i = 0; i < n; i++) {
      const [x, y] = place(i);
      const d = (x - px) ** 2 + (y - py) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  };
  const local = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (event.shiftKey || event.button === 1) drag = [event.clientX - dx, event.clientY - dy];
    else lasso = [local(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) {
      dx = event.clientX - drag[0];
      dy = event.clientY - drag[1];
    } else if (lasso) lasso.push(local(event));
    else {
      const found = nearest(...local(event));
      if (found === hovered) return;
      hovered = found;
      fill(under, hovered < 0 ? "" : `${map.episode_id[hovered]} · ${plain(map.value[hovered])}`);
    }
    soon();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (lasso && lasso.length > 3) {
      chosen = new Set(map.x.map((_, i) => i).filter((i) => inside(place(i), lasso)));
      told();
    } else if (lasso) {
      const found = nearest(...local(event));
      if (found >= 0) go(`episodes/${at(map.episode_id[found])}`);
      else { chosen = new Set(); told(); }
    }
    lasso = drag = null;
    soon();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [px, py] = local(event), { w, h } = size();
    const by = Math.exp(-event.deltaY / 400);
    dx = (px - w / 2) * (1 - by) + dx * by;
    dy = (py - h / 2) * (1 - by) + dy * by;
    scale *= by;
    soon();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { chosen = new Set(); told(); }
    else if (event.key === "0") [scale, dx, dy] = [1, 0, 0];
    else if (event.key === "+" || event.key === "-") scale *= event.key === "+" ? 1.3 : 1 / 1.3;
    else return;
    soon();
  });
  const under = h("p", { class: "dim mono" });
  const kept = h("div", {});
  const name = h("input", { placeholder: "name", "aria-label": "Name of the selection", size: 14 });
  const told = () => fill(kept, chosen.size ? [h("p", {}, h("b", {}, count(chosen.size)), " episodes in the lasso"),
    writes ? h("div", { class: "bar" }, name, button("Select these", async () => {
      if (!name.value.trim()) { name.focus(); return "name it"; }
      const episodes = [...chosen].map((i) => map.episode_id[i]);
      const made = await post("selections", { recipe: { name: name.value.trim(), method: "filter" }, episodes });
      tell(`${made.name}: ${count(made.chosen)} episodes`);
      return `${count(made.chosen)} selected`;
    })) : null,
    h("ul", {}, [...chosen].slice(0, 20).map((i) => h("li", {}, link(`episodes/${at(map.episode_id[i])}`, map.episode_id[i]), ` ${plain(map.value[i])}`))),
  ] : h("p", { class: "dim" }, "Drag around episodes to select them, or take a colour; click one to open it; shift and drag, or the wheel, to move."));
  fill(side, h("p", {}, `${count(n)}${map.episodes > n ? ` of ${count(map.episodes)}, an even part,` : ""} episodes. The picture holds ${percent(map.seen)} of what sets them apart.`),
    h("h2", {}, map.colour), legend, under, kept);
  told();
  const watch = new ResizeObserver(soon);
  watch.observe(canvas);
  signal.addEventListener("abort", () => watch.disconnect());
  paint();
}

/** Whether a point lies in a polygon: a ray to the right crosses its edge an odd number of times. */
function inside([x, y], polygon) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [[ax, ay], [bx, by]] = [polygon[i], polygon[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

/** A colour for each value there is; choose(value) where one of the legend is taken, as by a lasso. */
function byKind(map, choose) {
  const tally = new Map();
  for (const value of map.value) tally.set(value, (tally.get(value) ?? 0) + 1);
  const order = [...tally].sort((a, b) => b[1] - a[1]).map(([value]) => value);
  const colours = new Map(order.map((value, i) => [value, value === null ? KINDS.at(-1) : KINDS[Math.min(i, KINDS.length - 1)]]));
  const legend = h("div", { class: "legend" }, order.slice(0, 40).map((value) =>
    h("button", { class: "plain", type: "button", title: "take these", onclick: () => choose(value) },
      h("i", { style: { background: colours.get(value) } }), value === null ? "not known" : plain(value), h("span", { class: "dim" }, ` ${count(tally.get(value))}`))));
  return { colourOf: (i) => colours.get(map.value[i]), legend };
}

function byNumber(map) {
  const known = map.value.filter((v) => v !== null).sort((a, b) => a - b);
  // by rank, for a few far out would leave one colour to the rest
  const rank = (value) => {
    let low = 0, high = known.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (known[middle] < value) low = middle + 1;
      else high = middle;
    }
    return known.length > 1 ? low / (known.length - 1) : 0.5;
  };
  const stops = Array.from({ length: 9 }, (_, i) => ramp(i / 8)).join(",");
  const legend = h("div", { class: "legend" }, h("div", { class: "ramp", style: { background: `linear-gradient(90deg, ${stops})` } }),
    h("div", { class: "bar" }, ["0", "0.5", "1"].map((q) => h("span", { class: "dim" }, number(known[Math.round(Number(q) * (known.length - 1))])))),
    known.length < map.value.length ? h("div", { class: "dim" }, `${count(map.value.length - known.length)} not known, grey`) : null);
  return { colourOf: (i) => (map.value[i] === null ? KINDS.at(-1) : ramp(rank(map.value[i]))), legend };
}
