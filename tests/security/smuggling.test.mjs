// Requests that two parsers could read in two ways, sent to us with the original behind: each is one request or none, and
// nobody else's answer changes. Whatever of it is passed on goes over connections that other clients share.
import assert from "node:assert/strict";
import net from "node:net";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { PATIENCE_MS } from "../lib/tools.mjs";

let original, ours;
before(async () => {
  original = await startOriginal({ config: { gateway: { http: { endpoints: { chatCompletions: { enabled: true } } } } } });
  ours = await startOurs({ upstream: { attach: original } });
});
after(() => Promise.all([ours, original].map((target) => target?.stop())));

/** The second request, hidden in the first one's body for whoever ends that body too early. */
const HIDDEN = "GET /v1/models?hidden HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const chunked = (text) => `${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n`;
const head = (...lines) => ["POST /tools/invoke HTTP/1.1", "Host: 127.0.0.1", `Authorization: Bearer ${TOKEN}`, "Content-Type: application/json", ...lines].join("\r\n") + "\r\n\r\n";

const AMBIGUOUS = {
  "a length and chunks": head(`Content-Length: ${5 + HIDDEN.length}`, "Transfer-Encoding: chunked") + "0\r\n\r\n" + HIDDEN,
  "chunks and a length": head("Transfer-Encoding: chunked", "Content-Length: 4") + chunked(HIDDEN),
  "two lengths": head("Content-Length: 2", `Content-Length: ${2 + HIDDEN.length}`) + "{}" + HIDDEN,
  "lengths in a list": head(`Content-Length: 2, ${2 + HIDDEN.length}`) + "{}" + HIDDEN,
  "a length with a sign": head("Content-Length: +2") + "{}" + HIDDEN,
  "a length in hex": head("Content-Length: 0x2") + "{}" + HIDDEN,
  "chunks spelled oddly": head("Transfer-Encoding: xchunked", `Content-Length: ${HIDDEN.length}`) + HIDDEN,
  "chunks twice": head("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + chunked("{}") + HIDDEN,
  "chunks behind a tab": head("Transfer-Encoding:\tchunked", "Content-Length: 2") + chunked("{}"),
  "a space before the colon": head("Transfer-Encoding : chunked", "Content-Length: 2") + "{}" + HIDDEN,
  "a folded header": head("X-Folded: a\r\n Transfer-Encoding: chunked", "Content-Length: 2") + "{}",
  "a bare line feed": head("Content-Length: 2").replace("Content-Type: application/json\r\n", "Content-Type: application/json\nTransfer-Encoding: chunked\n") + "{}",
  "a carriage return in a value": head("X-A: b\rTransfer-Encoding: chunked", "Content-Length: 2") + "{}",
  "a zero byte in a value": head("X-A: b\0c", "Content-Length: 2") + "{}",
  "a chunk size past 64 bits": head("Transfer-Encoding: chunked") + "10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN,
  "a line feed in a chunk's extension": head("Transfer-Encoding: chunked") + "2;a\n\r\n{}\r\n0\r\n\r\n" + HIDDEN,
  "a body nobody announced": "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + "{}" + HIDDEN,
  "a connection that names a header to drop": head("Connection: close, Authorization", "Content-Length: 2") + "{}",
  "an absolute target elsewhere": "GET http://198.51.100.1/v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
};

/** Sends the bytes, and answers the statuses that came back until the peer has nothing more to say. */
function exchange(target, bytes) {
  return new Promise((resolve) => {
    let text = "";
    const socket = net.connect(target.port, "127.0.0.1", () => socket.write(bytes));
    const done = () => {
      clearTimeout(quiet);
      socket.destroy();
      resolve([...text.matchAll(/^HTTP\/1\.[01] (\d{3})/gm)].map(([, status]) => Number(status)));
    };
    // We answer each of these; the original may wait for the rest of a body and say nothing, which is shown and not judged.
    let quiet = setTimeout(done, target === ours ? PATIENCE_MS : 3000);
    socket.setEncoding("latin1").on("data", (chunk) => {
      text += chunk;
      clearTimeout(quiet);
      quiet = setTimeout(done, 700);
    });
    socket.on("close", done).on("error", done);
  });
}

test("each is one request or none, and the hidden one never runs with the first one's rights", async () => {
  for (const [name, bytes] of Object.entries(AMBIGUOUS)) {
    const [direct, through] = await Promise.all([exchange(original, bytes), exchange(ours, bytes)]);
    const row = `${name}: ${JSON.stringify({ direct, through })}`;
    // A hidden request that is answered is one that was sent openly, behind a whole first one: it has no token, so 401.
    assert.ok(through.slice(1).every((status) => [400, 401, 404].includes(status)), row);
    // One that the original can't read is the client's fault through us too: it says nothing of the gateway behind.
    assert.ok(through.length > 0 && through[0] >= 400 && through[0] < 500, row);
    // Whoever comes next over the same connections behind us gets the answer to what they asked.
    for (const [path, status] of [["/v1/models", 200], ["/v1/nothing-of-the-kind", 404]]) {
      const answer = await fetch(`${ours.url}${path}`, { headers: { authorization: `Bearer ${TOKEN}` } });
      assert.equal(answer.status, status, `after ${name}, ${path}: ${await answer.text()}`);
    }
  }
});
