//! Who is here: one row for the gateway itself and one per tracked client or node.
//!
//! Source: src/infra/system-presence.ts at 2026.9.6. The registry holds no clock and sends nothing: callers
//! pass the time and broadcast [`Presence::list`] when something changed, at most once per second
//! ([`COALESCE_MS`]; the original sends one event per change).

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use wire::connect::ClientInfo;

/// A row not renewed (by a pong) for this long is dropped. Source: `TTL_MS`.
pub const TTL_MS: u64 = 300_000;
/// Rows kept; the least recently renewed go first. Source: `MAX_ENTRIES`.
pub const ENTRIES_MAX: usize = 200;
/// Changes within this time share one `presence` event.
pub const COALESCE_MS: u64 = 1_000;

/// Whether a client gets a row. Source: `isEphemeralGatewayClient` in src/utils/message-channel.ts.
pub fn is_tracked(client_mode: &str) -> bool {
    !matches!(client_mode, "cli" | "backend" | "probe")
}

/// The key under which a connection's row is kept, `None` for one that gets no row. Nodes are known by their
/// device, so that a reconnect finds its row.
pub fn key<'a>(
    role: &str,
    client_mode: &str,
    conn_id: &'a str,
    device_id: Option<&'a str>,
) -> Option<&'a str> {
    is_tracked(client_mode).then(|| match role {
        "node" => device_id.unwrap_or(conn_id),
        _ => conn_id,
    })
}

/// What a connection says about itself in `connect`.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    pub client: &'a ClientInfo,
    pub role: &'a str,
    pub scopes: &'a [String],
    pub device_id: Option<&'a str>,
    /// `None` for a local client.
    pub remote_ip: Option<IpAddr>,
    /// `{id, email?, …}` of an authenticated user.
    pub user: Option<&'a Value>,
    /// When the person came online, for human clients with an identity.
    pub online_since_ms: Option<u64>,
}

/// What the gateway's own row says.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    pub ip: Option<String>,
    pub version: String,
    /// `linux 6.1.0`.
    pub platform: String,
    pub device_family: String,
    pub model_identifier: Option<String>,
    pub instance_id: String,
}

#[derive(Debug)]
struct Row {
    fields: Map<String, Value>,
    renewed_ms: u64,
    /// Order of arrival, for rows of the same millisecond.
    order: u64,
}

/// Every row; one owner, short calls.
#[derive(Debug)]
pub struct Presence {
    own: Map<String, Value>,
    rows: HashMap<String, Row>,
    /// Open connections per key: a device that connects again before its old socket is gone stays present.
    live: HashMap<String, usize>,
    next_order: u64,
    version: u64,
}

impl Presence {
    pub fn new(host: &Host) -> Self {
        let ip = host
            .ip
            .as_ref()
            .map_or_else(String::new, |ip| format!(" ({ip})"));
        let text = format!(
            "Gateway: {}{ip} · app {} · mode gateway · reason self",
            host.name, host.version
        );
        let mut own = Map::new();
        set(&mut own, "host", Some(json!(host.name)));
        set(&mut own, "ip", host.ip.as_ref().map(|ip| json!(ip)));
        set(&mut own, "version", Some(json!(host.version)));
        set(&mut own, "platform", Some(json!(host.platform)));
        set(&mut own, "deviceFamily", Some(json!(host.device_family)));
        set(
            &mut own,
            "modelIdentifier",
            host.model_identifier.as_ref().map(|model| json!(model)),
        );
        set(&mut own, "mode", Some(json!("gateway")));
        set(&mut own, "reason", Some(json!("self")));
        set(&mut own, "instanceId", Some(json!(host.instance_id)));
        set(&mut own, "text", Some(json!(text)));
        Self {
            own,
            rows: HashMap::new(),
            live: HashMap::new(),
            next_order: 0,
            version: 1,
        }
    }

