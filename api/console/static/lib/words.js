// Values as people read them.

const MANY = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number, in groups of three. */
export const count = (n) => (n === null || n === undefined ? "–" : MANY.format(n));

/** A measured number to four digits; "–" where there is none. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return Math.abs(value) < 1e-4 ? value.toExponential(Math.max(digits - 2, 1)) : String(Number(value.toPrecision(digits)));
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`);

export const seconds = (s) => (s === null || s === undefined ? "–" : `${s.toFixed(s < 10 ? 2 : 1)} s`);

/** A time of the service, in the reader's own zone. */
export function when(text) {
  if (!text) return "–";
  const at = new Date(text.includes("T") || text.endsWith("Z") ? text : `${text.replace(" ", "T")}Z`);
  return Number.isNaN(at.valueOf()) ? text : at.toLocaleString("sv-SE");
}

/** The first digits of a long id. */
export const short = (id, n = 14) => (id && id.length > n ? `${id.slice(0, n)}…` : id ?? "–");

/** Anything that a row holds, in a cell. */
export function plain(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return number(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.length ? value.map(plain).join(", ") : "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A name between the quotes of an expression. */
export const quoted = (text) => `'${String(text).replaceAll("'", "''")}'`;
