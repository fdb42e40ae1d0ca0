// Configurations and envelopes by a seeded generator: small pools, so that rules meet.

/** Mulberry32: the same cases in every run. */
function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const chance = (share) => next() < share;
  const pick = (list) => list[Math.floor(next() * list.length)];
  const some = (list, share = 0.5) => list.filter(() => chance(share));
  return { chance, pick, some, count: (max) => Math.floor(next() * (max + 1)) };
}

const CHANNELS = ["telegram", "telegram", "discord", "discord", "slack", "matrix", "signal", "irc", "webhook"];
const ACCOUNTS = ["default", "work", "Second One", ""];
const AGENTS = ["main", "ops", "Home Base", "night_owl"];
const PEOPLE = { telegram: ["42", "77"], matrix: ["@Ann:x", "@bob:x"], default: ["U1", "u1", "u2"] };
const ROOMS = { telegram: ["-100", "-200"], matrix: ["!Room:x", "!room:x"], default: ["C1", "c2"] };
const of = (pool, channel) => pool[channel] ?? pool.default;

function agents(r) {
  const listed = r.some(AGENTS).map((id) => ({ id }));
  if (listed.length > 1 && r.chance(0.85)) r.pick(listed).default = true;
  if (r.chance(0.3)) return undefined;
  if (r.chance(0.3)) return { entries: Object.fromEntries(listed.map(({ id, ...rest }) => [id, rest])) };
  return { list: listed };
}

function session(r) {
  const own = {};
  if (r.chance(0.7)) own.dmScope = r.pick(["main", "per-peer", "per-channel-peer", "per-account-channel-peer"]);
  if (r.chance(0.3)) own.groupScope = r.pick(["main", "per-group"]);
  if (r.chance(0.4)) {
    own.identityLinks = {
      Ann: r.some(["telegram:42", "matrix:@Ann:x", "u1", "discord:U1"]),
      bob: r.some(["telegram:42", "77", "SLACK:u2", "@bob:x"]),
    };
  }
  return own;
}

function binding(r, channel) {
  const match = { channel: r.chance(0.1) ? channel.toUpperCase() : r.chance(0.15) ? r.pick(CHANNELS) : channel };
  if (r.chance(0.5)) match.accountId = r.pick([...ACCOUNTS, "*", "*", "WORK"]);
  if (r.chance(0.55)) {
    const room = r.chance(0.65);
    let id = r.chance(0.2) ? "*" : r.pick(of(room ? ROOMS : PEOPLE, channel));
    if (room && id !== "*" && r.chance(0.25)) id += channel === "telegram" ? ":topic:7" : ":thread:7";
    match.peer = { kind: room ? r.pick(["group", "channel"]) : r.pick(["direct", "dm"]), id };
    if (r.chance(0.05)) delete match.peer.id;
    if (r.chance(0.05)) match.peer.kind = "person";
  }
  const kept = match.peer ? 0.15 : 1;
  if (r.chance(kept * (channel === "discord" ? 0.7 : 0.1))) match.guildId = r.pick(["g1", "g2"]);
  if (r.chance(kept * (channel === "slack" ? 0.7 : 0.1))) match.teamId = r.pick(["g1", "T2"]);
  if (r.chance(match.guildId ? 0.6 : 0.15)) match.roles = r.some(["mod", "Mod", "staff"]);
  const own = { agentId: r.pick([...AGENTS, "ghost", "OPS"]), match };
  if (r.chance(0.2)) own.session = { dmScope: r.pick(["main", "per-peer", "per-account-channel-peer"]) };
  if (r.chance(0.1)) own.session = { ...own.session, groupScope: r.pick(["main", "per-group"]) };
  if (r.chance(0.1)) own.type = r.pick(["route", "acp"]);
  return own;
}

function envelope(r, channel, accounts = ACCOUNTS) {
  const kind = r.pick(channel === "telegram" ? ["direct", "group"] : ["direct", "group", "channel"]);
  const person = r.pick(of(PEOPLE, channel));
  const chat = { kind, id: kind === "direct" ? person : r.pick(of(ROOMS, channel)) };
  if (kind !== "direct" && r.chance(channel === "telegram" ? 0.6 : 0.4)) chat.thread = channel === "matrix" ? "$Event:x" : r.pick(["7", "8"]);
  if (channel !== "telegram" && r.chance(0.7)) chat.parent = r.pick(["g1", "g2", "T2"]);
  const sender = { id: person };
  if (channel !== "telegram" && r.chance(0.6)) sender.roles = r.some(["mod", "staff"]);
  return { channel, account: r.pick(accounts), message: { chat, sender } };
}

