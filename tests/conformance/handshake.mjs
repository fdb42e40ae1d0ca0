// Executes one handshake case on a side and answers what the client saw.
import crypto from "node:crypto";
import { fill, pick } from "./session.mjs";

const SILENCE_MS = 20_000;

/** Parts of hello that depend on who else is connected or on a timer; `hello.mjs` cases compare them once. */
const HELLO_ASIDE = ["features", "snapshot.presence", "snapshot.health", "snapshot.stateVersion"];

function without(payload, paths) {
  const copy = structuredClone(payload);
  for (const path of paths) {
    const keys = path.split(".");
    const last = keys.pop();
    const parent = keys.reduce((at, key) => at?.[key], copy);
    if (parent) delete parent[last];
  }
  return copy;
}

function bytesOf(item) {
  if (typeof item === "string") return item;
  if (item.repeat) return " ".repeat(item.repeat);
  return Buffer.from(item.binary, "hex");
}

/** The device proof with the changes a case asks for. */
function prover(device, override = {}) {
  return {
    sign(input) {
      const { signedAtSkewMs, upperCaseId, pem, padded, scopes, role, token, ...rest } = override;
      const changed = { ...rest, fields: { ...rest.fields } };
      if (signedAtSkewMs) changed.signedAt = Date.now() + signedAtSkewMs;
      if (upperCaseId) changed.fields.id = device.id.toUpperCase();
      if (padded) changed.fields.publicKey = `${device.publicKey}=`;
      if (pem) {
        const raw = Buffer.from(device.publicKey, "base64url");
        const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]);
        changed.fields.publicKey = crypto.createPublicKey({ key: spki, format: "der", type: "spki" }).export({ format: "pem", type: "spki" });
      }
      const proof = device.sign({ ...input, scopes: scopes ?? input.scopes, role: role ?? input.role, token: token ?? input.token, override: changed });
      return Object.fromEntries(Object.entries(proof).filter(([, value]) => value !== undefined));
    },
  };
}

function credentials(value, secret) {
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, item === true ? secret : item]));
}

/** `session` holds the side and the values saved so far. */
export async function runHandshake(session, one) {
  const { side, fixtures } = session;
  const mask = session.mask.with(one.mask);
  const values = { ...session.saved, PORT: String(side.target.port) };
  const seen = {};
  let client;
  try {
    client = await session.open({ headers: fill(one.headers ?? {}, values), path: one.path });
  } catch (error) {
    return mask.apply({ http: error.status ? { status: error.status, body: error.body } : { failed: error.message } });
  }
  try {
    if (one.silent) {
      seen.close = await settled(client, one.waitMs ?? SILENCE_MS);
    } else if (one.raw) {
      await client.challenge();
      for (const item of one.raw) client.send(bytesOf(item));
      seen.close = await settled(client, 3000);
    } else {
      const { token, auth, ...connect } = fill(one.connect, values);
      const secret = side.secret;
      const given = auth ? credentials(auth, secret) : token === true ? { token: secret } : token === undefined ? undefined : { token };
      const device = one.device ? prover(fixtures.device(one.device), one.override) : undefined;
      const hello = await client.connect({ ...connect, ...(given ? { auth: given } : {}), ...(device ? { device } : {}) })
        .catch((error) => (error.close ? undefined : Promise.reject(error)));
      if (hello?.ok) {
        for (const [name, path] of Object.entries(one.save ?? {})) session.saved[name] = pick(hello, path);
        seen.hello = { ...hello, id: undefined, payload: without(hello.payload, one.whole ? [] : HELLO_ASIDE) };
        await after(client, one, session, seen);
      } else {
        seen.close = await settled(client, 3000);
      }
    }
    // What came before the close, in order; events of others' making are no part of a handshake.
    seen.frames = client.frames.filter((f) => f.type !== "event" || f.event === "connect.challenge")
      .filter((f) => !f.ok || f.payload?.type !== "hello-ok");
    if (client.close_) seen.close = client.close_;
    return mask.apply(JSON.parse(JSON.stringify(seen)));
  } finally {
    if (!client.close_) client.socket.terminate();
  }
}

async function after(client, one, session, seen) {
  const answers = client.frames.length;
  for (const item of one.frames ?? []) client.send(bytesOf(item));
  if (one.closes) {
    seen.close = await settled(client, 3000);
    return;
  }
  if (one.frames) {
    // Frames refused at once are answered in order, so a last call marks their end; `answers` waits for slower ones.
    const responses = () => client.frames.slice(answers).filter((f) => f.type === "res").length;
    if (one.answers) await client.frame(`${one.answers} answers`, () => responses() >= one.answers);
    const { id: _id, ...last } = await client.call("last-heartbeat", {});
    seen.last = last;
    seen.unanswered = one.frames.length - (client.frames.slice(answers).filter((f) => f.type === "res").length - 1);
  }
  for (const step of one.then ?? []) {
    const frame = await client.call(step.method, fill(step.params, session.saved));
    for (const [name, path] of Object.entries(step.save ?? {})) session.saved[name] = pick(frame, path) ?? `<missing ${name}>`;
  }
}

function settled(client, ms) {
  let timer;
  const patience = new Promise((resolve) => (timer = setTimeout(() => resolve({ open: true }), ms)));
  return Promise.race([client.closed, patience]).finally(() => clearTimeout(timer));
}
