// The original's own routing code, called directly: what it decides for a configuration and an envelope.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { openclawPackage } from "../lib/tools.mjs";

const dist = path.join(openclawPackage, "dist");
const load = (file) => import(pathToFileURL(path.join(dist, file)).href);

/** A function of the package by its name: chunk names carry a hash and exports one letter. */
async function internal(...names) {
  const wanted = new Map(names.map((name) => [name, undefined]));
  for (const file of fs.readdirSync(dist).filter((file) => file.endsWith(".mjs"))) {
    const text = fs.readFileSync(path.join(dist, file), "utf8");
    const exported = (name) => new RegExp(`^export \\{[^}]*\\b${name} as `, "m").test(text) && new RegExp(`^(async )?(function|const) ${name}\\b`, "m").test(text);
    const here = [...wanted].filter(([name, found]) => !found && exported(name)).map(([name]) => name);
    if (here.length === 0) continue;
    const aliases = Object.fromEntries([...text.match(/^export \{(.*)\};?$/m)[1].matchAll(/(\w+) as (\w+)/g)].map(([, name, alias]) => [name, alias]));
    const module = await load(file);
    for (const name of here) wanted.set(name, module[aliases[name]]);
  }
  for (const [name, found] of wanted) if (!found) throw new Error(`the package has no function ${name} any more`);
  return Object.fromEntries(wanted);
}

