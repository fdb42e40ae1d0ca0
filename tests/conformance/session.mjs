// One side's connections by name, and the execution of cases on them.
import { RawClient, ALL_SCOPES } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";
import { Mask } from "./mask.mjs";

/** Who calls: connect parameters by name. `device` names a shared key. */
const CALLERS = {
  admin: { scopes: ALL_SCOPES },
  none: { scopes: [] },
  read: { scopes: ["operator.read"] },
  write: { scopes: ["operator.read", "operator.write"] },
  /** A person with a profile: backend clients have none. */
  person: { client: { id: "openclaw-tui", mode: "ui" }, device: "person", caps: ["agent-kind", "tool-events"] },
  /** A device whose tokens and pairing a case takes away. */
  spare: { client: { id: "openclaw-tui", mode: "ui" }, device: "spare" },
  node: { client: { id: "node-host", mode: "node", displayName: "Conformance node" }, role: "node", scopes: [], device: "node", caps: ["canvas"], commands: ["canvas.present"] },
};

const STEP_TIMEOUT_MS = 20_000;

/** `{ "$": "name" }` and `${name}` in parameters take values saved by earlier steps. */
export function fill(value, saved) {
  if (typeof value === "string") {
    const whole = /^\$\{(\w+)\}$/.exec(value);
    if (whole) return need(saved, whole[1]);
    return value.replace(/\$\{(\w+)\}/g, (_, name) => need(saved, name));
  }
  if (Array.isArray(value)) return value.map((item) => fill(item, saved));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, fill(v, saved)]));
  return value;
}

function need(saved, name) {
  if (!(name in saved)) throw new Error(`no saved value \${${name}}; have ${Object.keys(saved).join(", ")}`);
  return saved[name];
}

export const pick = (value, path) => path.split(".").reduce((at, key) => at?.[key], value);

export class Session {
  clients = new Map();
  /** Every connection ever opened, for the schema check of all frames. */
  all = [];
  saved = {};

  constructor(side, fixtures) {
    this.side = side;
    this.fixtures = fixtures;
    this.mask = new Mask({ places: side.places, keep: fixtures.keep });
    this.saved.workspace = side.workspace;
    this.saved.stateDir = side.stateDir;
  }

  async open(options) {
    const client = await RawClient.open(this.side.wsUrl, options);
    this.all.push(client);
    return client;
  }

  async caller(name) {
    const cached = this.clients.get(name);
    if (cached && !cached.close_) return cached;
    const { device, ...params } = CALLERS[name];
    const client = await this.open();
    const hello = await client.connect({ ...this.side.secretAuth(), ...params, ...(device ? { device: this.fixtures.device(device) } : {}) });
    if (!hello.ok) throw new Error(`${name} could not connect to ${this.side.kind}: ${JSON.stringify(hello.error)}`);
    client.hello = hello;
    this.clients.set(name, client);
    return client;
  }

  /** Waits for what a gateway adds to its hello some time after it is ready. */
  async warm() {
    await until("the update schedule in hello", async () => {
      const client = await this.open({ headers: this.side.proxyHeaders });
      const hello = await client.connect(this.side.secretAuth());
      if (!client.close_) await client.end();
      if (!hello.ok) throw new Error(JSON.stringify(hello.error));
      // Only readers are shown the schedule.
      return hello.payload.snapshot.updateSchedule ?? hello.payload.auth.scopes.length === 0;
    }, { everyMs: 100 });
  }

  /** The whole response frame without its id, or what happened instead. */
  async call(step) {
    const client = await this.caller(step.as ?? "admin");
    try {
      const { id: _id, ...frame } = await client.call(step.method, fill(step.params, this.saved), {
        timeoutMs: step.timeoutMs ?? STEP_TIMEOUT_MS,
        ...(step.final ? { final: (f) => !f.ok || f.payload?.status !== "accepted" } : {}),
      });
      return frame;
    } catch (error) {
      return error.close ? { closed: error.close } : { failed: error.message };
    }
  }

  /** Runs a case, keeps what it saves, answers its masked result. */
  async run(step) {
    const frame = await this.call(step);
    for (const [name, path] of Object.entries(step.save ?? {})) this.saved[name] = pick(frame, path) ?? `<missing ${name}>`;
    return { frame, masked: this.mask.with(step.mask).apply(frame) };
  }

  async end() {
    for (const client of this.clients.values()) await client.end();
  }
}
