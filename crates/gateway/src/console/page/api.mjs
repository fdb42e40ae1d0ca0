// Calls to the gateway, with the secret that the person gave to this tab. It is sent in a header, never in an address.

const KEY = "openclaw-console-secret";
const PATIENCE_MS = 10_000;

/** The gateway answered, and said no. */
export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Nothing answered. */
export class Unreachable extends Error {}

export const secret = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A link may bring it behind `#`, which no browser sends; it does not stay there. */
export function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  if (given.trim()) secret.set(given.trim());
  history.replaceState(null, "", location.pathname);
}

/** Answers the JSON of `path` below the gateway's root. */
export async function call(path, { method = "GET" } = {}) {
  const headers = { accept: "application/json" };
  const own = secret.get();
  if (own) headers.authorization = `Bearer ${own}`;
  let response;
  let text;
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    response = await fetch(new URL(`../${path}`, document.baseURI), { method, headers, signal, cache: "no-store", redirect: "error" });
    text = await response.text();
  } catch (error) {
    throw new Unreachable(error.name === "TimeoutError" ? `no answer within ${PATIENCE_MS / 1000} s` : "no connection", { cause: error });
  }
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { error: text.slice(0, 300) };
  }
  if (response.ok) return body;
  const said = body.error?.message ?? body.error ?? `status ${response.status}`;
  throw new Refused(response.status, String(said), response.headers.get("retry-after"));
}

export const order = (path, method = "POST") => call(path, { method });