export async function original() {
  const routing = await load("plugin-sdk/routing.js");
  const ingress = await load("plugin-sdk/channel-ingress-runtime.js");
  const own = await internal(
    "resolveTelegramConversationRoute",
    "resolveTelegramTargetSession",
    "isTelegramHistorySenderAllowed",
    "resolveTelegramScopedGroupConfig",
    "resolveTelegramEffectiveDmPolicy",
    "mergeTelegramAccountConfig",
    "normalizeDmAllowFromWithStore",
    "telegramAllowEntries",
    "normalizeAllowFrom",
    "resolveCommandAuthorization",
    "isResetAuthorizedForContext",
    "resolveScopeRequireMention",
    "buildChannelGroupsScopeTree",
    "matchesMentionPatterns",
    "buildMentionRegexes",
  );

  /** `{agent, sessionKey, rule}`, or `{refused}` when no agent can be chosen. */
  function route(cfg, { channel, account, message }) {
    const { chat, sender } = message;
    const direct = chat.kind === "direct";
    try {
      if (channel === "telegram") {
        const params = { cfg, accountId: account, chatId: chat.id, isGroup: !direct, senderId: sender.id };
        const threadSpec = direct ? { scope: "dm" } : chat.thread ? { scope: "forum", id: Number(chat.thread) } : { scope: "none" };
        const { route } = own.resolveTelegramConversationRoute({ ...params, threadSpec });
        const sessionKey = own.resolveTelegramTargetSession({ ...params, route, dmThreadId: undefined, botHasTopicsEnabled: false });
        return { agent: route.agentId, sessionKey, rule: route.matchedBy };
      }
      const team = channel === "slack";
      const found = routing.resolveAgentRoute({
        cfg,
        channel,
        accountId: account,
        peer: { kind: chat.kind, id: direct ? sender.id : chat.id },
        // A thread belongs to its room.
        parentPeer: !direct && chat.thread ? { kind: chat.kind, id: chat.id } : undefined,
        guildId: team ? undefined : chat.parent,
        teamId: team ? chat.parent : undefined,
        memberRoleIds: sender.roles ?? [],
      });
      const { sessionKey } = routing.resolveThreadSessionKeys({
        baseSessionKey: found.sessionKey,
        threadId: direct ? undefined : chat.thread,
        // Matrix event ids differ in case; the key grammar keeps them.
        normalizeThreadId: channel === "matrix" ? (id) => id : undefined,
      });
      return { agent: found.agentId, sessionKey, rule: found.matchedBy };
    } catch (error) {
      if (error?.name !== "AgentSelectionRequiredError" && !/agent/i.test(error?.message ?? "")) throw error;
      return { refused: error.message };
    }
  }

  /** `pass`, `pair`, `deny` or `unmentioned`: who is answered on Telegram. */
  async function telegramGate(cfg, { account, message, paired }) {
    const { chat, sender } = message;
    const settings = own.mergeTelegramAccountConfig(cfg, account);
    const thread = chat.thread ? Number(chat.thread) : undefined;
    const { groupConfig, topicConfig } = own.resolveTelegramScopedGroupConfig(settings, chat.id, thread);
    if (chat.kind === "direct") {
      if (groupConfig?.enabled === false) return "deny";
      const dmPolicy = own.resolveTelegramEffectiveDmPolicy({ isGroup: false, groupConfig, dmPolicy: settings.dmPolicy });
      const allowFrom = own.telegramAllowEntries(own.normalizeDmAllowFromWithStore({
        allowFrom: groupConfig?.allowFrom ?? settings.allowFrom,
        storeAllowFrom: paired ? [sender.id] : [],
        dmPolicy,
      }));
      const resolver = ingress.createChannelIngressResolver({
        channelId: "telegram",
        accountId: account,
        cfg,
        identity: { primary: { key: "sender", normalize: (value) => value } },
        readStoreAllowFrom: async () => [],
      });
      const { ingress: access } = await resolver.message({
        subject: { stableId: sender.id },
        conversation: { kind: "direct", id: sender.id },
        dmPolicy,
        groupPolicy: "disabled",
        allowFrom,
      });
      return { allow: "pass", pairing: "pair" }[access.decision] ?? "deny";
    }
    const allowed = await own.isTelegramHistorySenderAllowed({ cfg, accountId: account, chatId: chat.id, threadId: thread, senderId: sender.id });
    if (!allowed) return "deny";
    const ofGroup = own.resolveScopeRequireMention({ tree: own.buildChannelGroupsScopeTree(cfg, "telegram", account), path: [chat.id] });
    const required = topicConfig?.requireMention ?? groupConfig?.requireMention ?? ofGroup;
    return !required || message.mentionsUs || mentioned(cfg, route(cfg, { channel: "telegram", account, message }).agent, message.text)
      ? "pass"
      : "unmentioned";
  }

  /** `all`, `reset` or `none`: what the sender of a message that is answered may order. */
  async function telegramStanding(cfg, envelope) {
    if ((await telegramGate(cfg, envelope)) !== "pass") return "unanswered";
    const { account, message: { chat, sender }, paired } = envelope;
    const settings = own.mergeTelegramAccountConfig(cfg, account);
    const isGroup = chat.kind !== "direct";
    const thread = chat.thread ? Number(chat.thread) : undefined;
    const { groupConfig, topicConfig } = own.resolveTelegramScopedGroupConfig(settings, chat.id, thread);
    const override = topicConfig?.allowFrom ?? groupConfig?.allowFrom;
    const dmPolicy = own.resolveTelegramEffectiveDmPolicy({ isGroup, groupConfig, dmPolicy: settings.dmPolicy });
    const direct = own.normalizeDmAllowFromWithStore({
      allowFrom: (isGroup ? undefined : override) ?? settings.allowFrom, storeAllowFrom: paired && !isGroup ? [sender.id] : [], dmPolicy,
    });
    const group = own.normalizeAllowFrom(override ?? settings.groupAllowFrom ?? settings.allowFrom);
    const ctx = { Provider: "telegram", Surface: "telegram", AccountId: account, ChatType: isGroup ? "group" : "direct", SenderId: sender.id };
    // As its channel asks, which needs a running gateway: `resolveTelegramCommandIngressAuthorization`.
    const byConfig = own.resolveCommandAuthorization({ cfg, ctx, commandAuthorized: false });
    const listed = Array.isArray(cfg.commands?.allowFrom?.telegram) || Array.isArray(cfg.commands?.allowFrom?.["*"]);
    const resolver = ingress.createChannelIngressResolver({
      channelId: "telegram", accountId: account, cfg, identity: { primary: { key: "sender", normalize: (value) => value } }, readStoreAllowFrom: async () => [],
    });
    const { commandAccess } = await resolver.command({
      subject: { stableId: sender.id },
      conversation: { kind: isGroup ? "group" : "direct", id: chat.id },
      event: { kind: "native-command" },
      dmPolicy,
      groupPolicy: "allowlist",
      allowFrom: [...own.telegramAllowEntries(direct), ...byConfig.ownerList],
      groupAllowFrom: isGroup ? own.telegramAllowEntries(group) : [],
      command: { allowTextCommands: false, hasControlCommand: false, modeWhenAccessGroupsOff: "configured" },
    });
    const authorized = listed ? byConfig.isAuthorizedSender : byConfig.senderIsOwner || commandAccess.authorized;
    const params = { cfg, commandAuthorized: authorized, ctx };
    if (own.resolveCommandAuthorization(params).isAuthorizedSender) return "all";
    return own.isResetAuthorizedForContext(params) ? "reset" : "none";
  }

  const mentioned = (cfg, agent, text) => own.matchesMentionPatterns(text, own.buildMentionRegexes(cfg, agent));

  return { route, telegramGate, telegramStanding };
}
