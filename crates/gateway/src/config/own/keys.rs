//! The keys of our own settings file: what each holds, its default and what it is for.

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of these words.
    Word(&'static [&'static str]),
    Text,
    /// A list of strings.
    List,
    Bool,
    /// A whole number in this range.
    Number(u64, u64),
    /// `address:port`, or the word `off`.
    Listen,
}

/// One documented key.
#[derive(Debug)]
pub struct OwnKey {
    /// `section.key`.
    pub name: &'static str,
    pub kind: Kind,
    /// The default as TOML; empty when unset.
    pub default: &'static str,
    /// Whether a change applies without a restart.
    pub hot: bool,
    /// What it is for, with its unit.
    pub doc: &'static str,
}

const MODES: &[&str] = &["off", "attach", "supervise", "auto"];
const IDENTITIES: &[&str] = &["auto", "backend", "exact"];
const DOUBTS: &[&str] = &["hold", "resend", "drop"];
const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];
const FORMATS: &[&str] = &["auto", "pretty", "json"];

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    hot: bool,
    doc: &'static str,
) -> OwnKey {
    OwnKey {
        name,
        kind,
        default,
        hot,
        doc,
    }
}

const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;

/// Every key of the file, in the order of the example file.
#[rustfmt::skip]
pub const KEYS: &[OwnKey] = &[
    key("upstream.mode", Kind::Word(MODES), "\"auto\"", false,
        "The TypeScript gateway behind this one: `off` (none), `attach` (one that is already running, at `upstream.url`), `supervise` (started and watched by this gateway), `auto` (supervise when the `openclaw` package and an OpenClaw state exist, else off)."),
    key("upstream.url", Kind::Text, "", false,
        "Address of the gateway to attach to; required by `attach`. `ws://127.0.0.1:PORT` on this machine; `wss://HOST[:PORT]` on another one, which must approve this gateway's own device once."),
    key("upstream.token", Kind::Text, "", false,
        "Shared secret of the gateway to attach to. Prefer `upstream.token_file`."),
    key("upstream.token_file", Kind::Text, "", false,
        "File with the shared secret of the gateway to attach to; it should be readable by its owner only."),
    key("upstream.tls_fingerprint", Kind::Text, "", false,
        "SHA-256 of the certificate of a `wss://` gateway, in hexadecimal, colons allowed; no other one is accepted then. Unset: it must be valid by the usual authorities, or those of `SSL_CERT_FILE` or `NODE_EXTRA_CA_CERTS`."),
    key("upstream.command", Kind::List, "", false,
        "How to start `openclaw` when supervised, without arguments of its own, such as `[\"/usr/bin/openclaw\"]`. Unset: found on `PATH` and in the usual global package directories."),
    key("upstream.node", Kind::Text, "", false,
        "Path to the Node.js that runs the supervised `openclaw`. Unset: the `node` on `PATH`."),
    key("upstream.port", Kind::Number(0, 65535), "0", false,
        "Port of the supervised gateway on the loopback addresses; 0 chooses a free one, which is kept between starts."),
    key("upstream.start_timeout_s", Kind::Number(1, 3600), "120", false,
        "Seconds a supervised gateway may take from its start to protocol readiness before it is stopped and started again."),
    key("upstream.stop_timeout_s", Kind::Number(1, 600), "4", false,
        "Seconds a supervised gateway may take to stop before it is killed."),
    key("upstream.on_demand", Kind::Bool, "false", false,
        "Start the supervised gateway at the first call that needs it, or with this one when the configuration has a channel account that this one does not run, and stop it when idle."),
    key("upstream.idle_stop_s", Kind::Number(10, 604_800), "900", false,
        "Seconds without a bridged call after which an `on_demand` gateway is stopped, if no channel account and no run is at work in it and its next cron job is not due within two minutes; it is started again 45 s before that job. (Every OpenClaw has jobs of its own, so that having some can't keep it awake.)"),
    key("upstream.hold_s", Kind::Number(0, 600), "20", true,
        "Seconds that a client's call waits while the supervised gateway is replaced on purpose (`upstream restart`, its memory ceiling, a wake from `on_demand`) before it gets a retryable `UNAVAILABLE`. Per client 1,024 calls and 1 MiB wait, of all clients 64 MiB. A change counts for clients that connect after it. 0: none waits."),
    key("upstream.memory_max_mib", Kind::Number(0, 1024 * 1024), "0", true,
        "MiB that the supervised gateway and all it started may have resident together; past it, it finishes what it does and is started anew while clients stay connected. Looked at every 5 s; pages that processes share count for each. 0: no ceiling."),
    key("upstream.identity", Kind::Word(IDENTITIES), "\"auto\"", false,
        "As whom a client reaches the upstream: `backend` (this gateway's own loopback client, with the scopes of the client), `exact` (the client's handshake is relayed), `auto` (backend, and exact where the client's own identity matters)."),
    key("native.disable", Kind::List, "[]", true,
        "Methods handed back to the upstream although this gateway could answer them. A pattern is a method name, or a prefix and `*`: `[\"sessions.*\", \"health\"]`."),
    key("limits.preauth_connections_per_ip", Kind::Number(1, 65536), "32", true,
        "Sockets of one address that may be in their handshake at the same time."),
    key("limits.handshake_timeout_s", Kind::Number(1, 300), "15", true,
        "Seconds from opening a socket to a finished `connect`."),
    key("limits.preauth_bytes_max", Kind::Number(KIB, 16 * MIB), "65536", true,
        "Largest frame before authentication, in bytes."),
    key("limits.payload_bytes_max", Kind::Number(64 * KIB, 1024 * MIB), "26214400", false,
        "Largest frame of an authenticated client, in bytes."),
    key("limits.buffered_bytes_max", Kind::Number(64 * KIB, 4096 * MIB), "52428800", false,
        "Bytes that may wait to be sent to one client before it is closed as a slow consumer."),
    key("limits.requests_waiting_max", Kind::Number(1, 65536), "256", true,
        "Requests of one client that may wait at the same time."),
    key("limits.http_header_timeout_s", Kind::Number(1, 600), "60", true,
        "Seconds a client may take to send the header of an HTTP request."),
    key("limits.upstream_pending_max", Kind::Number(1, 1_000_000), "4096", true,
        "Bridged calls of all clients that may wait for the upstream at the same time; more get `UNAVAILABLE` at once."),
    key("limits.upstream_links_max", Kind::Number(1, 1_000_000), "4096", true,
        "Connections to the upstream, one for each client that makes a bridged call; more get `UNAVAILABLE` at once."),
    key("channels.native", Kind::List, "[]", true,
        "Channel accounts that this gateway runs itself instead of the upstream: `[\"telegram\", \"matrix/work\"]`, a channel or `channel/account`. Without an upstream it runs all that it can."),
    key("memory.native", Kind::Bool, "false", true,
        "Answer `memory.search`, and `memory_search` and `memory_get` of `tools.invoke`, here although there is an upstream: from the same files, with an index of our own. Without an upstream they are always answered here."),
    key("messages.in_doubt", Kind::Word(DOUBTS), "\"hold\"", true,
        "What becomes of a message that may have arrived and whose service can't tell: `hold` it for a person, `resend` it (it may arrive twice), or `drop` it."),
    key("messages.attempts_max", Kind::Number(1, 1000), "12", true,
        "Attempts after which a message that can't be sent becomes a dead letter."),
    key("messages.inbound_age_max_s", Kind::Number(10, 604_800), "3600", true,
        "Seconds that a message from a chat may wait for the agent; older ones are asked about instead of being answered late."),
    key("messages.reply_age_max_s", Kind::Number(10, 604_800), "21600", true,
        "Seconds after which an answer that could not be sent is a dead letter instead of being sent late."),
    key("messages.turn_timeout_s", Kind::Number(10, 86_400), "900", true,
        "Seconds that the agent may work on one message from a chat."),
    key("messages.legacy_url", Kind::Text, "", true,
        "Base URL of a bridge that takes messages for channels that are not ours at `POST /api/legacy/message`. Unset: they go to the upstream's `send`."),
    key("messages.keep_days", Kind::Number(1, 3650), "30", true,
        "Days that finished messages, their history and tombstones are kept."),
    key("rollout.percent", Kind::Number(0, 100), "100", true,
        "Percent of clients, by device, whose native methods are answered here; the others' go to the upstream. `openclaw-gateway rollout` changes it. Without an upstream everything is answered here."),
    key("rollout.paused", Kind::Bool, "false", true,
        "`openclaw-gateway rollout promote` is refused while this is set."),
    key("rollout.shadow_percent", Kind::Number(0, 100), "0", true,
        "Of 100 reads that the upstream answers, so many are answered here too, out of sight, and compared; `openclaw-gateway rollout diff` shows what differs."),
    key("rollout.guard.enabled", Kind::Bool, "true", true,
        "Watch what is answered here against what the upstream answers, and go back to 0 % by itself when a bound below is passed; it stays there until `openclaw-gateway rollout promote` or `set`. Only calls that move with `rollout.percent` are judged."),
    key("rollout.guard.window_s", Kind::Number(5, 3600), "120", true,
        "Seconds that are looked back on."),
    key("rollout.guard.calls_min", Kind::Number(10, 1_000_000), "100", true,
        "Calls of a side in the window below which nothing is said of it; comparisons too, for `mismatch_percent`."),
    key("rollout.guard.error_percent", Kind::Number(1, 100), "5", true,
        "Percent of the calls answered here that may fail for a reason of our own (`UNAVAILABLE`, a panic, a time-out); what a client asked wrongly does not count."),
    key("rollout.guard.error_factor", Kind::Number(1, 1000), "2", true,
        "They may also fail up to so many times as often as the upstream's in the same time."),
    key("rollout.guard.p99_floor_ms", Kind::Number(1, 600_000), "100", true,
        "Milliseconds that one call in a hundred may take here, whatever the upstream takes: between less nothing is compared."),
    key("rollout.guard.p99_factor", Kind::Number(1, 1000), "3", true,
        "It may also take up to so many times as long as the upstream's in the same time."),
    key("rollout.guard.p99_alone_ms", Kind::Number(1, 600_000), "1000", true,
        "Milliseconds that it may take while the upstream answers too few of such calls to compare, as at 100 %."),
    key("rollout.guard.queue_age_s", Kind::Number(0, 604_800), "900", true,
        "Seconds that a message may be due, over the whole window, without being taken up here; one that its service or agent is busy with, or that waits for its next try, does not count. 0: not looked at."),
    key("rollout.guard.mismatch_percent", Kind::Number(0, 100), "20", true,
        "Percent of the reads compared because of `rollout.shadow_percent` that may differ, of those that move with the percent. 100: not looked at."),
    key("admin.listen", Kind::Listen, "\"127.0.0.1:18689\"", false,
        "Address of the listener with metrics and detailed readiness, or `off`; port 0 chooses a free one. It has no authentication: keep it on a loopback address."),
    key("log.level", Kind::Word(LEVELS), "\"info\"", true,
        "Least severe level that is logged."),
    key("log.format", Kind::Word(FORMATS), "\"auto\"", false,
        "`pretty` for people, `json` for machines, `auto`: pretty on a terminal, else json."),
    key("control_ui.package", Kind::Text, "", false,
        "Path of the installed `openclaw` package whose Control UI is served; by default the one that is found as for `upstream.command`."),
    key("control_ui.native", Kind::Bool, "true", true,
        "Serve the Control UI's files here, with and without OpenClaw running. `false` leaves its pages to the upstream."),
];