    /// `stateVersion.presence`. It grows by one with every event sent, see [`Presence::next_version`].
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The version that the next `presence` event carries.
    pub const fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// A tracked client arrived. Source: `upsertPresence` in the connect handler
    /// (src/gateway/server/ws-connection/message-handler.ts).
    pub fn arrive(&mut self, key: &str, arrival: Arrival<'_>, now_ms: u64) {
        let ClientInfo {
            id,
            display_name,
            version,
            platform,
            device_family,
            model_identifier,
            time_zone,
            mode,
            instance_id,
            ..
        } = arrival.client;
        let own_instance = arrival.device_id.filter(|_| arrival.role == "node");
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let mut fields = Map::new();
        for (name, value) in [
            ("host", Some(json!(display_name.as_ref().unwrap_or(id)))),
            ("clientId", Some(json!(id))),
            ("ip", arrival.remote_ip.map(|ip| json!(ip.to_string()))),
            ("version", Some(json!(version))),
            ("platform", Some(json!(platform))),
            ("deviceFamily", text(device_family)),
            ("modelIdentifier", text(model_identifier)),
            ("timeZone", text(time_zone)),
            ("mode", Some(json!(mode))),
            ("deviceId", arrival.device_id.map(|id| json!(id))),
            ("roles", strings(&[arrival.role.to_owned()])),
            ("scopes", strings(arrival.scopes)),
            (
                "instanceId",
                own_instance.or(instance_id.as_deref()).map(|id| json!(id)),
            ),
            ("user", arrival.user.cloned()),
            ("onlineSince", arrival.online_since_ms.map(|at| json!(at))),
            ("reason", Some(json!("connect"))),
        ] {
            set(&mut fields, name, value);
        }
        *self.live.entry(normalise(key)).or_default() += 1;
        self.merge(key, fields, now_ms);
    }

    /// Its connection ended; the row stays until it expires.
    pub fn leave(&mut self, key: &str, now_ms: u64) {
        let left = match self.live.get_mut(&normalise(key)) {
            Some(count) => {
                *count -= 1;
                *count == 0
            }
            None => true,
        };
        if !left {
            return;
        }
        self.live.remove(&normalise(key));
        if let Some(row) = self.rows.get_mut(&normalise(key)) {
            row.fields.remove("watchedSessions");
        }
        let mut fields = Map::new();
        set(&mut fields, "reason", Some(json!("disconnect")));
        self.merge(key, fields, now_ms);
    }

    /// Sets some fields of a row, e.g. `watchedSessions`; `null` removes one.
    pub fn update(&mut self, key: &str, fields: Map<String, Value>, now_ms: u64) {
        self.merge(key, fields, now_ms);
    }

    /// A sign of life (a pong): renews the row without bringing back one that expired.
    pub fn touch(&mut self, key: &str, now_ms: u64) {
        if let Some(row) = self.rows.get_mut(&normalise(key)) {
            row.renewed_ms = now_ms;
            row.fields.insert("ts".to_owned(), json!(now_ms));
        }
    }

    /// Renews the rows of every open connection. The original does so at each pong; we, at each tick, which
    /// comes as often.
    pub fn renew_live(&mut self, now_ms: u64) {
        for key in self.live.keys() {
            if let Some(row) = self.rows.get_mut(key) {
                row.renewed_ms = now_ms;
                row.fields.insert("ts".to_owned(), json!(now_ms));
            }
        }
    }

    /// Every row, the newest first; expired ones are dropped on the way.
    pub fn list(&mut self, now_ms: u64) -> Vec<Value> {
        self.rows
            .retain(|_, row| now_ms.saturating_sub(row.renewed_ms) <= TTL_MS);
        self.drop_oldest();
        let mut own = self.own.clone();
        own.insert("ts".to_owned(), json!(now_ms));
        let mut listed: Vec<(u64, u64, &Map<String, Value>)> = self
            .rows
            .values()
            .map(|row| (row.renewed_ms, row.order + 1, &row.fields))
            .collect();
        listed.push((now_ms, 0, &own));
        listed.sort_by_key(|(renewed_ms, order, _)| (std::cmp::Reverse(*renewed_ms), *order));
        listed
            .into_iter()
            .map(|(_, _, fields)| Value::Object(fields.clone()))
            .collect()
    }

