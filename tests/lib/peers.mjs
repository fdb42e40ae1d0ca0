// What the Rust tests of the channels talk to, driven over HTTP: `node peers.mjs <port>`, then POST a JavaScript
// expression and get its value as JSON. In scope: `scripted` (a Bot API server that grammy accepts), `emulator`
// (telegram-test-api), `receiver` (an HTTP server that verifies with standardwebhooks) and `sign`.
import http from "node:http";
import { Webhook } from "standardwebhooks";
import TelegramServer from "telegram-test-api";
import { startBotApi } from "./bot-api.mjs";
import { freePort } from "./tools.mjs";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
const EMULATED = "123456:token-of-the-emulator";

async function read(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text;
}

const listen = (server, port) => new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", () => resolve(server.address().port)));

async function startEmulator() {
  const server = new TelegramServer({ port: await freePort(), host: "127.0.0.1", storage: "RAM", storeTimeout: 600 });
  await server.start();
  const client = server.getClient(EMULATED, { chatId: 42, userId: 42, firstName: "Ann", timeout: 20_000 });
  return { token: EMULATED, url: server.config.apiURL, client, server };
}

/** Takes what is signed and fresh; `answers` are given first, then 200. */
async function startReceiver() {
  const receiver = { taken: [], refused: [], answers: [] };
  const server = http.createServer(async (request, response) => {
    const text = await read(request);
    const { status = 200, headers = {}, body = {}, destroy } = receiver.answers.shift() ?? {};
    try {
      const payload = new Webhook(SECRET).verify(text, request.headers);
      if (status < 300) receiver.taken.push({ id: request.headers["webhook-id"], payload });
    } catch (error) {
      receiver.refused.push(error.message);
      return response.writeHead(400).end();
    }
    if (destroy) return request.socket.destroy();
    response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(body));
  });
  receiver.url = `http://127.0.0.1:${await listen(server, 0)}/hook`;
  return receiver;
}

const scope = {
  scripted: await startBotApi(),
  emulator: await startEmulator(),
  receiver: await startReceiver(),
  secret: SECRET,
  /** The headers of a message that is sent to us, `ageSeconds` ago. */
  sign(id, body, ageSeconds = 0, secret = SECRET) {
    const at = new Date(Date.now() - ageSeconds * 1000);
    return { "webhook-id": id, "webhook-timestamp": String(Math.floor(at / 1000)), "webhook-signature": new Webhook(secret).sign(id, at, body) };
  },
};

const AsyncFunction = (async () => {}).constructor;
const control = http.createServer(async (request, response) => {
  try {
    const value = await new AsyncFunction(...Object.keys(scope), `return (${await read(request)});`)(...Object.values(scope));
    response.end(JSON.stringify(value ?? null));
  } catch (error) {
    response.writeHead(500).end(String(error.stack));
  }
});
await listen(control, Number(process.argv[2]));
