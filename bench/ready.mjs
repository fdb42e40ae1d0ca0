// How long from spawning a gateway to its first 200: asked over raw sockets, since `fetch` costs tens of ms at first use.
import net from "node:net";

const POLL_MS = 1;

/** One HTTP request on its own connection; the status, or null when nobody listens (yet). */
export function statusOf(port, path) {
  return new Promise((resolve) => {
    const socket = net.connect({ port, host: "127.0.0.1", noDelay: true });
    let text = "";
    const done = (status) => {
      socket.destroy();
      resolve(status);
    };
    socket.setTimeout(2000, () => done(null));
    socket.on("error", () => done(null));
    socket.on("close", () => resolve(null));
    socket.on("connect", () => socket.write(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`));
    socket.setEncoding("latin1").on("data", (chunk) => {
      text += chunk;
      const status = text.match(/^HTTP\/1\.1 (\d{3})/)?.[1];
      if (status) done(Number(status));
    });
  });
}

/** For a gateway spawned just before (`waitReady: false`): ms from then to 200 of /healthz and of /readyz. */
export async function timeToReady(gateway, { timeoutMs = 180_000 } = {}) {
  const started = performance.now();
  const reached = {};
  for (const [name, path] of [["healthzMs", "/healthz"], ["readyzMs", "/readyz"]]) {
    while ((await statusOf(gateway.port, path)) !== 200) {
      if (gateway.child.exit) throw new Error(`${gateway.label} exited with ${JSON.stringify(gateway.child.exit)}:\n${gateway.child.output}`);
      if (performance.now() - started > timeoutMs) throw new Error(`${gateway.label} did not answer ${path} with 200 in ${timeoutMs} ms:\n${gateway.child.output}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    reached[name] = Math.round((performance.now() - started) * 10) / 10;
  }
  return reached;
}