    fn merge(&mut self, key: &str, mut fields: Map<String, Value>, now_ms: u64) {
        let order = self.next_order;
        let row = self.rows.entry(normalise(key)).or_insert_with(|| Row {
            fields: Map::new(),
            renewed_ms: now_ms,
            order,
        });
        self.next_order += u64::from(row.order == order);
        for name in ["roles", "scopes"] {
            let merged = union(row.fields.get(name), fields.get(name));
            set(&mut fields, name, merged);
        }
        for (name, value) in fields {
            match value {
                Value::Null => drop(row.fields.shift_remove(&name)),
                value => drop(row.fields.insert(name, value)),
            }
        }
        row.renewed_ms = now_ms;
        if !row.fields.contains_key("text") {
            let shown = |name| {
                row.fields
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or("unknown")
            };
            let text = format!("Node: {} · mode {}", shown("host"), shown("mode"));
            row.fields.insert("text".to_owned(), json!(text));
        }
        row.fields.insert("ts".to_owned(), json!(now_ms));
        // Twice the limit, so that a flood of connections between two listings stays bounded too.
        if self.rows.len() > 2 * ENTRIES_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        // The gateway's own row counts.
        let excess = (self.rows.len() + 1).saturating_sub(ENTRIES_MAX);
        if excess == 0 {
            return;
        }
        let mut ages: Vec<(u64, u64, String)> = self
            .rows
            .iter()
            .map(|(key, row)| (row.renewed_ms, row.order, key.clone()))
            .collect();
        ages.sort_unstable();
        for (_, _, key) in ages.into_iter().take(excess) {
            self.rows.remove(&key);
        }
    }
}

/// The payload of a `presence` event, and (as its array) the answer to `system-presence`.
pub fn event_payload(rows: &[Value]) -> String {
    json!({ "presence": rows }).to_string()
}

/// Rows as one caller may see them: nobody without `operator.read` sees any.
/// Source: `createPresenceRecipientProjection` in src/gateway/presence-projection.ts.
pub fn visible<'a>(rows: &'a [Value], role: &str, scopes: wire::scope::ScopeSet) -> &'a [Value] {
    match role == "operator" && scopes.satisfies(wire::scope::Scope::Read) {
        true => rows,
        false => &[],
    }
}

fn set(fields: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value);
    }
}

fn strings(items: &[String]) -> Option<Value> {
    (!items.is_empty()).then(|| json!(items))
}

fn union(existing: Option<&Value>, added: Option<&Value>) -> Option<Value> {
    let mut out: Vec<&str> = Vec::new();
    for item in [existing, added]
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten()
    {
        let item = item.as_str().map(wire::raw::js_trim).unwrap_or_default();
        if !item.is_empty() && !out.contains(&item) {
            out.push(item);
        }
    }
    (!out.is_empty()).then(|| json!(out))
}

