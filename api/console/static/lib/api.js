// The service, asked as anybody asks it: JSON over /v1, the cookie for a key, problems as errors.

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? `the service answered ${status}`);
    Object.assign(this, { status, code: body.code ?? "unknown", fix: body.fix ?? null });
  }
}

const query = (params) => {
  const given = Object.entries(params ?? {}).filter(([, v]) => v !== undefined && v !== null && v !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

async function ask(method, path, { params, body, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(`/v1/${path}${query(params)}`, { method, headers, body: text, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the service does not answer", code: "unreachable", fix: "is it running?" });
  }
  if (answer.status === 204) return null;
  if (answer.ok) return answer.json();
  const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 401 && path !== "session") window.dispatchEvent(new CustomEvent("signed-out"));
  throw problem;
}

export const get = (path, params, signal) => ask("GET", path, { params, signal });
export const post = (path, body, signal) => ask("POST", path, { body, signal });
export const remove = (path) => ask("DELETE", path);

/** The parts of a path, each as one part whatever is in it. */
export const at = (...parts) => parts.map(encodeURIComponent).join("/");

let overview = null;

/** What the lake holds; asked once, and again after `forget`. */
export const held = () => (overview ??= get("overview").catch((error) => { overview = null; throw error; }));
export const forget = () => { overview = null; };
