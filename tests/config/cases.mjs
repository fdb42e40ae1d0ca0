// Sample files and calls for the configuration methods. `record-original.mjs` runs them against the
// original; the Rust tests beside crates/gateway/src/config/api.rs run the recorded ones against us.

const TOKEN = "conformance-token-0123456789abcdef";
export const base = { gateway: { mode: "local", auth: { mode: "token", token: TOKEN } }, discovery: { mdns: { mode: "off" } } };
const merged = (extra, gateway = {}) => ({ ...base, ...extra, gateway: { ...base.gateway, ...gateway } });
const text = (value) => `${JSON.stringify(value, null, 2)}\n`;
const json = (extra, gateway) => ({ "openclaw.json": text(merged(extra, gateway)) });
// Reload is off, so that reading a file does not also apply it.
const still = (extra, gateway) => json(extra, { reload: { mode: "off" }, ...gateway });

/** Variables both gateways run with. */
export const env = { SET_VAR: "set-value", SECRET_VAR: "secret-from-env", GREETING: "hello" };

/** config.get on these files. */
export const reads = {
  minimal: still({}),
  json5: { "openclaw.json": `// mine
{
  gateway: { mode: 'local', reload: { mode: 'off' }, auth: { mode: "token", token: "${TOKEN}" }, }, // end
  /* block */ discovery: { mdns: { mode: "off" } },
}
` },
  "token in env": still({}, { auth: { mode: "token", token: "${SECRET_VAR}" } }),
  "missing variable": still({ messages: { responsePrefix: "${NOT_SET} ${GREETING} $${GREETING}" } }),
  "secret reference": still({ models: { providers: { custom: { baseUrl: "http://127.0.0.1:9/v1", apiKey: { source: "env", provider: "default", id: "SECRET_VAR" }, api: "openai-completions", models: [{ id: "m", name: "M" }] } } } }),
  "inline secrets": still({
    models: { providers: { custom: { baseUrl: "http://user:pw@127.0.0.1:9/v1?api_key=abc", apiKey: "sk-inline-secret", api: "openai-completions", models: [{ id: "m", name: "M", contextWindow: 1000, maxTokens: 100 }] } } },
    hooks: { enabled: true, token: "hook-token-1234567890" },
    env: { vars: { SOME_KEY: "plain", OTHER_TOKEN: "tok-in-vars" } },
  }),
  "secret that is also a plain value": still({ messages: { responsePrefix: "local" } }, { auth: { mode: "token", token: "local" } }),
  agents: still({ agents: { defaults: { model: "openai/gpt-5.4", maxConcurrent: 3 }, entries: { main: {}, ops: { name: "Ops", model: { primary: "custom/m" } } }, ownership: "explicit" } }),
  "agents as a list": still({ agents: { list: [{ id: "main" }, { id: "ops", name: "Ops" }] } }),
  "one agent": still({ agents: { entries: { solo: { name: "Solo" } } } }),
  session: still({ session: { dmScope: "per-peer", mainKey: "other", identityLinks: { me: ["telegram:1"] } }, messages: { queue: { mode: "collect" } } }),
  included: {
    "openclaw.json": `{ $include: "./parts/base.json5", messages: { $include: ["./parts/m1.json", "./parts/m2.json"], responsePrefix: "top" } }`,
    "parts/base.json5": text({ ...base, gateway: { ...base.gateway, reload: { mode: "off" } } }),
    "parts/m1.json": text({ responsePrefix: "one", ackReaction: "a" }),
    "parts/m2.json": text({ ackReaction: "b" }),
  },
  "syntax error": { "openclaw.json": "{\n  gateway: {\n    port: 1 mode: 2\n  }\n}\n" },
  "unknown key": still({ nonsense: 1 }),
  "unknown gateway key": still({}, { prot: 1 }),
  "wrong type": still({}, { port: "x" }),
  "wrong enum": still({}, { bind: "all" }),
  "many errors": still({ session: { scope: 3 }, cron: { enabled: "yes" } }, { port: 0, trustedProxies: ["a", 3], controlUi: { enabled: 1 } }),
  "include missing": { "openclaw.json": `{ $include: "./none.json" }` },
  "include outside": { "openclaw.json": `{ $include: "../none.json" }` },
  "include circle": { "openclaw.json": `{ $include: "./a.json" }`, "a.json": `{ "$include": "./openclaw.json" }` },
  "not an object": { "openclaw.json": "[1]" },
  empty: { "openclaw.json": "" },
  "tls and ui": still({}, { tls: { enabled: true, certPath: "~/cert.pem" }, controlUi: { basePath: "/ui", allowedOrigins: ["https://a"] }, http: { endpoints: { chatCompletions: { enabled: true } } } }),
};

