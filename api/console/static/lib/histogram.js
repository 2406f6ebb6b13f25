// A histogram that is brushed: what all episodes have in grey, what the other brushes leave in colour.

import { fill, h, settled, svg } from "./dom.js";
import { count, number } from "./words.js";

const W = 300, H = 100;

/**
 * A histogram of a distribution of the service. onbrush([low, high] or null) once the brush rests; an end is null where
 * the brush reaches the last value, so that rounding leaves nobody out.
 * Returns {element, update(distribution of what is left)}.
 */
export function histogram(all, { brush = null, onbrush }) {
  const low = all.edges[0], high = all.edges.at(-1), width = high - low || 1;
  const x = (value) => (W * (value - low)) / width;
  const layers = { all: svg("g", { class: "all" }), now: svg("g", { class: "now" }), brush: svg("g") };
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": `Histogram of ${all.name}` },
    layers.all, layers.now, layers.brush);
  const from = h("input", { type: "number", step: "any", "aria-label": `${all.name} from`, placeholder: number(all.min) });
  const to = h("input", { type: "number", step: "any", "aria-label": `${all.name} to`, placeholder: number(all.max) });
  const left = h("span", { class: "dim" });
  const better = { higher: "higher is better", lower: "lower is better", neither: "" }[all.better];
  const element = h("section", { class: "histogram" },
    h("h3", {}, h("span", {}, all.name, h("span", { class: "dim" }, all.unit ? ` ${all.unit}` : "")), left),
    drawing, h("div", { class: "ends" }, from, h("span", { title: better }, { higher: "→ better", lower: "better ←", neither: "" }[all.better]), to));

  // heights are per unit of the score, so that bins of unlike width can be told beside each other
  const density = (d) => d.counts.map((n, i) => n / Math.max(d.edges[i + 1] - d.edges[i], width * 1e-9));
  const top = Math.max(...density(all), 1e-12);
  const bars = (layer, d) => fill(layer, density(d).map((value, i) => {
    const [a, b] = [x(d.edges[i]), x(d.edges[i + 1])];
    const tall = (H * Math.min(value / top, 1));
    return svg("rect", { x: a, y: H - tall, width: Math.max(b - a - 0.6, 0.4), height: tall });
  }));
  const told = (d) => fill(left, d.nulls ? `${count(d.episodes - d.nulls)} · ${count(d.nulls)} unknown` : count(d.episodes));
  const paint = () => {
    fill(layers.brush, brush ? svg("rect", { class: "brush", x: x(brush[0]), y: 0, width: Math.max(x(brush[1]) - x(brush[0]), 1), height: H }) : null);
    from.value = brush ? number(brush[0], 5) : "";
    to.value = brush ? number(brush[1], 5) : "";
  };
  const rest = settled(() => {
    const ends = brush && [brush[0] <= low ? null : brush[0], brush[1] >= high ? null : brush[1]];
    onbrush(ends && (ends[0] !== null || ends[1] !== null) ? ends : null);
  }, 60);
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    return low + width * Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  };
  let anchor = null;
  drawing.addEventListener("pointerdown", (event) => {
    anchor = at(event);
    drawing.setPointerCapture(event.pointerId);
  });
  drawing.addEventListener("pointermove", (event) => {
    if (anchor === null) return;
    const here = at(event);
    brush = [Math.min(anchor, here), Math.max(anchor, here)];
    paint();
  });
  drawing.addEventListener("pointerup", (event) => {
    if (anchor !== null && Math.abs(at(event) - anchor) < width / 100) brush = null; // a click takes the brush away
    anchor = null;
    paint();
    rest();
  });
  const typed = () => {
    brush = from.value === "" && to.value === "" ? null
      : [from.value === "" ? low : Number(from.value), to.value === "" ? high : Number(to.value)];
    paint();
    rest();
  };
  from.addEventListener("change", typed);
  to.addEventListener("change", typed);
  bars(layers.all, all);
  bars(layers.now, all);
  told(all);
  paint();
  return { element, update(d) { bars(layers.now, d); told(d); } };
}
