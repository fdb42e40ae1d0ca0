//! The table of crate edges, checked from the manifests.

/// Which of our crates a crate may use, and what it must never depend on. A new line or edge is a
/// design decision: write it down in `docs/decisions/`.
pub(super) struct Edges {
    pub(super) name: &'static str,
    pub(super) ours: &'static [&'static str],
    /// Only these from outside, where the crate's worth is in what it cannot do; `None`: any but `never`.
    pub(super) only: Option<&'static [&'static str]>,
    pub(super) never: &'static [&'static str],
}

pub(super) const EDGES: [Edges; 12] = [
    // No IO: no socket, no clock, no runtime. `flate2` unpacks the schemas, which the build packs (49 KB of the binary).
    Edges {
        name: "wire",
        ours: &[],
        only: Some(&["flate2", "serde", "serde_json", "thiserror"]),
        never: &[],
    },
    Edges {
        name: "client",
        ours: &["wire"],
        only: None,
        never: &["hyper", "axum"],
    },
    // SQL lives here; it has never heard of methods, HTTP or chat services.
    Edges {
        name: "store",
        ours: &[],
        only: None,
        never: &["hyper", "axum", "reqwest"],
    },
    // No sessions, no SQL.
    Edges {
        name: "channels",
        ours: &[],
        only: None,
        never: &["rusqlite", "sqlx", "axum", "openssl", "native-tls"],
    },
    // Models alone: no sessions, no SQL, no methods.
    Edges {
        name: "agent",
        ours: &[],
        only: None,
        never: &["rusqlite", "sqlx", "axum", "openssl", "native-tls"],
    },
    // One MCP server, decision 0012: no sessions, no processes, no configuration.
    Edges {
        name: "mcp",
        ours: &[],
        only: None,
        never: &["rusqlite", "sqlx", "axum", "openssl", "native-tls"],
    },
    // Bytes in, bytes out: no runtime, no socket.
    Edges {
        name: "media",
        ours: &[],
        only: None,
        never: &["tokio", "hyper", "reqwest", "axum", "rusqlite"],
    },
    // The FFI boundary, decision 0010: it hands bytes to `media`; nothing of ours depends on it.
    Edges {
        name: "media-napi",
        ours: &["media"],
        only: Some(&["napi", "napi-build", "napi-derive", "parking_lot"]),
        never: &[],
    },
    // Its own SQL; no methods, no chat services. Decision 0011: it asks embedding services itself.
    Edges {
        name: "memory",
        ours: &[],
        only: None,
        never: &["hyper", "axum"],
    },
    // Decisions 0006 (own WebSocket codec) and 0008 (hyper alone, ring, no SQL yet).
    Edges {
        name: "gateway",
        ours: &[
            "wire", "client", "store", "channels", "agent", "mcp", "media", "memory",
        ],
        only: None,
        never: &[
            "axum",
            "tungstenite",
            "tokio-tungstenite",
            "sqlx",
            "rusqlite",
            "openssl",
            "native-tls",
        ],
    },
    // It measures the gateway from outside and shares no code with it.
    Edges {
        name: "bench",
        ours: &[],
        only: None,
        never: &[],
    },
    Edges {
        name: "xtask",
        ours: &[],
        only: Some(&[]),
        never: &[],
    },
];