/** Which agent and session: nobody is turned away. */
export function routes(seed, configs, each) {
  const r = random(seed);
  return Array.from({ length: configs }, () => {
    const channel = r.pick(CHANNELS);
    const everyone = { dmPolicy: "open", allowFrom: ["*"], groupPolicy: "open", groups: { "*": { requireMention: false } } };
    const config = { session: session(r), bindings: Array.from({ length: r.count(8) }, () => binding(r, channel)), channels: { [channel]: everyone } };
    const roster = agents(r);
    if (roster) config.agents = roster;
    if (channel === "telegram" && r.chance(0.5)) {
      everyone.accounts = Object.fromEntries(r.some(["default", "work", "other"], 0.6).map((id) => [id, { botToken: "1:a" }]));
      if (r.chance(0.4)) everyone.defaultAccount = r.pick(["work", "other", "none"]);
    }
    return { config, envelopes: Array.from({ length: each }, () => envelope(r, channel)) };
  });
}

function groupLevel(r, deep) {
  const level = {};
  if (r.chance(0.4)) level.requireMention = r.chance(0.5);
  if (r.chance(0.15)) level.enabled = r.chance(0.5);
  if (r.chance(0.3)) level.allowFrom = r.some(["42", "*", "tg:77", "@ann"]);
  if (r.chance(0.2)) level.groupPolicy = r.pick(["open", "allowlist", "disabled"]);
  if (deep && r.chance(0.4)) level.topics = Object.fromEntries(r.some(["7", "*"]).map((id) => [id, groupLevel(r, false)]));
  return level;
}

/** Who is answered on Telegram. */
export function gates(seed, configs, each) {
  const r = random(seed);
  return Array.from({ length: configs }, () => {
    // The loader writes this default into the original's configuration before anybody reads it.
    const telegram = { groupPolicy: "allowlist" };
    if (r.chance(0.8)) telegram.dmPolicy = r.pick(["open", "pairing", "allowlist", "disabled"]);
    if (r.chance(0.6)) telegram.groupPolicy = r.pick(["open", "allowlist", "disabled"]);
    if (r.chance(0.7)) telegram.allowFrom = r.some(["42", 77, "*", "tg:42", "Telegram:77", "@ann", " 42 "], 0.3);
    if (r.chance(0.5)) telegram.groupAllowFrom = r.some(["42", "tg:77", "*", "-100"], 0.4);
    if (r.chance(0.7)) telegram.groups = Object.fromEntries(r.some(["-100", "-300", "*"]).map((id) => [id, groupLevel(r, true)]));
    if (r.chance(0.2)) telegram.direct = Object.fromEntries(r.some(["42", "*"]).map((id) => [id, { ...(r.chance(0.7) && { dmPolicy: r.pick(["open", "allowlist", "disabled", "pairing"]) }), ...(r.chance(0.4) && { allowFrom: r.some(["42", "77", "*"]) }), ...(r.chance(0.3) && { enabled: r.chance(0.5) }) }]));
    const config = { channels: { telegram } };
    const identity = r.pick([undefined, { name: "Claw" }, { name: "Lobster 🦞 Bot" }, { name: "Ops", emoji: "🤖" }]);
    const own = r.pick([undefined, undefined, [], ["\\bops\\b"], ["@?claw"]]);
    const entry = { id: "main", ...(identity && { identity }), ...(own && { groupChat: { mentionPatterns: own } }) };
    if (r.chance(0.7)) config.agents = { list: [entry] };
    if (r.chance(0.4)) config.messages = { groupChat: r.chance(0.9) ? { mentionPatterns: r.some(["\\bhey claw\\b", "\bclaw\b", "lob.ter", "^!", "hi(?!gh)"]) } : {} };
    const envelopes = Array.from({ length: each }, () => {
      const one = envelope(r, "telegram", ["default"]);
      one.message.text = r.pick(["hi", "hey Claw!", "claws", "ask CLAW now", "Lobster Bot, hi", "lobster 🦞 bot", "@ops", "🤖 hm", "!go", "cl\u200baw"]);
      one.message.mentionsUs = r.chance(0.2);
      one.paired = r.chance(0.3);
      return one;
    });
    return { config, envelopes };
  });
}

/** Who may give commands on Telegram, among those who are answered. */
export function standings(seed, configs, each) {
  const r = random(seed ^ 0x5eed);
  const people = ["42", "77", "discord:42", "*", 77];
  return gates(seed, configs, each).map(({ config, envelopes }) => {
    const commands = {};
    if (r.chance(0.4)) commands.allowFrom = Object.fromEntries(r.some(["telegram", "discord", "*"]).map((id) => [id, r.some(["42", "77", "*"], 0.4)]));
    if (r.chance(0.5)) commands.ownerAllowFrom = r.some(people, 0.3);
    // Without a loaded channel the original does not know its prefixes in these.
    const { telegram } = config.channels;
    const bare = (list) => list?.map((entry) => String(entry).trim()).filter((entry) => /^(\d+|\*)$/.test(entry));
    for (const level of [telegram, ...Object.values(telegram.groups ?? {}), ...Object.values(telegram.direct ?? {})].flatMap((one) => [one, ...Object.values(one.topics ?? {})])) {
      for (const key of ["allowFrom", "groupAllowFrom"]) if (level[key]) level[key] = bare(level[key]);
    }
    for (const { message } of envelopes) Object.assign(message, { text: "/status", mentionsUs: true });
    return { config: { ...config, commands }, envelopes };
  });
}
