//! The least an axum server can do: answers `/healthz` with the gateway's body. The peer that `GET /healthz` is held to.

use std::io::Write;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::routing::get;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args()
        .nth(1)
        .context("usage: bare-axum HOST:PORT")?;
    let headers = [
        (CONTENT_TYPE, "application/json; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
    ];
    let healthz = move || async move { (headers, r#"{"ok":true,"status":"live"}"#) };
    let listener = tokio::net::TcpListener::bind(&address).await?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    axum::serve(listener, Router::new().route("/healthz", get(healthz))).await?;
    Ok(())
}
