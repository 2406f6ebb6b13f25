// Curves over time, with a playhead that costs no redrawing.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { KINDS, named } from "./colours.js";
import { h } from "./dom.js";

const SYNC = uPlot.sync("time");

/**
 * Curves into `root`. x: seconds [T]; series: [{label, values [T]}]; spans: [{from, to}] in seconds, shaded;
 * onseek(t) on a click. Returns {head(t), destroy()}.
 */
export function curves(root, { title, x, series, spans = [], height = 110, onseek }) {
  const box = h("div", { class: "plot" }, h("h3", {}, h("span", {}, title), h("span", { class: "key" }, series.slice(0, 12).map((each, i) =>
    [h("i", { style: { background: KINDS[i % KINDS.length] } }), `${each.label} `]), series.length > 12 ? "…" : "")));
  root.append(box);
  const [dim, line, accent] = ["dim", "line", "accent"].map(named);
  const axis = { stroke: dim, grid: { stroke: line, width: 0.5 }, ticks: { stroke: line, width: 0.5, size: 4 }, font: "11px system-ui" };
  const options = {
    width: Math.max(box.clientWidth - 14, 200), height, legend: { show: false }, padding: [4, 6, 0, 0],
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 26, gap: 2 }, { ...axis, size: 52, values: (_, ticks) => ticks.map((v) => String(Number(v.toPrecision(4)))) }],
    series: [{}, ...series.map((each, i) => ({ label: each.label, stroke: KINDS[i % KINDS.length], width: 1.25, points: { show: false }, spanGaps: false }))],
    cursor: { sync: { key: SYNC.key }, drag: { x: true, y: false }, points: { size: 5 } },
    hooks: { drawClear: [(u) => {
      u.ctx.save();
      u.ctx.globalAlpha = 0.14;
      u.ctx.fillStyle = accent;
      for (const { from, to } of spans) {
        const [left, right] = [u.valToPos(from, "x", true), u.valToPos(to, "x", true)];
        u.ctx.fillRect(left, u.bbox.top, Math.max(right - left, 2), u.bbox.height);
      }
      u.ctx.restore();
    }] },
  };
  const chart = new uPlot(options, [x, ...series.map((each) => each.values)], box);
  const playhead = h("div", { class: "playhead" });
  chart.over.append(playhead);
  let at = 0;
  const place = () => { playhead.style.transform = `translateX(${chart.valToPos(at, "x")}px)`; };
  chart.over.addEventListener("click", () => {
    if (chart.select.width < 3 && chart.cursor.left >= 0) onseek?.(chart.posToVal(chart.cursor.left, "x"));
  });
  chart.hooks.setScale = [place];
  const resized = new ResizeObserver(() => {
    const width = Math.max(box.clientWidth - 14, 200);
    if (Math.abs(width - chart.width) > 1) chart.setSize({ width, height });
    place();
  });
  resized.observe(box);
  return {
    head(t) { at = t; place(); },
    destroy() { resized.disconnect(); chart.destroy(); },
  };
}