/** Calls after these files: each with `base: true` gets the hash of a fresh config.get. */
export const writes = {
  "patch a value": [json({ messages: { ackReaction: "x" } }), [{ method: "config.patch", params: { raw: "{ messages: { responsePrefix: 'hi' } }" }, base: true }]],
  "patch deletes with null": [json({ messages: { ackReaction: "x", responsePrefix: "y" } }), [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":null}}' }, base: true }]],
  "patch without change": [json({ messages: { ackReaction: "x" } }), [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":"x"}}' }, base: true }]],
  "patch with a stale hash": [json({}), [{ method: "config.patch", params: { raw: "{}", baseHash: "nope" } }]],
  "patch without a hash": [json({}), [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":"x"}}' } }]],
  "preferences need no hash": [json({}), [{ method: "config.patch", params: { raw: '{"ui":{"prefs":{"theme":"dash"}}}' } }, { method: "config.patch", params: { raw: '{"ui":{"prefs":{"theme":"dark"}}}' } }]],
  "patch that is no object": [json({}), [{ method: "config.patch", params: { raw: "[1]" }, base: true }, { method: "config.patch", params: { raw: "{" }, base: true }]],
  "patch with an unknown key": [json({}), [{ method: "config.patch", params: { raw: '{"nonsense":1}' }, base: true }]],
  "patch with a wrong type": [json({}), [{ method: "config.patch", params: { raw: '{"gateway":{"port":"x"}}' }, base: true }]],
  "patch keeps references": [json({ messages: { responsePrefix: "${GREETING}", ackReaction: "x" } }, { auth: { mode: "token", token: "${SECRET_VAR}" } }), [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":"y"}}' }, base: true }]],
  "patch removes from a list": [json({}, { trustedProxies: ["10.0.0.1", "10.0.0.2"] }), [
    { method: "config.patch", params: { raw: '{"gateway":{"trustedProxies":["10.0.0.1"]}}' }, base: true },
    { method: "config.patch", params: { raw: '{"gateway":{"trustedProxies":["10.0.0.1"]}}', replacePaths: ["gateway.trustedProxies"] }, base: true },
  ]],
  "patch merges lists by id": [json({ models: { providers: { custom: { baseUrl: "http://127.0.0.1:9/v1", apiKey: "k", api: "openai-completions", models: [{ id: "a", name: "A" }, { id: "b", name: "B" }] } } } }), [
    { method: "config.patch", params: { raw: '{"models":{"providers":{"custom":{"models":[{"id":"b","name":"B2"},{"id":"c","name":"C"}]}}}}' }, base: true },
    { method: "config.patch", params: { raw: '{"models":{"providers":{"custom":{"models":[{"id":"b"},{"id":"b"}]}}}}' }, base: true },
  ]],
  "patch with a redacted secret": [json({}), [{ method: "config.patch", params: { raw: '{"gateway":{"auth":{"token":"__OPENCLAW_REDACTED__"}},"messages":{"ackReaction":"z"}}' }, base: true }]],
  "patch with a redacted value that was not there": [json({}), [{ method: "config.patch", params: { raw: '{"hooks":{"token":"__OPENCLAW_REDACTED__"}}' }, base: true }, { method: "config.patch", params: { raw: '{"messages":{"ackReaction":"__OPENCLAW_REDACTED__"}}' }, base: true }]],
  "patch an invalid file": [json({ nonsense: 1 }), [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":"z"}}' }, base: true }]],
  "patch of an included part": [{ "openclaw.json": text({ ...base, messages: { $include: "./m.json" } }), "m.json": text({ ackReaction: "a" }) }, [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":"b"}}' }, base: true }, { method: "config.patch", params: { raw: '{"session":{"dmScope":"per-peer"}}' }, base: true }]],
  "patch through a root include": [{ "openclaw.json": `{ $include: "./base.json" }`, "base.json": text(base) }, [{ method: "config.patch", params: { raw: '{"messages":{"ackReaction":"b"}}' }, base: true }]],
  "set the whole": [json({ messages: { ackReaction: "x" } }), [{ method: "config.set", params: { raw: text(merged({ messages: { ackReaction: "y" } }, { auth: { mode: "token", token: "__OPENCLAW_REDACTED__" } })) }, base: true }]],
  "set drops an agent": [json({ agents: { entries: { main: {}, ops: {} }, ownership: "explicit" } }), [{ method: "config.set", params: { raw: text(merged({ agents: { entries: { main: {} }, ownership: "explicit" } })) }, base: true }]],
  "set without raw": [json({}), [{ method: "config.set", params: { baseHash: "x" } }, { method: "config.set", params: { raw: 3 }, base: true }, { method: "config.set", params: { raw: "{" }, base: true }, { method: "config.set", params: { raw: "{}" } }]],
  "set keeps comments": [{ "openclaw.json": `// top\n${text(base)}` }, [{ method: "config.set", params: { raw: `// new\n${text(merged({ messages: { ackReaction: "q" } }))}` }, base: true }]],
  "apply the whole": [json({ messages: { ackReaction: "x" } }), [{ method: "config.apply", params: { raw: text(merged({ messages: { responsePrefix: "p" } })) }, base: true }]],
  "patch sent again": [json({}), [{ method: "config.patch", params: { raw: '{"session":{"dmScope":"per-peer"},"logging":{"level":"debug"}}' }, base: true }, { method: "config.patch", params: { raw: '{"logging":null}' }, base: true }]],
  "patch extra params": [json({}), [{ method: "config.patch", params: { raw: "{}", nope: 1 }, base: true }, { method: "config.get", params: { nope: 1 } }]],
};
