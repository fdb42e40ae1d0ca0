// Stands in for the `tailscale` command line and, while it holds a route, for the proxy of its daemon: the questions and
// answers of src/infra/tailscale.ts and src/infra/tailscale-route-owner.worker.ts at 2026.9.6, from files in one folder:
//   calls (written: a line of arguments each), serve.json, funnel.json, status.json, whois.json, refuse, address (written).
import fs from "node:fs";
import http from "node:http";
import path from "node:path";

const [dir, ...args] = process.argv.slice(2);
const file = (name) => path.join(dir, name);
const read = (name, otherwise) => (fs.existsSync(file(name)) ? fs.readFileSync(file(name), "utf8") : otherwise);
fs.appendFileSync(file("calls"), `${JSON.stringify(args)}\n`);

function fail(words) {
  process.stderr.write(`${words}\n`);
  process.exit(1);
}

/** What the daemon tells of the client: the test says who that is by `x-test-…`; what the client claims itself is dropped. */
function forwarded(headers, funnel) {
  const out = Object.fromEntries(Object.entries(headers).filter(([name]) => !/^(x-forwarded-|tailscale-|x-test-)/.test(name)));
  out["x-forwarded-for"] = headers["x-test-client"] ?? "100.64.0.9";
  out["x-forwarded-proto"] = "https";
  out["x-forwarded-host"] = "box.tail1.ts.net";
  out.host = "box.tail1.ts.net";
  if (headers["x-test-public"] && funnel) out["tailscale-funnel-request"] = "?1";
  else if (headers["x-test-login"]) {
    out["tailscale-user-login"] = headers["x-test-login"];
    out["tailscale-user-name"] = "A Person";
  }
  return out;
}

function hold(mode, port) {
  const onward = (request) => http.request({
    host: "127.0.0.1", port, method: request.method, path: request.url, headers: forwarded(request.headers, mode === "funnel"),
  });
  const proxy = http.createServer((request, response) => {
    const upstream = onward(request);
    upstream.on("response", (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    upstream.on("error", () => response.destroy());
    request.pipe(upstream);
  });
  proxy.on("upgrade", (request, socket) => {
    const upstream = onward(request);
    upstream.on("upgrade", (answer, onwards, head) => {
      const lines = Object.entries(answer.headers).map(([name, value]) => `${name}: ${value}`);
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join("\r\n")}\r\n\r\n`);
      socket.write(head);
      onwards.pipe(socket).pipe(onwards);
      onwards.on("error", () => socket.destroy());
      socket.on("error", () => onwards.destroy());
    });
    upstream.on("response", (answer) => {
      let body = "";
      answer.on("data", (data) => (body += data)).on("end", () => {
        socket.end(`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
      });
    });
    upstream.on("error", () => socket.destroy());
    upstream.end();
  });
  proxy.listen(0, "127.0.0.1", () => {
    const address = { url: `http://127.0.0.1:${proxy.address().port}`, pid: process.pid, target: Number(port) };
    fs.writeFileSync(file("address.new"), JSON.stringify(address));
    fs.renameSync(file("address.new"), file("address"));
    process.stdout.write(`Available within your tailnet:\n\nhttps://box.tail1.ts.net/\n|-- proxy http://127.0.0.1:${port}\n\nPress Ctrl+C to exit.\n`);
  });
}

const line = args.join(" ");
if (line === "version") process.stdout.write("1.90.0\n");
else if (line === "status --json") {
  process.stdout.write(read("status.json", JSON.stringify({ BackendState: "Running", Self: { DNSName: "box.tail1.ts.net.", TailscaleIPs: ["100.64.0.7"] } })));
} else if (line === "serve status --json") process.stdout.write(read("serve.json", "{}"));
else if (line === "funnel status --json") process.stdout.write(read("funnel.json", "{}"));
else if (line === "serve --yes --https=443 --set-path=/ off") fs.rmSync(file("serve.json"), { force: true });
else if (args[0] === "whois") {
  const login = JSON.parse(read("whois.json", "{}"))[args[2]];
  if (!login) fail("peer not found");
  process.stdout.write(JSON.stringify({ Node: {}, UserProfile: { LoginName: login, DisplayName: "A Person" } }));
} else if (args[1] === "--yes" && args[2] === "--bg=false") {
  const refusal = read("refuse");
  if (refusal) fail(refusal);
  hold(args[0], args[3]);
} else fail(`unknown: ${line}`);
