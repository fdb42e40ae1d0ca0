//! Numeric limits of the protocol: value, unit and source.

use std::time::Duration;

/// Largest message before authentication, bytes.
/// Source: `MAX_PREAUTH_PAYLOAD_BYTES` in src/gateway/server-constants.ts at 2026.9.6.
pub const PREAUTH_PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Largest message after authentication, bytes; published as `policy.maxPayload`.
/// Source: `MAX_PAYLOAD_BYTES`, same file.
pub const PAYLOAD_BYTES_MAX: usize = 25 * 1024 * 1024;

/// Bytes that may wait for one client; published as `policy.maxBufferedBytes`.
/// Source: `MAX_BUFFERED_BYTES`, same file.
pub const BUFFERED_BYTES_MAX: usize = 50 * 1024 * 1024;

/// Frames that may wait while a handshake is being decided.
/// Source: src/gateway/server/ws-connection/message-handler.ts at 2026.9.6.
pub const HANDSHAKE_FRAMES_MAX: usize = 15;

/// Unauthenticated sockets per client address.
/// Source: src/gateway/server/preauth-connection-budget.ts at 2026.9.6.
pub const PREAUTH_CONNECTIONS_PER_IP_MAX: usize = 32;

/// Time for a client to complete the handshake.
/// Source: src/gateway/server/ws-connection/timeouts.ts at 2026.9.6.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// Interval of the `tick` event; published as `policy.tickIntervalMs`.
pub const TICK_INTERVAL: Duration = Duration::from_secs(30);

/// Interval of WebSocket pings, and the time a pong may take.
/// Source: src/gateway/server/websocket-keepalive.ts at 2026.9.6.
pub const PING_INTERVAL: Duration = Duration::from_secs(25);

/// Time a peer has to answer our close frame before the socket is dropped.
/// Source: `WEBSOCKET_CLOSE_GRACE_MS` at 2026.9.6.
pub const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Requests that may wait for their answer, over all clients.
/// Source: src/gateway/server/ws-connection/request-start.ts at 2026.9.6.
pub const REQUESTS_WAITING_MAX: usize = 256;

/// Calls with an unauthorised role in a row before the socket is closed with 1008.
/// Source: src/gateway/server/ws-connection/unauthorized-flood-guard.ts at 2026.9.6.
pub const UNAUTHORIZED_CALLS_MAX: u32 = 10;

/// Longest close reason, bytes (RFC 6455: 125 less the two of the code).
pub const CLOSE_REASON_BYTES_MAX: usize = 123;
