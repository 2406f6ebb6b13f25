// Who is signed in, which view is shown, and the keys that work everywhere.

import { forget, get, post, remove } from "./lib/api.js";
import { fill, h, link } from "./lib/dom.js";
import { problem } from "./lib/parts.js";

const VIEWS = [
  ["datasets", "Datasets", "d"], ["episodes", "Episodes", "e"], ["scores", "Scores", "s"], ["map", "Map", "m"],
  ["mixtures", "Mixtures", "x"], ["review", "Review", "v"], ["runs", "Runs", "r"],
];
const KEYS = [
  ["g then a letter", VIEWS.map(([, title, key]) => `${key} ${title.toLowerCase()}`).join(", ")],
  ["/", "the expression"], ["j k Enter", "rows"], ["space", "play, pause"], ["← → , .", "a step; with shift ten"],
  ["k d t l", "in review: keep, drop, trim, relabel"], ["n p", "in review: next, previous"], ["?", "this"],
];
const main = h("main", { id: "main", tabindex: "-1" });
let leaving = new AbortController();
let who = null;

/** Go to a view: go("episodes", {where: "…"}). */
function go(path, params = {}) {
  const given = Object.entries(params).filter(([, v]) => v !== undefined && v !== null && v !== "");
  location.hash = `#/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

/** Whether the key may write. */
const writes = () => who?.scope === "curate" || who?.scope === "admin";

async function route() {
  if (!who?.name) return;
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  const known = VIEWS.find(([each]) => each === name);
  if (!known) return void (location.hash = "#/datasets");
  document.title = `${known[1]} · data-engine`;
  for (const each of document.querySelectorAll("nav a")) {
    if (each.dataset.view === name) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  const root = h("div", { class: `view ${name}` });
  try {
    const view = await import(`./views/${name}.js`);
    if (signal.aborted) return;
    fill(main, root);
    const slow = setTimeout(() => root.childElementCount || root.append(h("p", { class: "dim waiting" }, "…")), 400);
    signal.addEventListener("abort", () => clearTimeout(slow));
    await view.show(root, { args: rest, params: Object.fromEntries(new URLSearchParams(search)), signal, go, writes: writes() });
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (error.status === undefined) console.error(error); // a defect of ours, not an answer of the service
    root.append(problem(error));
    if (!root.isConnected) fill(main, root);
  } finally {
    root.querySelector(":scope > .waiting")?.remove();
  }
}

function shell() {
  const nav = h("nav", { "aria-label": "Views" }, h("strong", {}, "data-engine"), VIEWS.map(([name, title, key]) => {
    const each = link(name, title, { title: `g ${key}` });
    each.dataset.view = name;
    return each;
  }));
  const theme = h("button", { class: "plain", title: "dark or light", "aria-label": "dark or light", onclick: () => {
    const { dataset } = document.documentElement;
    const now = dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    dataset.theme = now === "dark" ? "light" : "dark";
    localStorage.setItem("theme", dataset.theme);
    route(); // canvases are drawn in its colours
  } }, "◐");
  const me = h("span", { class: "me" }, `${who.name} · ${who.scope}`);
  const out = who.keys ? h("button", { class: "plain", onclick: signOut }, "Sign out") : null;
  const help = h("button", { class: "plain", title: "keys (?)", onclick: () => keys.showModal() }, "?");
  nav.append(h("span", { class: "end" }, me, theme, help, ...(out ? [out] : [])));
  const keys = h("dialog", { class: "keys", onclick: () => keys.close() }, h("h2", {}, "Keys"),
    h("dl", {}, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)])));
  fill(document.body, h("a", { class: "skip", href: "#main", onclick: (e) => { e.preventDefault(); main.focus(); } }, "Skip to the view"), nav, main, keys);
}

function signIn(said) {
  const key = h("input", { type: "password", autocomplete: "current-password", "aria-label": "Key", placeholder: "de_…", required: true });
  const told = h("div", {}, said ?? null);
  const form = h("form", { class: "sign-in", onsubmit: async (event) => {
    event.preventDefault();
    try {
      who = await post("session", { key: key.value });
      key.value = "";
      begin();
    } catch (error) {
      fill(told, problem(error));
    }
  } }, h("h1", {}, "data-engine"), h("p", {}, "Sign in with a key; ", h("code", {}, "data-engine keys make"), " makes one."),
    key, h("button", {}, "Sign in"), told);
  fill(document.body, form);
  key.focus();
}

async function signOut() {
  await remove("session");
  who = null;
  forget();
  leaving.abort();
  signIn();
}

function begin() {
  shell();
  route();
}

let pending = null;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !who?.name) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (pending) {
    const found = VIEWS.find(([, , key]) => key === event.key);
    pending = null;
    if (found) return void (event.preventDefault(), event.stopImmediatePropagation(), go(found[0]));
  }
  if (event.key === "g") {
    pending = setTimeout(() => { pending = null; }, 1000);
    event.stopImmediatePropagation();
  } else if (event.key === "/") {
    event.preventDefault();
    main.querySelector("form input:not([type=checkbox])")?.focus();
  } else if (event.key === "?") document.querySelector("dialog.keys")?.showModal();
});
addEventListener("hashchange", route);
addEventListener("signed-out", () => {
  if (who?.name) {
    who = null;
    forget();
    leaving.abort(); // nothing plays or asks on behind the form; the view is there again after it
    signIn(h("p", { class: "problem" }, "The session has ended."));
  }
});

const chosen = localStorage.getItem("theme");
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
try {
  who = await get("session");
  if (who.name) begin();
  else signIn();
} catch (error) {
  fill(document.body, problem(error));
}
