// An owner who is locked out: no device, no token at hand, his address locked. Who may read the gateway's files on its own machine
// lets him in again, with one command, and nobody else can.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { gatewayBinary } from "../lib/tools.mjs";

const run = promisify(execFile);
const TUI = { id: "openclaw-tui", mode: "ui" };
const READ = ["operator.read"];
const WRONG_MAX = 3;

test("an owner who is locked out gets in again from the machine itself", async (t) => {
  const auth = { mode: "token", token: TOKEN, rateLimit: { maxAttempts: WRONG_MAX } };
  const ours = await startOurs({ config: { gateway: { trustedProxies: ["127.0.0.1"], auth } } });
  t.after(() => ours.stop());
  const from = async (address, options) => {
    const client = await RawClient.open(ours.wsUrl, { headers: { "x-forwarded-for": address } });
    t.after(() => client.end());
    return Object.assign(client, { answer: await client.connect(options) });
  };
  // As after a terminal was closed: nothing but the person's files.
  const env = { ...ours.env };
  for (const name of Object.keys(env)) if (/TOKEN|PASSWORD/.test(name)) delete env[name];
  const own = async (...args) => (await run(gatewayBinary(), args, { env, cwd: ours.stateDir })).stdout;

  const home = "203.0.113.9";
  for (let i = 0; i < WRONG_MAX; i++) assert.equal((await from(home, { token: `guessed-${i}` })).answer.ok, false);
  const locked = (await from(home, { token: TOKEN })).answer;
  assert.equal(locked.ok, false, "the right one is refused there too");
  assert.match(JSON.stringify(locked.error), /rate_limited|too many/i);

  // What he lost, behind `#`, where no server and no log sees it.
  const link = new URL((await own("console")).trim());
  assert.equal(new URLSearchParams(link.hash.slice(1)).get("token"), TOKEN);
  assert.ok(!ours.child.output.includes(TOKEN));

  // A new device, from where nobody guessed.
  const device = { token: TOKEN, client: TUI, device: new Device(), scopes: READ };
  const asked = (await from("203.0.113.10", device)).answer;
  assert.equal(asked.error?.details?.code, "PAIRING_REQUIRED", JSON.stringify(asked));
  assert.match(await own("devices", "list"), new RegExp(asked.error.details.requestId));
  await own("devices", "approve", asked.error.details.requestId);
  assert.equal((await from("203.0.113.10", device)).answer.ok, true);

  // Without the files there is nothing to show: not the token, and nobody is let in.
  const empty = path.join(ours.stateDir, "of-somebody-else");
  fs.mkdirSync(empty);
  const stranger = { ...env, HOME: empty, OPENCLAW_STATE_DIR: empty, OPENCLAW_CONFIG_PATH: path.join(empty, "openclaw.json"), OPENCLAW_GATEWAY_PORT: String(ours.port) };
  const refused = await run(gatewayBinary(), ["devices", "list"], { env: stranger, cwd: empty }).then(() => undefined, (error) => error);
  assert.ok(refused?.code > 0, "somebody without the files listed the devices");
  assert.ok(!`${refused.stdout}${refused.stderr}`.includes(TOKEN));
});
