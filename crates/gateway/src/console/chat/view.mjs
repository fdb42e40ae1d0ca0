// What is shown: a conversation's items, the chats there are, and what waits for a decision.
import { el, find, keyed, say } from "../dom.mjs";
import { markdown } from "./markdown.mjs";

const SHOWN_MAX = 4000;
const STATUS = { running: "…", completed: "✓", failed: "✗", blocked: "✗" };
const SPOKEN = { running: "is running", completed: "done", failed: "failed", blocked: "was refused" };

const cut = (text) => (text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}\n… ${text.length - SHOWN_MAX} more characters` : text);

/** The words of a message's content. */
export const textOf = (content) => (typeof content === "string" ? content
  : (content ?? []).filter((part) => part.type === "text").map((part) => part.text ?? "").join("\n"));

function about(args = {}) {
  const told = [args.command, args.path, args.url, args.query, args.pattern, args.action].find((value) => typeof value === "string");
  return told ?? "";
}

/** A command that failed or was denied is no error of the tool. */
const ended = ({ isError, details }) => (isError || details?.status === "failed" || details?.exitCode > 0 ? "failed" : "completed");

/** A call of a tool: `{id, name, about, status, args, result}`. */
function tool({ name, about: what, status, args, result }) {
  const made = el("details", { class: "tool" }, el("summary", {}, `${STATUS[status] ?? "…"} ${name} `, el("code", {}, what.split("\n")[0].slice(0, 200)), el("span", { class: "unseen" }, ` ${SPOKEN[status] ?? status}`)));
  if (args) made.append(el("pre", { tabIndex: 0, "aria-label": "Asked for" }, cut(args)));
  if (result) made.append(el("pre", { tabIndex: 0, "aria-label": "Result" }, cut(result)));
  return made;
}

/** Messages of a history as items: `{id, runId, kind, parts}`; a tool's result stands with its call. */
export function items(messages) {
  // Some models give their calls the same ids again and again.
  const open = new Map();
  const out = [];
  for (const [at, message] of messages.entries()) {
    const own = message.__openclaw ?? {};
    const item = { id: own.id ?? message.idempotencyKey ?? `at-${at}`, runId: own.runId, sentAs: own.idempotencyKey ?? message.idempotencyKey, kind: message.role, parts: [] };
    const push = (part) => item.parts.push(part);
    if (message.role === "toolResult") {
      const made = { status: ended(message), result: textOf(message.content) };
      const call = open.get(message.toolCallId);
      open.delete(message.toolCallId);
      if (call) {
        Object.assign(call, made);
        continue;
      }
      item.kind = "assistant";
      push({ kind: "tool", id: message.toolCallId, name: message.toolName ?? "tool", about: "", ...made });
    } else if (own.kind === "compaction") {
      item.kind = "mark";
      push({ kind: "text", text: "What was said before was summed up here." });
    } else if (Array.isArray(message.content)) {
      for (const part of message.content) {
        if (part.type === "text" && part.text?.trim()) push({ kind: "text", text: part.text });
        if (part.type !== "toolCall") continue;
        const call = { kind: "tool", id: part.id, name: part.name, about: about(part.arguments), args: JSON.stringify(part.arguments, null, 2), status: "running" };
        open.set(part.id, call);
        push(call);
      }
    } else if (typeof message.content === "string") push({ kind: "text", text: message.content });
    if (message.stopReason === "error") {
      item.isError = true;
      if (item.parts.length === 0 && message.errorMessage) push({ kind: "text", text: message.errorMessage });
    }
    if (message.openclawAbort) push({ kind: "note", text: "Stopped." });
    if (item.parts.length) out.push(item);
  }
  return out;
}

function fill(article, item) {
  const shown = JSON.stringify(item.parts) + (item.note ?? "") + Boolean(item.again);
  if (article.dataset.shown === shown) return;
  article.dataset.shown = shown;
  article.className = item.kind + (item.isLive ? " live" : "");
  const isOpen = new Set([...article.querySelectorAll("details[open]")].map((one) => one.dataset.id));
  const made = item.parts.flatMap((part) => {
    if (part.kind === "tool") {
      const one = tool(part);
      one.dataset.id = part.id;
      one.open = isOpen.has(part.id);
      return [one];
    }
    if (item.isError) return [el("p", { class: "error" }, part.text)];
    return part.kind === "text" && item.kind === "assistant" ? markdown(part.text) : [el("p", { class: part.kind === "note" ? "dim" : "" }, part.text)];
  });
  if (item.note) made.push(el("p", { class: item.again ? "error" : "dim" }, item.note));
  if (item.again) made.push(el("button", { type: "button", onclick: item.again }, "Send again"));
  article.replaceChildren(...made);
}

const NAMES = { user: "You", assistant: "Answer" };

/** Shows `all` (all there is, when `isKnown`), and stays at the end if that is where the person is. */
export function conversation(all, isKnown) {
  const log = find("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const list = find("messages");
  keyed(list, all, (item) => item.id, (item) => el("article", NAMES[item.kind] ? { "aria-label": NAMES[item.kind] } : {}), fill);
  if (isKnown && all.length === 0) list.replaceChildren(el("article", { class: "mark" }, el("p", {}, "Nothing has been said here yet.")));
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

/** What a chat is called. */
export function titleOf(session) {
  const own = session?.label || session?.displayName || session?.derivedTitle;
  if (own) return own;
  if (!session || session.isMain) return session?.agentId && session.agentId !== "main" ? `Main chat of ${session.agentId}` : "Main chat";
  if (/:(dashboard|chat):/.test(session.key)) return `Chat of ${new Date(session.createdAt ?? session.updatedAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
  return session.key.replace(/^agent:[^:]+:/, "");
}

export function sessions(all, current, choose) {
  keyed(find("sessions"), all, (one) => one.key, (one) => el("li", {}, el("button", { type: "button", onclick: () => choose(one.key) }, el("span"), el("span", { class: "dim" }))), (row, one) => {
    const button = row.firstElementChild;
    say(button.firstElementChild, titleOf(one) + (one.hasActiveRun ? " …" : ""));
    say(button.lastElementChild, one.lastMessagePreview ?? "");
    if (one.key === current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
}

const DECISIONS = { "allow-once": ["Allow once", "main"], "allow-always": ["Always allow", ""], deny: ["Deny", "danger"] };

/** Commands that wait. */
export function approvals(all, decide) {
  keyed(find("approvals"), all, (one) => one.id, ({ id, request, where }) => el("section", { class: "approval card" },
    el("h2", {}, "May this command be run?"),
    el("pre", { tabIndex: 0, "aria-label": "Command" }, request.command ?? ""),
    el("p", { class: "dim" }, [where, request.cwd && `in ${request.cwd}`, request.host && `on ${request.host === "gateway" ? "the gateway's machine" : request.host}`].filter(Boolean).join(" · ")),
    request.warningText ? el("p", { class: "error" }, request.warningText) : null,
    el("div", { class: "actions" }, ...(request.allowedDecisions ?? ["allow-once", "deny"]).filter((one) => DECISIONS[one]).map((one) =>
      el("button", { type: "button", class: DECISIONS[one][1], onclick: () => decide(id, one) }, DECISIONS[one][0])))));
}
