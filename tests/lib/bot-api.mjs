// A Telegram Bot API server with scripted faults. Its behaviour follows https://core.telegram.org/bots/api and is judged
// by driving it with grammy (tests/channels/bot-api.test.mjs), so that a channel tested against it is tested
// against something that an independent client accepts as Telegram.
//
// People write with `say` and `press`; what the bot did is in `sent`, in the order of arrival, whoever crashes.
import http from "node:http";
import { setTimeout as delay } from "node:timers/promises";

const FILE_FIELDS = { sendPhoto: "photo", sendDocument: "document", sendAudio: "audio", sendVideo: "video", sendVoice: "voice", sendAnimation: "animation" };
const TEXT_MAX = 4096;
const CAPTION_MAX = 1024;
// Source: "HTML style" of the Bot API.
const TAGS = new Set(["b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "span", "tg-spoiler", "a", "tg-emoji", "code", "pre", "blockquote"]);
const ENTITIES = { lt: "<", gt: ">", amp: "&", quot: '"' };

class Refusal extends Error {
  constructor(code, description, parameters) {
    super(description);
    Object.assign(this, { code, parameters });
  }
}

// Source: sendPhoto and "Sending files" of the Bot API.
const PHOTO_BYTES_MAX = 10 << 20;
const FILE_BYTES_MAX = 50 << 20;
const PHOTO_SIDES_MAX = 10_000;
const PHOTO_RATIO_MAX = 20;

/** `[width, height]` of a PNG, JPEG or WebP; `undefined` for what is none. */
function sides(bytes) {
  if (bytes.length > 24 && bytes.readUInt32BE(0) === 0x89504e47) return [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  if (bytes.length > 30 && bytes.toString("latin1", 8, 15) === "WEBPVP8") {
    if (bytes[15] === 0x58) return [bytes.readUIntLE(24, 3) + 1, bytes.readUIntLE(27, 3) + 1];
    if (bytes[15] === 0x4c) return [(bytes.readUInt32LE(21) & 0x3fff) + 1, ((bytes.readUInt32LE(21) >> 14) & 0x3fff) + 1];
    return [bytes.readUInt16LE(26) & 0x3fff, bytes.readUInt16LE(28) & 0x3fff];
  }
  if (bytes.length > 4 && bytes.readUInt16BE(0) === 0xffd8) {
    for (let at = 2; at + 9 < bytes.length; at += 2 + bytes.readUInt16BE(at + 2)) {
      const marker = bytes[at + 1];
      if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [bytes.readUInt16BE(at + 7), bytes.readUInt16BE(at + 5)];
    }
  }
  return undefined;
}

/** Text without tags, as people see it; refuses what Telegram refuses. */
export function plain(html) {
  const open = [];
  let text = "";
  for (const [whole, tag, entity] of html.matchAll(/<([^>]*)>|&(\w+|#\d+|#x[0-9a-f]+);|[^<&]+|[<&]/gi)) {
    if (tag !== undefined) {
      const [, slash, name] = /^(\/?)([a-z-]*)/i.exec(tag);
      if (!TAGS.has(name)) throw new Refusal(400, `Bad Request: can't parse entities: Unsupported start tag "${name}"`);
      if (!slash) open.push(name);
      else if (open.pop() !== name) throw new Refusal(400, `Bad Request: can't parse entities: Unexpected end tag "${name}"`);
    } else if (entity !== undefined) {
      text += ENTITIES[entity] ?? (entity.startsWith("#x") ? String.fromCodePoint(parseInt(entity.slice(2), 16)) : entity.startsWith("#") ? String.fromCodePoint(Number(entity.slice(1))) : whole);
    } else if (whole === "<") {
      throw new Refusal(400, "Bad Request: can't parse entities: Unclosed start tag");
    } else {
      text += whole;
    }
  }
  if (open.length) throw new Refusal(400, `Bad Request: can't parse entities: Can't find end tag corresponding to start tag "${open.at(-1)}"`);
  return text;
}

export async function startBotApi({ token = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw", username = "scripted_bot" } = {}) {
  const me = { id: Number(token.split(":", 1)[0]), is_bot: true, first_name: "Scripted", username, can_join_groups: true, can_read_all_group_messages: false, supports_inline_queries: false };
  const chats = new Map();
  const files = new Map();
  const messages = new Map();
  const updates = [];
  const faults = [];
  const sent = [];
  const calls = [];
  const sockets = new Set();
  let nextUpdate = 1000;
  let nextFile = 1;
  let webhook = null;
  let poller = null;
  let wake = () => {};

  const chatOf = (id) => {
    const chat = chats.get(String(id));
    if (!chat) throw new Refusal(400, "Bad Request: chat not found");
    if (chat.migratedTo) throw new Refusal(400, "Bad Request: group chat was upgraded to a supergroup chat", { migrate_to_chat_id: chat.migratedTo });
    if (chat.blocked) throw new Refusal(403, "Forbidden: bot was blocked by the user");
    return chat;
  };
  const visible = ({ migratedTo, blocked, nextMessage, ...chat }) => chat;

  function newMessage(chat, fields) {
    const message = { message_id: chat.nextMessage++, date: Math.floor(Date.now() / 1000), chat: visible(chat), ...fields };
    messages.set(`${chat.id}/${message.message_id}`, message);
    return message;
  }

  function body(text, params, max) {
    const shown = params.parse_mode === "HTML" ? plain(text) : text;
    if (!shown.trim()) throw new Refusal(400, "Bad Request: message text is empty");
    if (shown.length > max) throw new Refusal(400, max === TEXT_MAX ? "Bad Request: message is too long" : "Bad Request: message caption is too long");
    return shown;
  }

  function outgoing(method, params, fields) {
    const chat = chatOf(params.chat_id);
    const reply = params.reply_parameters;
    const message = newMessage(chat, {
      from: me,
      ...fields,
      ...(params.message_thread_id ? { message_thread_id: Number(params.message_thread_id), is_topic_message: true } : {}),
    });
    if (reply) {
      const target = messages.get(`${chat.id}/${reply.message_id}`);
      if (target) message.reply_to_message = target;
      else if (!reply.allow_sending_without_reply) throw new Refusal(400, "Bad Request: message to be replied not found");
    }
    if (params.reply_markup) message.reply_markup = params.reply_markup;
    sent.push({ method, chat: String(chat.id), id: message.message_id, text: message.text ?? message.caption, message, params, at: Date.now() });
    return message;
  }

  /** A picture as Telegram shows it, or its refusal. */
  function photo(file) {
    if (file.bytes.length > PHOTO_BYTES_MAX) throw new Refusal(400, "Bad Request: file is too big");
    const [width, height] = sides(file.bytes) ?? [];
    if (!width || !height) throw new Refusal(400, "Bad Request: IMAGE_PROCESS_FAILED");
    if (width + height > PHOTO_SIDES_MAX || Math.max(width, height) > PHOTO_RATIO_MAX * Math.min(width, height)) {
      throw new Refusal(400, "Bad Request: PHOTO_INVALID_DIMENSIONS");
    }
    return [{ ...store(file), width, height }];
  }

  function store(file, mime) {
    if (file.bytes.length > FILE_BYTES_MAX) throw new Refusal(413, "Request Entity Too Large");
    const id = `file-${nextFile++}`;
    files.set(id, file.bytes);
    return { file_id: id, file_unique_id: `unique-${id}`, file_size: file.bytes.length, file_name: file.name, mime_type: mime ?? file.type };
  }

  const methods = {
    getMe: () => me,
    async getUpdates({ offset = 0, timeout = 0, limit = 100, allowed_updates }, request) {
      if (webhook) throw new Refusal(409, "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first");
      // The one that asks later wins, as with Telegram.
      poller?.();
      let replaced = false;
      const mine = () => {
        replaced = true;
        wake();
      };
      poller = mine;
      try {
        if (offset > 0) while (updates.length && updates[0].update_id < offset) updates.shift();
        if (offset < 0) updates.splice(0, Math.max(0, updates.length + offset));
        const deadline = Date.now() + timeout * 1000;
        while (!updates.length && !replaced && Date.now() < deadline && !request.gone()) {
          const rung = new Promise((resolve) => (wake = resolve));
          request.onGone(() => wake());
          const giveUp = new AbortController();
          await Promise.race([rung, delay(deadline - Date.now(), undefined, { signal: giveUp.signal }).catch(() => {})]);
          giveUp.abort();
        }
        if (replaced) throw new Refusal(409, "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running");
        return updates.filter((u) => !allowed_updates?.length || allowed_updates.some((kind) => kind in u)).slice(0, Math.min(limit, 100));
      } finally {
        if (poller === mine) poller = null;
      }
    },
    setWebhook({ url, secret_token, allowed_updates }) {
      webhook = url ? { url, secret: secret_token, allowed: allowed_updates } : null;
      poller?.();
      push();
      return true;
    },
    deleteWebhook({ drop_pending_updates }) {
      webhook = null;
      if (drop_pending_updates) updates.length = 0;
      return true;
    },
    getWebhookInfo: () => ({ url: webhook?.url ?? "", has_custom_certificate: false, pending_update_count: updates.length }),
    sendMessage: (params) => outgoing("sendMessage", params, { text: body(String(params.text ?? ""), params, TEXT_MAX) }),
    editMessageText(params) {
      const message = messages.get(`${params.chat_id}/${params.message_id}`);
      if (!message) throw new Refusal(400, "Bad Request: message to edit not found");
      const text = body(String(params.text ?? ""), params, TEXT_MAX);
      if (text === message.text) throw new Refusal(400, "Bad Request: message is not modified: specified new message content and reply markup are exactly the same");
      Object.assign(message, { text, edit_date: Math.floor(Date.now() / 1000) });
      return message;
    },
    deleteMessage({ chat_id, message_id }) {
      if (!messages.delete(`${chat_id}/${message_id}`)) throw new Refusal(400, "Bad Request: message to delete not found");
      return true;
    },
    setMessageReaction({ chat_id, message_id, reaction = [] }) {
      const message = messages.get(`${chat_id}/${message_id}`);
      if (!message) throw new Refusal(400, "Bad Request: message to react not found");
      message.reactions = reaction;
      return true;
    },
    sendChatAction: ({ chat_id }) => Boolean(chatOf(chat_id)),
    answerCallbackQuery: () => true,
    getFile({ file_id }) {
      if (!files.has(file_id)) throw new Refusal(400, "Bad Request: invalid file_id");
      return { file_id, file_unique_id: `unique-${file_id}`, file_size: files.get(file_id).length, file_path: `documents/${file_id}` };
    },
    sendMediaGroup(params, request) {
      const { media } = params;
      if (media.length < 2 || media.length > 10) throw new Refusal(400, "Bad Request: group send failed");
      const alone = ["document", "audio"].some((kind) => media.some((item) => item.type === kind) && media.some((item) => item.type !== kind));
      if (alone) throw new Refusal(400, `Bad Request: ${media[0].type} can't be mixed with other media types`);
      // All of them or none.
      const held = media.map((item) => {
        const file = request.files[item.media?.replace("attach://", "")];
        if (!file) throw new Refusal(400, "Bad Request: wrong file identifier/HTTP URL specified");
        return { caption: item.caption && body(item.caption, item, CAPTION_MAX), [item.type]: item.type === "photo" ? photo(file) : store(file) };
      });
      const media_group_id = `album-${nextFile++}`;
      return held.map((fields) => outgoing("sendMediaGroup", params, { ...fields, media_group_id }));
    },
  };
  for (const [method, field] of Object.entries(FILE_FIELDS)) {
    methods[method] = (params, request) => {
      const file = request.files[field] ?? request.files[String(params[field]).replace("attach://", "")];
      if (!file) throw new Refusal(400, `Bad Request: there is no ${field} in the request`);
      return outgoing(method, params, {
        ...(params.caption ? { caption: body(params.caption, params, CAPTION_MAX) } : {}),
        [field]: field === "photo" ? photo(file) : store(file),
      });
    };
  }

  async function read(request) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const whole = Buffer.concat(chunks);
    const url = new URL(request.url, "http://x");
    const params = Object.fromEntries(url.searchParams);
    const found = {};
    const type = request.headers["content-type"] ?? "";
    if (type.includes("json") && whole.length) Object.assign(params, JSON.parse(whole));
    else if (whole.length) {
      const form = await new Response(whole, { headers: { "content-type": type } }).formData();
      for (const [key, value] of form) {
        if (typeof value === "string") params[key] = value;
        else found[key] = { name: value.name, type: value.type, bytes: Buffer.from(await value.arrayBuffer()) };
      }
    }
    // A form carries structures as JSON text.
    for (const key of ["reply_parameters", "reply_markup", "media", "allowed_updates", "reaction"]) {
      if (typeof params[key] === "string") params[key] = JSON.parse(params[key]);
    }
    return { params, files: found, path: url.pathname };
  }

  const server = http.createServer(async (request, response) => {
    const answer = (status, value) => {
      if (response.destroyed) return;
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    try {
      const { params, files: uploaded, path } = await read(request);
      const [, kind, method] = /^\/(?:(file)\/)?bot[^/]+\/(.*)$/.exec(path) ?? [];
      const named = path.replace("/file", "").split("/")[1];
      if (named !== `bot${token}`) return answer(401, { ok: false, error_code: 401, description: "Unauthorized" });
      if (kind === "file") {
        const bytes = files.get(method.split("/").at(-1));
        response.writeHead(bytes ? 200 : 404).end(bytes);
        return;
      }
      const call = { method, params, at: Date.now() };
      calls.push(call);
      if (!methods[method]) throw new Refusal(404, "Not Found");
      const at = faults.findIndex((f) => f.method === method && (!f.chat || String(params.chat_id) === f.chat) && (!f.about || String(params.text).includes(f.about)));
      const fault = at < 0 ? undefined : faults[at];
      if (fault && fault.times !== undefined && --fault.times <= 0) faults.splice(at, 1);
      call.fault = fault?.kind;
      switch (fault?.kind) {
        case "flood":
          throw new Refusal(429, `Too Many Requests: retry after ${fault.retryAfter}`, { retry_after: fault.retryAfter });
        case "error":
          throw new Refusal(fault.code ?? 500, fault.description ?? "Internal Server Error");
        case "bad-gateway":
          response.writeHead(502, { "content-type": "text/html" }).end("<html>502 Bad Gateway</html>");
          return;
        // The connection ends before anything was done.
        case "reset":
          request.socket.destroy();
          return;
        case "hang":
          await fault.until;
          break;
      }
      let gone = false;
      const waiters = [];
      response.once("close", () => {
        gone = true;
        for (const tell of waiters) tell();
      });
      const result = await methods[method](params, { files: uploaded, gone: () => gone, onGone: (tell) => waiters.push(tell) });
      // It was done, and nobody is told.
      if (fault?.kind === "lost-answer") return request.socket.destroy();
      if (fault?.kind === "half-answer") {
        const text = JSON.stringify({ ok: true, result });
        response.writeHead(200, { "content-type": "application/json", "content-length": text.length });
        response.write(text.slice(0, text.length >> 1), () => request.socket.destroy());
        return;
      }
      answer(200, { ok: true, result });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      answer(error.code, { ok: false, error_code: error.code, description: error.message, ...(error.parameters ? { parameters: error.parameters } : {}) });
    }
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));

  let pushing = false;
  /** Posts waiting updates to the webhook, one by one; what is not answered with 2xx is posted again. */
  async function push() {
    if (pushing) return;
    pushing = true;
    while (webhook && updates.length) {
      const { url, secret } = webhook;
      const taken = await fetch(url, {
        method: "POST",
        headers: { "content-type": "application/json", ...(secret ? { "x-telegram-bot-api-secret-token": secret } : {}) },
        body: JSON.stringify(updates[0]),
      }).then((r) => r.ok, () => false);
      if (taken) updates.shift();
      else await delay(100);
    }
    pushing = false;
  }

  function update(kind, value) {
    const one = { update_id: nextUpdate++, [kind]: value };
    updates.push(one);
    wake();
    push();
    return one;
  }

  const api = {
    token,
    me,
    username,
    url: `http://127.0.0.1:${server.address().port}`,
    /** Every message of the bot that was taken, in order of arrival. */
    sent,
    /** Every call, taken or refused. */
    calls,
    messages,
    /** Updates that nobody has confirmed. */
    updates,
    /** `{method, kind, times?, chat?, about?}` (`about`: words of its text), the first that fits is used: flood, error, bad-gateway, reset, hang, lost-answer, half-answer. */
    faults,
    webhook: () => webhook,
    person: (id, name = `Person ${id}`) => ({ id, is_bot: false, first_name: name, username: `person${id}` }),
    /** A direct chat with a person. */
    direct(id) {
      if (!chats.has(String(id))) chats.set(String(id), { id, type: "private", first_name: `Person ${id}`, username: `person${id}`, nextMessage: 1 });
      return chats.get(String(id));
    },
    group(id, { title = `Group ${id}`, forum = false } = {}) {
      if (!chats.has(String(id))) chats.set(String(id), { id, type: "supergroup", title, ...(forum ? { is_forum: true } : {}), nextMessage: 1 });
      return chats.get(String(id));
    },
    /** A person writes: `more` are fields of the Message. */
    say(chat, from, text, more = {}) {
      const entities = [...text.matchAll(/(^|\s)(@\w+|\/\w+)/g)].map((m) => ({
        type: m[2].startsWith("@") ? "mention" : "bot_command", offset: m.index + m[1].length, length: m[2].length,
      }));
      return update("message", newMessage(chat, { from: api.person(from), text, ...(entities.length ? { entities } : {}), ...more }));
    },
    edit(chat, id, text) {
      const message = messages.get(`${chat.id}/${id}`);
      Object.assign(message, { text, edit_date: Math.floor(Date.now() / 1000) });
      return update("edited_message", message);
    },
    /** A person sends a file: `kind` is the field of the Message. */
    sendFile(chat, from, kind, bytes, { name = "file", type = "application/octet-stream", ...more } = {}) {
      const held = store({ bytes, name, type });
      return update("message", newMessage(chat, { from: api.person(from), [kind]: kind === "photo" ? [{ ...held, width: 1, height: 1 }] : held, ...more }));
    },
    press(chat, id, from, data) {
      return update("callback_query", { id: String(nextUpdate), from: api.person(from), message: messages.get(`${chat.id}/${id}`), chat_instance: "1", data });
    },
    react(chat, id, from, emoji) {
      return update("message_reaction", { chat: visible(chat), message_id: id, user: api.person(from), date: Math.floor(Date.now() / 1000), old_reaction: [], new_reaction: [{ type: "emoji", emoji }] });
    },
    /** The same update once more, as after an answer that got lost. */
    repeat(one) {
      updates.push(one);
      wake();
      push();
    },
    async stop() {
      webhook = null;
      poller?.();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return api;
}
