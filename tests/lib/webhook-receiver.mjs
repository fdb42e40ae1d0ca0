// A system at the other end of the webhook channel. Signatures are made and judged by the package `standardwebhooks`.
// What arrived is kept in `log`, in the order of arrival, whatever was answered.
import http from "node:http";
import crypto from "node:crypto";
import { Webhook } from "standardwebhooks";

export const SECRET = `whsec_${Buffer.from("a secret of thirty-two bytes, yes").toString("base64")}`;

/** `channels.webhook` for a receiver. */
export function webhookConfig(receiver, more = {}) {
  return { secret: SECRET, url: receiver.url, allowPrivateNetwork: true, dmPolicy: "open", allowFrom: ["*"], ...more };
}

export async function startReceiver({ secret = SECRET } = {}) {
  const judge = new Webhook(secret);
  const log = [];
  const receiver = {
    log,
    /** How each request is answered: given the entry, answers a word or `{status, headers, body}`. */
    behave: () => "ok",
    /** Messages as a receiver that keeps ids sees them: the first of each id. */
    distinct() {
      const seen = new Set();
      return log.filter((entry) => entry.taken && !seen.has(entry.id) && seen.add(entry.id));
    },
  };
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    try {
      for await (const chunk of request) chunks.push(chunk);
    } catch {
      // The sender died in the middle: nothing arrived.
      return;
    }
    const text = Buffer.concat(chunks).toString();
    const entry = { id: request.headers["webhook-id"], at: Date.now(), n: log.length };
    try {
      const body = judge.verify(text, request.headers);
      Object.assign(entry, { verified: true, body, target: body.target, text: body.text });
    } catch (error) {
      Object.assign(entry, { verified: false, why: error.message, raw: text });
    }
    const plan = entry.verified ? await receiver.behave(entry) : { status: 401 };
    entry.taken = plan === "ok" || plan === "lost" || plan === "half" || (plan.status >= 200 && plan.status < 300);
    entry.plan = plan;
    log.push(entry);
    if (plan === "lost" || plan === "reset") return request.socket.destroy();
    if (plan === "half") {
      response.writeHead(200, { "content-type": "application/json", "content-length": 100 });
      response.write('{"id":', () => request.socket.destroy());
      return;
    }
    if (response.destroyed) return;
    const { status = 200, headers = {}, body = "{}" } = plan === "ok" ? {} : plan;
    response.writeHead(status, { "content-type": "application/json", ...headers }).end(body);
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  receiver.url = `http://127.0.0.1:${server.address().port}/hook`;
  receiver.stop = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return receiver;
}

/** A signed message to us, as the other system posts it. Answers `{status, body}`. */
export async function post(target, body, { id = crypto.randomUUID(), at = new Date(), secret = SECRET, account = "default", headers = {} } = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const response = await fetch(`${target.url}/webhooks/webhook/${account}`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "webhook-id": id,
      "webhook-timestamp": String(Math.floor(at.getTime() / 1000)),
      "webhook-signature": new Webhook(secret).sign(id, at, text),
      ...headers,
    },
    body: text,
  });
  const answer = await response.text();
  return { status: response.status, body: answer ? JSON.parse(answer) : null };
}
