// Runs against the scripted model. A step is `call` (answer compared), `send` (goes on at once) or `until` (an event).
const final = (runId, state = "final") => ({ until: { event: "chat", payload: { runId, state } } });
/** The transcript's answer, for those who subscribed to the session's messages: it comes after `final`. */
const written = (sessionKey, seq) => ({ until: { event: "session.message", payload: { sessionKey, messageSeq: seq } } });
const key = (name) => `agent:main:conf-${name}`;
const chat = (name, message, runId = `run-${name}`) => ({ sessionKey: key(name), message, idempotencyKey: runId });

export const scripts = [
  {
    id: "chat-stream", runs: ["run-stream"],
    steps: [
      { call: "sessions.messages.subscribe", params: { key: key("stream") } },
      { call: "chat.send", params: chat("stream", "SCRIPT say The quick brown fox jumps.") },
      final("run-stream"),
      written(key("stream"), 2),
      { call: "chat.send", name: "duplicate-after", params: chat("stream", "SCRIPT say The quick brown fox jumps.") },
      { call: "chat.send", name: "same-key-other-message", params: chat("stream", "SCRIPT say Something else.") },
      { call: "agent.wait", params: { runId: "run-stream", timeoutMs: 5000 } },
      { call: "chat.history", params: { sessionKey: key("stream") } },
      { call: "sessions.messages.unsubscribe", params: { key: key("stream") } },
    ],
  },
  {
    id: "chat-second-turn", runs: ["run-second"],
    steps: [
      { call: "chat.send", params: { sessionKey: key("stream"), message: "SCRIPT say Second turn.", idempotencyKey: "run-second" } },
      final("run-second"),
      { call: "chat.history", params: { sessionKey: key("stream"), limit: 2 } },
      { call: "chat.abort", name: "abort-after-end", params: { sessionKey: key("stream"), runId: "run-second" } },
    ],
  },
  {
    id: "chat-abort", runs: ["run-abort"],
    steps: [
      { call: "chat.send", params: chat("abort", "SCRIPT slow One two three four.") },
      { until: { event: "chat", payload: { runId: "run-abort", state: "delta" } } },
      { call: "chat.send", name: "duplicate-in-flight", params: chat("abort", "SCRIPT slow One two three four.") },
      { call: "agent.wait", name: "wait-too-short", params: { runId: "run-abort", timeoutMs: 50 } },
      { call: "chat.abort", name: "abort-wrong-run", params: { sessionKey: key("abort"), runId: "no-such-run" } },
      { call: "chat.abort", params: { sessionKey: key("abort"), runId: "run-abort" } },
      final("run-abort", "aborted"),
      { call: "chat.abort", name: "abort-again", params: { sessionKey: key("abort"), runId: "run-abort" } },
      { call: "agent.wait", params: { runId: "run-abort", timeoutMs: 5000 } },
      { call: "chat.history", params: { sessionKey: key("abort") } },
    ],
  },
  {
    id: "chat-abort-session", runs: ["run-abort-all"],
    steps: [
      { call: "chat.send", params: chat("abort-all", "SCRIPT slow Five six.") },
      { until: { event: "chat", payload: { runId: "run-abort-all", state: "delta" } } },
      { call: "sessions.abort", params: { key: key("abort-all") } },
      final("run-abort-all", "aborted"),
    ],
  },
  {
    id: "chat-model-error", runs: ["run-error"],
    steps: [
      { call: "chat.send", params: chat("error", "SCRIPT fail 400") },
      final("run-error", "error"),
      { call: "agent.wait", params: { runId: "run-error", timeoutMs: 5000 } },
      { call: "chat.history", params: { sessionKey: key("error") } },
    ],
  },
  {
    id: "chat-tool", runs: ["run-tool"],
    steps: [
      { call: "sessions.messages.subscribe", params: { key: key("tool") } },
      { call: "chat.send", params: chat("tool", "SCRIPT tool read {\"path\":\"conformance.txt\"}") },
      final("run-tool"),
      written(key("tool"), 4),
      { call: "chat.history", params: { sessionKey: key("tool") } },
    ],
  },
  {
    id: "chat-two-clients", runs: ["run-two"],
    steps: [
      { call: "sessions.messages.subscribe", on: "other", params: { key: key("two") } },
      { call: "chat.send", params: chat("two", "SCRIPT say Seen by both.") },
      final("run-two"),
      { on: "other", ...final("run-two") },
      { on: "other", ...written(key("two"), 2) },
    ],
  },
  {
    id: "chat-read-only-watcher", runs: ["run-reader"], scopes: ["operator.read"], caps: [],
    steps: [
      { call: "chat.send", name: "send-without-scope", params: chat("reader", "SCRIPT say No.") },
      { call: "chat.history", params: { sessionKey: key("stream"), limit: 1 } },
    ],
  },
  {
    id: "chat-inject", runs: [],
    steps: [
      { call: "chat.inject", params: { sessionKey: key("stream"), message: "An injected note.", label: "note" } },
      { call: "chat.history", params: { sessionKey: key("stream"), limit: 1 } },
    ],
  },
  {
    id: "chat-commands", runs: ["run-status", "run-help"],
    steps: [
      { call: "chat.send", params: chat("commands", "/help", "run-help") },
      final("run-help"),
    ],
  },
  {
    id: "agent-two-answers", runs: ["run-agent"],
    steps: [
      { call: "agent", final: true, params: { sessionKey: key("agent"), message: "SCRIPT say Agent says hello.", idempotencyKey: "run-agent" } },
      { call: "agent.wait", params: { runId: "run-agent", timeoutMs: 5000 } },
      { call: "agent", name: "duplicate", final: true, params: { sessionKey: key("agent"), message: "SCRIPT say Agent says hello.", idempotencyKey: "run-agent" } },
      { call: "chat.history", params: { sessionKey: key("agent") } },
    ],
  },
  {
    id: "agent-wait-while-running", runs: ["run-wait"],
    steps: [
      { send: "agent", params: { sessionKey: key("wait"), message: "SCRIPT say Waited for.", idempotencyKey: "run-wait" } },
      { until: { event: "agent", payload: { runId: "run-wait", stream: "lifecycle" } } },
      { call: "agent.wait", on: "other", params: { runId: "run-wait", timeoutMs: 30_000 } },
      { call: "agent.wait", name: "unknown-run", params: { runId: "no-such-run", timeoutMs: 50 } },
    ],
  },
  {
    id: "agent-error", runs: ["run-agent-error"],
    steps: [
      { call: "agent", final: true, params: { sessionKey: key("agent-error"), message: "SCRIPT fail 400", idempotencyKey: "run-agent-error" } },
      { call: "agent.wait", params: { runId: "run-agent-error", timeoutMs: 5000 } },
    ],
  },
  {
    id: "agent-tool", runs: ["run-agent-tool"],
    steps: [
      { call: "agent", final: true, params: { sessionKey: key("agent-tool"), message: "SCRIPT tool read {\"path\":\"conformance.txt\"}", idempotencyKey: "run-agent-tool" } },
    ],
  },
  {
    id: "agent-abort", runs: ["run-agent-abort"],
    steps: [
      { send: "agent", params: { sessionKey: key("agent-abort"), message: "SCRIPT slow Never ending story.", idempotencyKey: "run-agent-abort" } },
      { until: { event: "chat", payload: { runId: "run-agent-abort", state: "delta" } } },
      { call: "chat.abort", params: { sessionKey: key("agent-abort"), runId: "run-agent-abort" } },
      { call: "agent.wait", params: { runId: "run-agent-abort", timeoutMs: 10_000 } },
    ],
  },
  {
    id: "agent-unknown-agent", runs: [],
    steps: [
      { call: "agent", params: { agentId: "nobody", message: "hi", idempotencyKey: "run-nobody" } },
      { call: "agent", name: "reset-needs-admin", on: "writer", params: { sessionKey: key("agent"), message: "", idempotencyKey: "run-empty" } },
    ],
  },
  {
    id: "sessions-send", runs: ["run-sessions-send"],
    steps: [
      { call: "sessions.create", params: { key: key("send") } },
      { call: "sessions.send", params: { key: key("send"), message: "SCRIPT say By sessions.send.", idempotencyKey: "run-sessions-send" } },
      final("run-sessions-send"),
      { call: "sessions.send", name: "without-key", params: { key: key("send"), message: "x" } },
      { call: "sessions.send", name: "unknown-session", params: { key: key("send-none"), message: "x", idempotencyKey: "run-none" } },
    ],
  },
];