fn normalise(key: &str) -> String {
    wire::raw::js_trim(key).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        Presence::new(&Host {
            name: "vm".to_owned(),
            ip: Some("192.0.2.2".to_owned()),
            version: "2026.9.6".to_owned(),
            platform: "linux 6.1".to_owned(),
            device_family: "Linux".to_owned(),
            model_identifier: None,
            instance_id: "i".to_owned(),
        })
    }

    fn tui() -> ClientInfo {
        let client = json!({"id":"openclaw-tui","version":"2026.9.6","platform":"linux","mode":"ui","instanceId":"t"});
        serde_json::from_value(client).expect("a client")
    }

    fn arrival<'a>(client: &'a ClientInfo, scopes: &'a [String]) -> Arrival<'a> {
        Arrival {
            client,
            role: "operator",
            scopes,
            device_id: Some("d"),
            remote_ip: None,
            user: None,
            online_since_ms: None,
        }
    }

    #[test]
    fn the_gateways_own_row_reads_as_the_originals() {
        assert_eq!(
            presence().list(7),
            [
                json!({"host":"vm","ip":"192.0.2.2","version":"2026.9.6","platform":"linux 6.1","deviceFamily":"Linux",
                "mode":"gateway","reason":"self","instanceId":"i",
                "text":"Gateway: vm (192.0.2.2) · app 2026.9.6 · mode gateway · reason self","ts":7})
            ]
        );
    }

    #[test]
    fn a_client_arrives_lives_and_leaves() {
        let mut presence = presence();
        let (client, scopes) = (tui(), vec!["operator.read".to_owned()]);
        presence.arrive("Conn-1", arrival(&client, &scopes), 10);
        assert_eq!(
            presence.list(10)[1],
            json!({"host":"openclaw-tui","clientId":"openclaw-tui","version":"2026.9.6","platform":"linux","mode":"ui",
                "deviceId":"d","roles":["operator"],"scopes":["operator.read"],"instanceId":"t","reason":"connect",
                "text":"Node: openclaw-tui · mode ui","ts":10})
        );
        presence.leave("conn-1", 20);
        let row = &presence.list(20)[1];
        assert_eq!(
            (&row["reason"], &row["ts"]),
            (&json!("disconnect"), &json!(20))
        );
        presence.touch("conn-1", 200_000);
        assert_eq!(presence.list(500_000).len(), 2);
        assert_eq!(presence.list(500_001).len(), 1);
        presence.touch("conn-1", 500_002);
        assert_eq!(
            presence.list(500_002).len(),
            1,
            "an expired row does not come back"
        );
    }

    #[test]
    fn a_device_that_reconnects_first_stays_present() {
        let mut presence = presence();
        let (client, scopes) = (tui(), Vec::new());
        presence.arrive("d", arrival(&client, &scopes), 1);
        presence.arrive("d", arrival(&client, &scopes), 2);
        presence.leave("d", 3);
        assert_eq!(presence.list(3)[1]["reason"], "connect");
        presence.renew_live(400_000);
        assert_eq!(presence.list(400_001).len(), 2);
        presence.leave("d", 400_002);
        assert_eq!(presence.list(400_002)[1]["reason"], "disconnect");
        presence.renew_live(900_000);
        assert_eq!(presence.list(900_000).len(), 1);
    }

    #[test]
    fn rows_are_bounded_and_the_stalest_go_first() {
        let mut presence = presence();
        let (client, scopes) = (tui(), Vec::new());
        for n in 0..1000_u64 {
            presence.arrive(&format!("c{n}"), arrival(&client, &scopes), n);
        }
        let rows = presence.list(1000);
        assert_eq!(rows.len(), ENTRIES_MAX);
        assert_eq!(rows[1]["ts"], 999);
        assert!(rows.iter().all(|row| row["ts"].as_u64() > Some(800)));
    }

    #[test]
    fn only_readers_see_rows() {
        let rows = presence().list(1);
        let scopes = |scopes: &[&str]| wire::scope::ScopeSet::parse(scopes);
        assert_eq!(
            visible(&rows, "operator", scopes(&["operator.read"])).len(),
            1
        );
        assert_eq!(
            visible(&rows, "operator", scopes(&["operator.pairing"])).len(),
            0
        );
        assert_eq!(visible(&rows, "node", scopes(&["operator.read"])).len(), 0);
    }

    #[test]
    fn short_lived_clients_are_not_tracked() {
        for mode in ["cli", "backend", "probe"] {
            assert!(!is_tracked(mode));
        }
        for mode in ["ui", "webchat", "node", "test"] {
            assert!(is_tracked(mode));
        }
        assert_eq!(key("node", "node", "c", Some("d")), Some("d"));
        assert_eq!(key("operator", "ui", "c", Some("d")), Some("c"));
        assert_eq!(key("operator", "cli", "c", Some("d")), None);
    }
}
