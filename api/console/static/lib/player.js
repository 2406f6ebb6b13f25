// One episode, played: cameras, curves of state, action and scores, and one clock for all of them.

import { at, get } from "./api.js";
import { fill, h } from "./dom.js";
import { curves } from "./plot.js";
import { empty, select } from "./parts.js";
import { seconds } from "./words.js";

const FIRST = ["observation.state", "action", "reward"];
const MOST_PLOTS = 6;
const MOST_CURVES = 16;
const NUMERIC = /^(float|int|uint|bool)/;

/**
 * Play `episode` (a row, with its videos) in `root`. range: [start, stop) in steps, looped from the beginning.
 * Returns {play(), pause(), seek(s), step(), loop(start, stop), stop()}.
 */
export async function player(root, episode, { annotations = [], signal, range = null } = {}) {
  const id = episode.episode_id;
  const { dataset } = await get(`datasets/${at(episode.dataset)}`, {}, signal);
  const numeric = dataset.features.filter((f) => NUMERIC.test(f.dtype) && f.shape.reduce((a, b) => a * b, 1) <= 64 && f.name !== "timestamp");
  const clocks = (episode.videos ?? []).map((v) => `frame_time.${v.camera}`).filter((name) => numeric.some((f) => f.name === name));
  const order = [...FIRST.filter((name) => numeric.some((f) => f.name === name)),
    ...numeric.map((f) => f.name).filter((name) => !FIRST.includes(name) && !name.startsWith("frame_time."))];
  const columns = ["timestamp", ...order.slice(0, 12), ...clocks];
  const [steps, measured] = await Promise.all([
    get(`episodes/${at(id)}/steps`, { columns: columns.join(",") }, signal),
    get(`episodes/${at(id)}/step-values`, {}, signal),
  ]);
  const rows = steps.items;
  const time = rows.map((row) => row.timestamp);
  const period = time.length > 1 ? (time.at(-1) - time[0]) / (time.length - 1) : 0.1;
  const end = time.length ? time.at(-1) + period : 0;
  const stepAt = (t) => {
    let low = 0, high = time.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (time[middle] <= t + 1e-6) low = middle;
      else high = middle - 1;
    }
    return Math.max(low, 0);
  };
  const startOf = (step) => time[Math.min(Math.max(step, 0), time.length - 1)] ?? 0;
  const stopOf = (step) => (step >= time.length ? end : time[step]);

  // cameras: the first leads, the others follow where they drift
  const cameras = (episode.videos ?? []).map((video) => {
    const element = h("video", { muted: true, playsinline: true, preload: "auto", src: `/v1/episodes/${at(id)}/video/${at(video.camera)}`, "aria-label": video.camera });
    const clock = `frame_time.${video.camera}`;
    const own = clocks.includes(clock) ? rows.map((row) => row[clock]) : null; // this camera has its own time
    return { video, element, of: (t) => video.start_s + (own ? own[stepAt(t)] ?? t : t), own };
  });
  let now = 0, playing = false, speed = 1, looped = null, frame = 0, then = 0;
  const plots = [];

  const aim = (exact) => {
    for (const { element, of, video } of cameras) {
      const wanted = Math.min(of(now) + 1e-4, video.end_s - 1e-3);
      if (exact || Math.abs(element.currentTime - wanted) > 0.12 * speed) element.currentTime = wanted;
    }
  };
  const drawn = () => {
    for (const plot of plots) plot.head(now);
    track.value = now;
    fill(clock, `step ${stepAt(now)} · ${seconds(now)}`);
    for (const { element, from, to } of flags) element.classList.toggle("now", now >= from && now < to);
  };
  const tick = (at) => {
    if (!playing) return;
    const [lead] = cameras;
    if (lead && !lead.own && !lead.element.paused && lead.element.readyState >= 2 && !lead.element.seeking) now = lead.element.currentTime - lead.video.start_s;
    else if (!lead || lead.own || lead.element.error) now += ((at - then) / 1000) * speed;
    then = at;
    const [low, high] = looped ?? [0, end];
    if (now >= high - 1e-3) {
      if (looped) {
        now = low;
        aim(true);
      } else {
        now = end;
        pause();
      }
    }
    if (playing && cameras.length) aim(false);
    drawn();
    frame = requestAnimationFrame(tick);
  };
  function play() {
    if (now >= end - period) now = 0;
    playing = true;
    then = performance.now();
    aim(true);
    for (const { element, own } of cameras) {
      element.playbackRate = speed;
      if (!own) element.play().catch(() => {});
    }
    fill(toggle, "Pause");
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(tick);
  }
  function pause() {
    playing = false;
    for (const { element } of cameras) element.pause();
    fill(toggle, "Play");
    drawn();
  }
  function seek(t) {
    now = Math.min(Math.max(t, 0), end);
    aim(true);
    drawn();
  }
  const move = (by) => {
    pause();
    seek(startOf(stepAt(now) + by));
  };
  function loop(start, stop) {
    looped = start === null ? null : [startOf(start), Math.max(stopOf(stop), startOf(start) + 2 * period)];
    fill(looping, looped ? `looping ${start}–${stop}` : "");
    if (looped) seek(looped[0]);
  }

  const toggle = h("button", { class: "main toggle", onclick: () => (playing ? pause() : play()) }, "Play");
  const track = h("input", { type: "range", min: 0, max: end, step: "any", value: 0, "aria-label": "Time", oninput: (e) => seek(Number(e.target.value)) });
  const clock = h("span", { class: "clock" });
  const looping = h("button", { class: "plain", title: "stop looping", onclick: () => loop(null) });
  const rate = select(["0.25", "0.5", "1", "2", "4"].map((v) => [v, `${v}×`]), "1", (v) => {
    speed = Number(v);
    for (const { element } of cameras) element.playbackRate = speed;
  }, { "aria-label": "Speed" });

  // what flags it, and what was said of it, on one line a source
  const flags = [];
  const lanes = new Map();
  const flag = (lane, start, stop, text) => {
    const [from, to] = [startOf(start), stopOf(stop)];
    const element = h("button", { title: `${lane}: ${text}, steps ${start}–${stop}`, onclick: () => { loop(start, stop); play(); },
      style: { left: `${(100 * from) / end}%`, width: `${(100 * (to - from)) / end}%` } }, text);
    if (!lanes.has(lane)) lanes.set(lane, h("div", { class: "lane", "aria-label": lane }));
    lanes.get(lane).append(element);
    flags.push({ element, from, to });
  };
  for (const row of measured.items) {
    for (const span of row.spans ?? []) flag(row.scorer, span.start, span.stop, span.reason);
  }
  for (const each of annotations) {
    if (each.start !== 0 || each.stop < episode.n_steps || each.label) flag(`${each.kind} by ${each.producer}`, each.start, each.stop, each.label ?? each.text ?? each.kind);
  }

  const curvesBox = h("div", {});
  const more = h("div", {});
  const stage = h("div", {}, cameras.length ? h("div", { class: cameras.length > 1 ? "cameras many" : "cameras" }, cameras.map(({ element, video }) =>
    h("figure", { class: "camera" }, element, h("figcaption", {}, `${video.camera} · ${video.width} × ${video.height} · ${video.codec}`)))) : empty("It has no camera."));
  fill(root, h("div", { class: "transport" }, toggle, rate, track, clock, looping), h("div", { class: "lanes" }, [...lanes.values()]),
    h("div", { class: "player" }, stage, h("div", {}, curvesBox, more)));
  for (const { element, video } of cameras) {
    element.addEventListener("error", () => element.replaceWith(h("p", { class: "problem" }, `${video.camera}: the browser cannot play it (${video.codec})`)), { once: true });
  }

  const groups = [];
  for (const name of order.slice(0, 12)) {
    const feature = numeric.find((f) => f.name === name);
    const first = rows.find((row) => row[name] !== null && row[name] !== undefined)?.[name];
    if (first === undefined) continue;
    const width = Array.isArray(first) ? first.flat(Infinity).length : 1;
    const values = rows.map((row) => (Array.isArray(row[name]) ? row[name].flat(Infinity) : [row[name]]));
    const series = Array.from({ length: Math.min(width, MOST_CURVES) }, (_, i) => ({
      label: feature.components?.[i] ?? (width > 1 ? String(i) : name), values: values.map((row) => (typeof row[i] === "boolean" ? Number(row[i]) : row[i] ?? null)) }));
    const beyond = width > MOST_CURVES ? ` (${MOST_CURVES} of ${width})` : "";
    groups.push({ title: `${name}${feature.unit ? `, ${feature.unit}` : ""}${beyond}`, series, first: FIRST.includes(name) });
  }
  const evidence = measured.items.map((row) => ({
    title: `${row.scorer}.${row.metric}`, first: Boolean(row.spans?.length),
    series: [{ label: row.metric, values: padded(row.step_values ?? [], row.start ?? 0, time.length) }],
    spans: (row.spans ?? []).map((span) => ({ from: startOf(span.start), to: stopOf(span.stop) })),
  }));
  const known = [...groups.filter((g) => g.first), ...evidence.filter((g) => g.first), ...evidence.filter((g) => !g.first), ...groups.filter((g) => !g.first)];
  const draw = (group) => plots.push(curves(curvesBox, { ...group, x: time, onseek: seek }));
  if (time.length) known.slice(0, MOST_PLOTS).forEach(draw);
  if (known.length > MOST_PLOTS) {
    more.append(h("button", { onclick: () => {
      known.slice(MOST_PLOTS).forEach(draw);
      fill(more);
      drawn();
    } }, `${known.length - MOST_PLOTS} more curves`));
  }

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input:not([type=range]), textarea, select, dialog")) return;
    const by = { ArrowRight: 1, ArrowLeft: -1, ".": 1, ",": -1, ">": 10, "<": -10 }[event.key];
    if (event.key === " ") {
      event.preventDefault();
      if (playing) pause();
      else play();
    } else if (by) {
      event.preventDefault();
      move(event.shiftKey && Math.abs(by) === 1 ? by * 10 : by);
    }
  };
  addEventListener("keydown", keys);
  if (range) loop(...range);
  else seek(0);
  return {
    play, pause, seek, loop, step: () => stepAt(now), time: () => now,
    stop() {
      pause();
      cancelAnimationFrame(frame);
      removeEventListener("keydown", keys);
      for (const plot of plots) plot.destroy();
      for (const { element } of cameras) { element.removeAttribute("src"); element.load(); }
    },
  };
}

/** Values that begin at step `start`, on `n` steps; null where there is none. */
function padded(values, start, n) {
  const all = new Array(n).fill(null);
  values.forEach((value, i) => { if (start + i < n && Number.isFinite(value)) all[start + i] = value; });
  return all;
}
