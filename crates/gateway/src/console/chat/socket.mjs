// The connection to the gateway: signed in, kept, made again when it is lost. Calls and events, nothing of what they mean.
import { secret } from "../api.mjs";
import { deviceToken, prove } from "./device.mjs";

const CALL_MS = 30_000;
/** The gateway says something every 30 s. */
const SILENCE_MS = 75_000;
const PAUSES_MS = [200, 500, 1000, 2000, 5000, 10_000];
const { auth: mode, version } = document.documentElement.dataset;
const client = { id: "openclaw-control-ui", version, buildId: "dev", platform: "web", mode: "webchat" };
const role = "operator";
const scopes = ["operator.read", "operator.write", "operator.approvals"];

/** The gateway answered, and said no. */
export class Refused extends Error {
  constructor({ message, code, details, retryAfterMs }) {
    super(message);
    Object.assign(this, { code, details: details ?? {}, retryAfterMs });
  }
}

/** Nothing answered. */
export class Lost extends Error {}

/** What happens, told to the page. `refused` answers after how long to ask again, or nothing. */
export const on = { hello() {}, event() {}, lost() {}, refused() {} };

let socket = null;
let isReady = false;
let isWanted = false;
let heardMs = 0;
let tries = 0;
let timer;
let last = 0;
const calls = new Map();

function send(method, params) {
  const id = `p${++last}`;
  return new Promise((resolve, reject) => {
    const patience = setTimeout(() => settle(id, () => reject(new Lost(`no answer within ${CALL_MS / 1000} s`))), CALL_MS);
    calls.set(id, { resolve, reject, patience });
    socket.send(JSON.stringify({ type: "req", id, method, params }));
  });
}

function settle(id, how) {
  const call = calls.get(id);
  if (!call) return;
  calls.delete(id);
  clearTimeout(call.patience);
  how(call);
}

/** Rejects with `Refused` or `Lost`. */
export const call = (method, params = {}) => (isReady ? send(method, params) : Promise.reject(new Lost("no connection")));

function credentials() {
  const own = secret.get();
  if (own) return mode === "password" ? { password: own } : { token: own };
  const kept = deviceToken.get();
  return kept ? { deviceToken: kept } : undefined;
}

async function greet(own, challenge) {
  const auth = credentials();
  const token = auth?.token ?? auth?.deviceToken ?? "";
  const device = await prove({ challenge, client, role, scopes, token });
  if (socket !== own) return;
  const params = { minProtocol: 4, maxProtocol: 4, client, role, scopes, caps: ["approvals"], device, locale: navigator.language, userAgent: navigator.userAgent };
  if (auth) params.auth = auth;
  let hello;
  try {
    hello = await send("connect", params);
  } catch (error) {
    if (socket !== own || !(error instanceof Refused)) return;
    if (auth?.deviceToken && /^AUTH_(DEVICE_TOKEN|SCOPE|UNAUTH)/.test(error.details.code ?? "")) deviceToken.forget();
    drop();
    const again = on.refused(error);
    isWanted &&= again !== undefined;
    if (isWanted) later(again);
    return;
  }
  if (hello.auth?.deviceToken) deviceToken.set(hello.auth.deviceToken);
  isReady = true;
  tries = 0;
  on.hello(hello);
}

function take(own, text) {
  heardMs = Date.now();
  const frame = JSON.parse(text);
  if (frame.type === "res") {
    settle(frame.id, ({ resolve, reject }) => (frame.ok ? resolve(frame.payload) : reject(new Refused(frame.error))));
  } else if (frame.event === "connect.challenge") {
    greet(own, frame.payload).catch((error) => {
      console.error(error);
      own.close();
    });
  } else if (isReady) on.event(frame.event, frame.payload ?? {});
}

/** Lets go of the socket, and of whoever waits for an answer. */
function drop() {
  const own = socket;
  socket = null;
  isReady = false;
  own?.close();
  for (const id of [...calls.keys()]) settle(id, ({ reject }) => reject(new Lost("the connection was lost")));
}

function later(pauseMs) {
  clearTimeout(timer);
  timer = setTimeout(dial, pauseMs);
}

function dial() {
  clearTimeout(timer);
  if (socket || !isWanted) return;
  const address = new URL("../../", import.meta.url);
  address.protocol = address.protocol.replace("http", "ws");
  const own = new WebSocket(address);
  socket = own;
  heardMs = Date.now();
  own.onmessage = ({ data }) => socket === own && take(own, data);
  own.onclose = () => {
    if (socket !== own) return;
    drop();
    on.lost();
    if (isWanted) later(PAUSES_MS[Math.min(tries++, PAUSES_MS.length - 1)]);
  };
}

/** Connects, and stays so. */
export function start() {
  isWanted = true;
  tries = 0;
  dial();
}

export function stop() {
  isWanted = false;
  clearTimeout(timer);
  drop();
}

// A socket can die unheard: a laptop that slept, a network that changed.
setInterval(() => {
  if (socket && Date.now() - heardMs > SILENCE_MS) {
    drop();
    on.lost();
    dial();
  }
}, 15_000);
addEventListener("online", dial);
document.addEventListener("visibilitychange", () => !document.hidden && dial());
