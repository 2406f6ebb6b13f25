// Parts that several views are put together from.

import { fill, h } from "./dom.js";

/** A heading with what may be done beside it. */
export const head = (title, ...actions) => h("header", { class: "head" }, h("h1", {}, title), h("div", { class: "actions" }, actions));

/** What went wrong, and what would be right. */
export const problem = (error) =>
  h("p", { class: "problem", role: "alert" }, error.message, error.fix ? h("span", { class: "fix" }, ` ${error.fix}`) : null);

const LONG = 40; // a cell cuts what is longer than it; a pointer shows the whole

export const empty = (text) => h("p", { class: "empty" }, text);

/** Facts as pairs of term and value; null values are left out. */
export const facts = (pairs) =>
  h("dl", { class: "facts" }, Object.entries(pairs).filter(([, v]) => v !== null && v !== undefined)
    .map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]));

/**
 * A table. columns: [{name, title, show(row), number, order}]; open(row) on click and Enter; j, k and arrows move.
 * With `sort(name)` headings of columns that have `order` are buttons.
 */
export function table(columns, rows, { open, label, order, sort } = {}) {
  const heading = (c) => {
    if (!sort || !c.order) return c.title ?? c.name;
    const mark = order === c.order ? " ▲" : order === `-${c.order}` ? " ▼" : "";
    return h("button", { class: "plain", onclick: () => sort(order === `-${c.order}` ? c.order : `-${c.order}`) }, (c.title ?? c.name) + mark);
  };
  const body = h("tbody", {}, rows.map((row) =>
    h("tr", open ? { tabindex: "-1", onclick: (event) => event.target.closest("a, button") || open(row) } : {},
      columns.map((c) => {
        const value = c.show ? c.show(row) : row[c.name] ?? "–";
        return h("td", { class: c.number ? "number" : null, title: typeof value === "string" && value.length > LONG ? value : null }, value);
      }))));
  if (open) {
    const all = [...body.rows];
    if (all.length) all[0].tabIndex = 0;
    body.addEventListener("keydown", (event) => {
      const here = all.indexOf(event.target.closest("tr"));
      const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
      if (step && all[here + step]) {
        event.preventDefault();
        all[here].tabIndex = -1;
        all[here + step].tabIndex = 0;
        all[here + step].focus();
      } else if (event.key === "Enter" && here >= 0 && event.target === all[here]) open(rows[here]);
    });
  }
  return h("div", { class: "scroll" }, h("table", { "aria-label": label ?? null, class: open ? "opens" : null },
    h("thead", {}, h("tr", {}, columns.map((c) => h("th", { class: c.number ? "number" : null, scope: "col" }, heading(c))))), body));
}

/** A button that runs `act` once at a time and shows what went wrong beside it. */
export function button(text, act, props = {}) {
  const said = h("span", { class: "said", role: "status" });
  const element = h("button", { type: "button", ...props, onclick: async () => {
    element.disabled = true;
    fill(said);
    try {
      const done = await act();
      if (typeof done === "string") fill(said, done);
    } catch (error) {
      fill(said, problem(error));
    } finally {
      element.disabled = false;
    }
  } }, text);
  return h("span", { class: "do" }, element, said);
}

/** A labelled control. */
export const field = (label, control) => h("label", { class: "field" }, h("span", {}, label), control);

/** A choice. options: ["a", ["value", "text"], …]. */
export function select(options, value, onchange, props = {}) {
  const element = h("select", { ...props, onchange: () => onchange?.(element.value) }, options.map((each) => {
    const [v, text] = Array.isArray(each) ? each : [each, each];
    return h("option", { value: v }, text);
  }));
  if (value !== undefined && value !== null) element.value = value;
  return element;
}

/** Show `text` for a moment at the foot of the page. */
export function tell(text) {
  const said = h("div", { class: "toast", role: "status" }, text);
  document.body.append(said);
  setTimeout(() => said.remove(), 4000);
}
