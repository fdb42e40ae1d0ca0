// The HTTP message API as anybody would call it: fetch, a bearer token, JSON.
import { until } from "./tools.mjs";

export class MessageApi {
  constructor(target, { token = target.token } = {}) {
    this.url = target.url;
    this.token = token;
  }

  /** `{status, headers, body}`, whatever the status. */
  async call(method, path, { body, headers = {}, signal } = {}) {
    const response = await fetch(`${this.url}${path}`, {
      method,
      signal,
      headers: {
        ...(this.token ? { authorization: `Bearer ${this.token}` } : {}),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body),
    });
    const text = await response.text();
    let parsed = text;
    try {
      parsed = JSON.parse(text);
    } catch {
      // Not JSON: shown as it is.
    }
    return { status: response.status, headers: response.headers, body: parsed };
  }

  send(body, { key, ...rest } = {}) {
    return this.call("POST", "/api/message", { body, headers: key ? { "idempotency-key": key } : {}, ...rest });
  }

  /** The message once it is in one of `states`. */
  async settled(id, states = ["delivered", "dead", "in_doubt", "done", "failed"], options) {
    let seen;
    return until(`${id} to be ${states.join(" or ")}`, async () => {
      seen = (await this.call("GET", `/api/message/${id}`)).body;
      return states.includes(seen.message?.state) && seen;
    }, options).catch((error) => {
      throw new Error(`${error.message}; last seen: ${JSON.stringify(seen)}`, { cause: error });
    });
  }

  /** Every message that a filter finds, over all pages. */
  async all(filter = {}) {
    const found = [];
    let before;
    do {
      const query = new URLSearchParams({ ...filter, limit: "200", ...(before ? { before } : {}) });
      const { status, body } = await this.call("GET", `/api/messages?${query}`);
      if (status !== 200) throw new Error(`/api/messages?${query}: ${status} ${JSON.stringify(body)}`);
      found.push(...body.messages);
      before = body.next;
    } while (before);
    return found;
  }
}
