// Messages: durable accepts over HTTP, and sends through a chat channel to the end, ours and the original in turn against
// the same scripted Telegram server.
import { startBotApi } from "../tests/lib/bot-api.mjs";
import { startOriginal, startOurs, TOKEN } from "../tests/lib/gateway.mjs";
import { RawClient } from "../tests/lib/raw.mjs";
import autocannon from "../tests/node_modules/autocannon/autocannon.js";
import { medianOf } from "./numbers.mjs";

const CONNECTIONS = 64;
const SENDERS = 8;

/** `POST /api/message`: every answer is after an fsync. The original has nothing to compare it with. */
export async function accepts(field) {
  const { seconds } = field.plan;
  const ours = await startOurs();
  try {
    const contenders = [{ kind: "ours", label: "ours", pid: ours.child.pid }];
    const body = JSON.stringify({ channel: "webchat", target: "main", content: "A message of an ordinary length, as people write them." });
    const rows = await field.rounds(contenders, () => post(ours, { seconds, body }));
    return {
      title: `\`POST /api/message\`, ${CONNECTIONS} connections, each answer durable`,
      command: `autocannon -c ${CONNECTIONS} -d ${seconds} -m POST http://HOST/api/message`,
      throughput: rows,
      checks: [
        { what: "accepted per second", value: medianOf(rows[0].rounds, "perSecond"), target: 3000, unit: "/s", compare: ">=", ok: medianOf(rows[0].rounds, "perSecond") >= 3000 },
        { what: "RSS meanwhile, at most", value: Math.max(...rows[0].rounds.map((round) => round.peakRssMb)), target: 50, unit: "MB", compare: "<=", ok: rows[0].rounds.every((round) => round.peakRssMb <= 50) },
        { what: "refused", value: rows[0].rounds.reduce((sum, round) => sum + round.refused, 0), target: 0, unit: "requests", compare: "<=", ok: rows[0].rounds.every((round) => round.refused === 0) },
      ],
    };
  } finally {
    await ours.stop();
  }
}

async function post(gateway, { seconds, body }) {
  const result = await autocannon({
    url: `${gateway.url}/api/message`, method: "POST", connections: CONNECTIONS, duration: seconds, body,
    headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
  });
  return { perSecond: result["2xx"] / result.duration, latencyMs: { p50: result.latency.p50, p99: result.latency.p99 }, refused: result.non2xx + result.errors };
}

/** The method `send` to a Telegram chat, from the call to the answer: accepted, sent, acknowledged by the service. */
export async function sends(field) {
  const { seconds } = field.plan;
  const bot = await startBotApi();
  const config = { channels: { telegram: { botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"] } } };
  for (let n = 0; n < SENDERS; n++) bot.direct(100 + n);
  const ours = await startOurs({ config });
  // Two cannot read from one bot, so the original has its own.
  const otherBot = await startBotApi({ token: "220202543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw" });
  for (let n = 0; n < SENDERS; n++) otherBot.direct(100 + n);
  const original = await startOriginal({
    config: { channels: { telegram: { ...config.channels.telegram, botToken: otherBot.token, apiRoot: otherBot.url } } },
    timeoutMs: 180_000,
  });
  try {
    const rows = await field.rounds(
      [
        { kind: "ours", label: "ours", gateway: ours, pid: ours.child.pid },
        { kind: "original", label: "the original", gateway: original, pid: original.child.pid },
      ],
      ({ gateway }) => closedLoop(gateway, seconds),
    );
    const rate = (n) => medianOf(rows[n].rounds, "perSecond");
    return {
      title: `\`send\` to a Telegram chat, ${SENDERS} conversations at once, to the service's answer`,
      command: "bench/messages.mjs: RawClient, scripted Bot API in the same process",
      throughput: rows,
      checks: [{ what: "against the original", value: rate(0) / rate(1), target: 2, unit: "×", compare: ">=", ok: rate(0) / rate(1) >= 2 }],
    };
  } finally {
    await Promise.all([ours.stop(), original.stop()]);
    await Promise.all([bot.stop(), otherBot.stop()]);
  }
}

let run = 0;

async function closedLoop(gateway, seconds) {
  const latencies = [];
  let refused = 0;
  const began = performance.now();
  await Promise.all(Array.from({ length: SENDERS }, async (_, sender) => {
    const client = await RawClient.open(gateway.wsUrl);
    await client.connect({ token: TOKEN });
    while (performance.now() - began < seconds * 1000) {
      const start = performance.now();
      const answer = await client.call("send", { to: String(100 + sender), message: "A message of an ordinary length.", channel: "telegram", idempotencyKey: `bench-${process.pid}-${run++}` }, { timeoutMs: 60_000 });
      if (answer.ok) latencies.push(performance.now() - start);
      else if (++refused === 1) process.stderr.write(`send was refused: ${JSON.stringify(answer.error)}\n`);
    }
    await client.end();
  }));
  latencies.sort((a, b) => a - b);
  const at = (share) => latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))] ?? null;
  return { perSecond: latencies.length / ((performance.now() - began) / 1000), latencyMs: { p50: at(0.5), p99: at(0.99) }, refused };
}
