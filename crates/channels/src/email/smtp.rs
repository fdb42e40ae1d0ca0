//! Out: one SMTP conversation for each mail, so that it is known at which step it failed.

use super::config::{Security, Server};
use super::net::{Protocol, connect};
use crate::SendError;
use lettre::address::Envelope;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error, response::Severity};
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Source: RFC 5321 section 4.5.3.2: 5 minutes for a command, 10 for the end of the data.
const LOGIN_MAX: Duration = Duration::from_secs(60);
const SEND_MAX: Duration = Duration::from_secs(300);

pub(super) async fn send(
    server: &Server,
    tls: &Arc<ClientConfig>,
    from: &str,
    to: &str,
    mail: &[u8],
) -> Result<(), SendError> {
    let rejected = |e: String| SendError::Rejected { reason: e };
    let address = |text: &str| {
        let parsed = text.parse::<lettre::Address>();
        parsed.map_err(|e| rejected(format!("{text:?} is not an address: {e}")))
    };
    let envelope = Envelope::new(Some(address(from)?), vec![address(to)?])
        .map_err(|e| rejected(e.to_string()))?;
    // Up to here and through the login nothing was sent.
    let mut connection = timeout(LOGIN_MAX, login(server, tls))
        .await
        .map_err(|_elapsed| retry("no login in time"))??;
    match timeout(SEND_MAX, connection.send(&envelope, mail)).await {
        Ok(Ok(_accepted)) => {
            // It is accepted: how the connection ends is of no consequence.
            let _ended = timeout(Duration::from_secs(5), connection.quit()).await;
            Ok(())
        }
        Ok(Err(error)) => Err(answered(&error).unwrap_or(SendError::Unknown {
            reason: format!("the connection failed while the mail was handed over: {error}"),
        })),
        Err(_elapsed) => Err(SendError::Unknown {
            reason: "no answer to the mail in time".into(),
        }),
    }
}

async fn login(server: &Server, tls: &Arc<ClientConfig>) -> Result<AsyncSmtpConnection, SendError> {
    let stream = connect(server, tls, Protocol::Smtp).await;
    let stream = stream.map_err(|e| retry(e.to_string()))?;
    let hello = ClientId::default();
    let connected = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello).await;
    let mut connection = connected.map_err(|e| answered(&e).unwrap_or_else(|| retry(e)))?;
    let credentials = Credentials::new(server.username.clone(), server.password.clone());
    let mechanisms: &[Mechanism] = match server.security {
        Security::Tls | Security::StartTls => &[Mechanism::Plain, Mechanism::Login],
        // A relay on this machine often wants none; a password never goes out in the clear.
        Security::Plain => return Ok(connection),
    };
    match connection.auth(mechanisms, &credentials).await {
        Ok(_) => Ok(connection),
        Err(error) if error.is_permanent() || error.is_client() => Err(SendError::Unauthorized {
            reason: format!("SMTP login: {error}"),
        }),
        Err(error) => Err(retry(error)),
    }
}

fn retry(reason: impl ToString) -> SendError {
    SendError::Retry {
        after: None,
        reason: reason.to_string(),
    }
}

/// What the server's own answer means; `None`: it did not answer.
fn answered(error: &Error) -> Option<SendError> {
    let reason = error.to_string();
    let code = error.status()?;
    Some(match (code.severity, u16::from(code)) {
        (_, 530 | 534 | 535 | 538) => SendError::Unauthorized { reason },
        (Severity::TransientNegativeCompletion, _) => retry(reason),
        _ => SendError::Rejected { reason },
    })
}
