// Executes the valid calls of cases/valid.mjs on a side, in order, and says what of them did not go as written.
import path from "node:path";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";
import { advertised } from "./cases/matrix.mjs";
import { leftOut, prepare, steps } from "./cases/valid.mjs";
import { pick } from "./session.mjs";

/** Longer than a step that waits for a run. */
const STEP_MS = 75_000;

export const idOf = (step) => `valid/${step.method}${step.name ? `/${step.name}` : ""}`;

/** What steps take besides what earlier ones saved. */
export function begin(session) {
  for (const name of ["node", "spare"]) session.saved[`${name}Id`] = session.fixtures.device(name).id;
  session.saved.originDir = path.dirname(session.side.workspace);
  session.saved.now = Date.now();
}

export async function runValid(session, put) {
  prepare(session.side);
  begin(session);
  const original = new Original(session.side);
  await original.idle();
  for (const step of steps) {
    if (step.idle) await original.idle();
    const { masked, frame } = await session.run({ timeoutMs: STEP_MS, ...step });
    for (const list of step.unordered ?? []) pick(masked, list)?.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
    put(idOf(step), masked, frame);
    if (step.settle) await original.settled();
  }
  await original.end();
}

/** The original of a side, asked beside the calls that are compared. */
export class Original {
  constructor(side) {
    this.target = side.upstream ?? side.target;
  }

  async ask(method) {
    if (!this.client) {
      this.client = await RawClient.open(this.target.wsUrl);
      await this.client.connect({ token: this.target.token });
    }
    return (await this.client.call(method, {})).payload;
  }

  /** Until it has taken over what was written to its file: two changes at once make it restart. */
  async settled() {
    await until("the written configuration in use", async () => {
      const { configRevisionHash, appliedConfigHash } = await this.ask("config.get");
      return configRevisionHash === appliedConfigHash;
    }, { everyMs: 250 });
  }

  /** Until nothing runs that it would wait for. */
  async idle() {
    await until("nothing that runs", async () => (await this.ask("gateway.restart.preflight")).safe, { everyMs: 100 });
  }

  async end() {
    await this.client?.end();
  }
}

/** What a step's answer on the original must be like, or undefined when it is. */
function wrong(step, frame) {
  const said = frame?.ok ? "ok" : (frame?.error?.message ?? JSON.stringify(frame));
  if (step.refused ? !frame?.ok && said.includes(step.refused) : frame?.ok) return undefined;
  return `${idOf(step)}: ${step.refused ? `turned down with "${step.refused}"` : "ok"} expected, got: ${said}`;
}

/** Methods by what is said about them, and everything in the list that is not so (any more). */
export function judge(frames) {
  const answered = new Set(steps.filter((step) => !step.refused).map((step) => step.method));
  const refused = new Set(steps.map((step) => step.method).filter((method) => !answered.has(method)));
  const left = new Set(Object.keys(leftOut));
  const known = new Set([...answered, ...refused, ...left]);
  const complaints = [
    ...advertised.methods.filter((method) => !known.has(method)).map((method) => `${method} is advertised and has no valid call`),
    ...[...left].filter((method) => answered.has(method) || refused.has(method)).map((method) => `${method} is left out and called`),
    ...[...left].filter((method) => !advertised.methods.includes(method)).map((method) => `${method} is left out and not advertised`),
  ];
  const unexpected = steps.map((step) => wrong(step, frames.get(idOf(step)))).filter(Boolean);
  const count = (methods) => [...methods].filter((method) => advertised.methods.includes(method)).length;
  return { answered: count(answered), refused: count(refused), left: count(left), complaints, unexpected };
}
