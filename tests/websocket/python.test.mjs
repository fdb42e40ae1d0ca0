// A third client with framing that we did not write: Python's `websockets`, from Debian.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import test from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";

const SCRIPT = String.raw`
import asyncio, json, sys, websockets

async def answer(socket, ident):
    while True:
        frame = json.loads(await socket.recv())
        if frame.get("type") == "res" and frame["id"] == ident:
            return frame["ok"]

async def main(url, token):
    seen = {}
    async with websockets.connect(url, max_size=None, open_timeout=60, ping_timeout=60) as socket:
        seen["extensions"] = [e.name for e in socket.extensions]
        seen["challenge"] = json.loads(await socket.recv())["event"]
        client = dict(id="gateway-client", version="2026.9.6", platform="linux", mode="backend")
        params = dict(minProtocol=4, maxProtocol=4, client=client, caps=[], role="operator",
                      scopes=["operator.read"], auth=dict(token=token))
        await socket.send(json.dumps(dict(type="req", id="connect", method="connect", params=params)))
        seen["hello"] = await answer(socket, "connect")
        text = json.dumps(dict(type="req", id="κόσμε-😀", method="last-heartbeat"), ensure_ascii=False)
        await socket.send(text)
        seen["whole"] = await answer(socket, "κόσμε-😀")
        await socket.send(iter([text[:9], text[9:20], text[20:]]))
        seen["fragments"] = await answer(socket, "κόσμε-😀")
        await socket.send(text + " " * (4 << 20))
        seen["large"] = await answer(socket, "κόσμε-😀")
        await asyncio.wait_for(await socket.ping(b"payload"), 60)
        seen["pong"] = True
        await socket.close(4321, "done")
        seen["close"] = socket.close_code
    print(json.dumps(seen))

asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 100))
`;

for (const [name, start] of [["original", startOriginal], ["ours", startOurs]]) {
  test(`Python's websockets talks, in fragments too, pings and closes (${name})`, async (t) => {
    const target = await start();
    t.after(() => target.stop());
    // Debian's own interpreter: the package is there and nowhere else.
    const child = spawn("/usr/bin/python3", ["-c", SCRIPT, target.wsUrl, TOKEN], { stdio: ["ignore", "pipe", "pipe"] });
    let [out, errors] = ["", ""];
    child.stdout.on("data", (chunk) => (out += chunk));
    child.stderr.on("data", (chunk) => (errors += chunk));
    const code = await new Promise((resolve) => child.on("close", resolve));
    assert.equal(code, 0, errors);
    assert.deepEqual(JSON.parse(out), {
      extensions: [], challenge: "connect.challenge", hello: true, whole: true, fragments: true, large: true, pong: true, close: 4321,
    });
  });
}
