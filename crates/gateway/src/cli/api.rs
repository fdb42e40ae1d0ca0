//! Commands about messages and channels: calls to the running gateway's HTTP API.

use std::error::Error as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use channels::web::{Http, HttpOptions};
use reqwest::Method;
use serde_json::{Value, json};

use super::target::{Target, environment};
use super::{To, print};

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// Channel id: telegram, matrix, webhook, webchat, …
    channel: String,
    /// Chat, person or room, as the channel names it.
    target: String,
    /// Markdown.
    content: String,
    #[arg(long)]
    account: Option<String>,
    /// A repeat with the same key is sent once.
    #[arg(long)]
    key: Option<String>,
    /// Let the agent work on the content and deliver its answer.
    #[arg(long)]
    turn: bool,
    /// Answer when it is on disk, without waiting for the outcome.
    #[arg(long)]
    no_wait: bool,
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    to: To,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum MessagesCommand {
    /// Outbound messages, newest first.
    List {
        #[arg(long)]
        channel: Option<String>,
        /// pending, leased, delivered, in_doubt or dead
        #[arg(long)]
        state: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: u16,
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Messages that were given up or are in doubt, both ways.
    Dead {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Send one of them again.
    Resend {
        id: String,
        #[command(flatten)]
        to: To,
    },
    /// Forget one of them; its history stays.
    Drop {
        id: String,
        #[command(flatten)]
        to: To,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum PairingCommand {
    /// Who asked to be let in, and who was.
    List {
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        to: To,
    },
    /// Let the person in who was told this code.
    Approve {
        channel: String,
        code: String,
        #[command(flatten)]
        to: To,
    },
}

/// No answer came from where the gateway would be.
#[derive(Debug, thiserror::Error)]
#[error("{base}: {why}; is the gateway running? start it with `openclaw-gateway run`")]
struct Unreached {
    base: String,
    why: String,
    /// Nobody listens there.
    is_refused: bool,
}

/// Whether this error says that no gateway runs; any other says that one did not do what it was asked.
pub(super) fn is_not_running(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Unreached>()
        .is_some_and(|unreached| unreached.is_refused)
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(next) = cause {
        if let Some(error) = next.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = next.source();
    }
    false
}

/// The running gateway's HTTP API.
struct Api {
    http: Http,
    base: String,
    token: Option<String>,
}

impl Api {
    fn new(profile: Option<&str>, to: &To) -> anyhow::Result<Self> {
        let target = Target::resolve(profile, to)?;
        let http = Http::new(&HttpOptions {
            timeout: to.timeout().max(Duration::from_secs(30)),
            tls: target.tls.clone(),
            ..HttpOptions::default()
        })?;
        let s = if target.tls.is_some() { "s" } else { "" };
        Ok(Self {
            http,
            base: format!("http{s}://{}", target.address),
            token: target.token.or(target.password),
        })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let answer = self.ask_bytes(method, path, body).await?;
        Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    async fn ask_bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Vec<u8>> {
        let mut request = self.http.request(method, &format!("{}{path}", self.base))?;
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| Unreached {
            base: self.base.clone(),
            why: channels::web::describe(&error),
            is_refused: is_refused(&error),
        })?;
        let status = response.status();
        let body = channels::web::body(response, 64 * 1024 * 1024).await?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let why = answer["error"]
            .as_str()
            .or_else(|| answer["error"]["message"].as_str())
            .unwrap_or("no reason given");
        let hint = match status.as_u16() {
            401 => {
                "; pass --token, or set gateway.auth.token in openclaw.json to the gateway's token"
            }
            _ => "",
        };
        anyhow::bail!("{why} (HTTP {status}){hint}")
    }
}

/// What the running gateway answers to a GET of this path.
pub(super) fn get(profile: Option<&str>, to: &To, path: &str) -> anyhow::Result<Value> {
    let api = Api::new(profile, to)?;
    blocking(async { api.ask(Method::GET, path, None).await })
}

/// The same, as text.
pub(super) fn get_text(profile: Option<&str>, to: &To, path: &str) -> anyhow::Result<String> {
    let api = Api::new(profile, to)?;
    let bytes = blocking(async { api.ask_bytes(Method::GET, path, None).await })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What it answers to a POST without a body.
pub(super) fn post(profile: Option<&str>, to: &To, path: &str) -> anyhow::Result<Value> {
    let api = Api::new(profile, to)?;
    blocking(async { api.ask(Method::POST, path, None).await })
}

/// Waits before the running gateway is asked again.
pub(super) fn pause(time: Duration) -> anyhow::Result<()> {
    blocking(async {
        tokio::time::sleep(time).await;
        Ok(())
    })
}

pub(super) fn blocking<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

pub(super) fn send(profile: Option<&str>, args: &SendArgs) -> anyhow::Result<ExitCode> {
    let api = Api::new(profile, &args.to)?;
    let mut body = json!({
        "channel": args.channel, "target": args.target, "content": args.content,
        "mode": if args.no_wait || args.turn { "async" } else { "wait" },
    });
    if args.turn {
        body["turn"] = true.into();
    }
    for (key, value) in [("account", &args.account), ("idempotencyKey", &args.key)] {
        if let Some(value) = value {
            body[key] = value.as_str().into();
        }
    }
    let sent = blocking(api.ask(Method::POST, "/api/message", Some(&body)))?;
    if args.json {
        print(&serde_json::to_string_pretty(&sent)?);
    } else {
        let error = sent["error"]
            .as_str()
            .map_or(String::new(), |error| format!(": {error}"));
        print(&format!(
            "{} {}{error}",
            text(&sent["message_id"]),
            text(&sent["status"])
        ));
    }
    let good = matches!(sent["status"].as_str(), Some("queued" | "delivered"));
    Ok(ExitCode::from(u8::from(!good)))
}

/// Asks the running gateway; without one, looks into its database.
pub(super) fn why(
    profile: Option<&str>,
    id: &str,
    json: bool,
    to: &To,
) -> anyhow::Result<ExitCode> {
    let api = Api::new(profile, to)?;
    let path = format!(
        "/api/why/{}",
        percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC)
    );
    let answer = match blocking(api.ask(Method::GET, &path, None)) {
        Ok(answer) => answer,
        Err(error) if error.to_string().contains("is the gateway running") => {
            let (_, paths) = environment(profile)?;
            let database = paths.own_dir.join("messages.db");
            if !database.exists() {
                return Err(error);
            }
            let timeline = store::look(&database, |reader| reader.history().why(id))?;
            anyhow::ensure!(
                !timeline.subjects.is_empty(),
                "nothing is known of {id:?} (looked into {}, the gateway is not running)",
                database.display()
            );
            serde_json::to_value(timeline)?
        }
        Err(error) => return Err(error),
    };
    if json {
        print(&serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let steps = answer["steps"].as_array().cloned().unwrap_or_default();
    let several = answer["subjects"]
        .as_array()
        .is_some_and(|subjects| subjects.len() > 1);
    let mut last = None;
    for step in &steps {
        let at = step["atMs"].as_i64().unwrap_or(0);
        let since = last.map_or(String::new(), |last| format!("+{} ms", at - last));
        last = Some(at);
        let subject = if several {
            format!("{}  ", text(&step["subject"]))
        } else {
            String::new()
        };
        print(&format!(
            "{}  {since:>12}  {subject}{:<10} {}",
            clock(at),
            text(&step["step"]),
            text(&step["detail"])
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn messages(
    profile: Option<&str>,
    command: &MessagesCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        MessagesCommand::List {
            channel,
            state,
            limit,
            json,
            to,
        } => {
            let mut query = format!("?limit={limit}");
            for (key, value) in [("channel", channel), ("state", state)] {
                if let Some(value) = value {
                    let value = percent_encoding::utf8_percent_encode(
                        value,
                        percent_encoding::NON_ALPHANUMERIC,
                    );
                    query.push_str(&format!("&{key}={value}"));
                }
            }
            let answer = blocking(Api::new(profile, to)?.ask(
                Method::GET,
                &format!("/api/messages{query}"),
                None,
            ))?;
            rows(&answer["messages"], *json, &answer)
        }
        MessagesCommand::Dead { json, to } => {
            let answer =
                blocking(Api::new(profile, to)?.ask(Method::GET, "/api/dead-letters", None))?;
            rows(&answer["outbound"], *json, &answer)?;
            if !json {
                for row in answer["inbound"].as_array().into_iter().flatten() {
                    print(&format!(
                        "{}  inbound    {}/{}  {}",
                        text(&row["id"]),
                        text(&row["channel"]),
                        text(&row["account"]),
                        text(&row["note"])
                    ));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        MessagesCommand::Resend { id, to } => {
            blocking(Api::new(profile, to)?.ask(
                Method::POST,
                &format!("/api/dead-letters/{id}/resend"),
                None,
            ))?;
            print("queued again");
            Ok(ExitCode::SUCCESS)
        }
        MessagesCommand::Drop { id, to } => {
            blocking(Api::new(profile, to)?.ask(
                Method::DELETE,
                &format!("/api/dead-letters/{id}"),
                None,
            ))?;
            print("dropped");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn rows(list: &Value, json: bool, whole: &Value) -> anyhow::Result<ExitCode> {
    if json {
        print(&serde_json::to_string_pretty(whole)?);
        return Ok(ExitCode::SUCCESS);
    }
    for row in list.as_array().into_iter().flatten() {
        let error = row["error"]
            .as_str()
            .map_or(String::new(), |error| format!("  {error}"));
        print(&format!(
            "{}  {:<10} {}  {}/{} {}{error}",
            text(&row["id"]),
            text(&row["state"]),
            clock(row["createdAt"].as_i64().unwrap_or(0)),
            text(&row["channel"]),
            text(&row["account"]),
            text(&row["target"]),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pairing(profile: Option<&str>, command: &PairingCommand) -> anyhow::Result<ExitCode> {
    match command {
        PairingCommand::List { json, to } => {
            let answer = blocking(Api::new(profile, to)?.ask(Method::GET, "/api/pairings", None))?;
            if *json {
                print(&serde_json::to_string_pretty(&answer)?);
                return Ok(ExitCode::SUCCESS);
            }
            for row in answer["pairings"].as_array().into_iter().flatten() {
                let state = if row["approved"] == true {
                    "approved".to_owned()
                } else {
                    format!("waits, code {}", text(&row["code"]))
                };
                print(&format!(
                    "{}/{}  {}  {}  {state}",
                    text(&row["channel"]),
                    text(&row["account"]),
                    text(&row["sender"]),
                    text(&row["name"])
                ));
            }
        }
        PairingCommand::Approve { channel, code, to } => {
            let body = json!({ "channel": channel, "code": code });
            let answer = blocking(Api::new(profile, to)?.ask(
                Method::POST,
                "/api/pairings/approve",
                Some(&body),
            ))?;
            print(&format!(
                "{} may write to {channel} from now on",
                text(&answer["pairing"]["sender"])
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `channels list`: what runs, and how.
pub(super) fn channel_list(profile: Option<&str>, json: bool, to: &To) -> anyhow::Result<ExitCode> {
    let api = Api::new(profile, to)?;
    let (channels, routes) = blocking(async {
        Ok((
            api.ask(Method::GET, "/api/channels", None).await?,
            api.ask(Method::GET, "/api/routes", None).await?,
        ))
    })
    .context("`channels test` and `channels add` work without a running gateway")?;
    if json {
        print(&serde_json::to_string_pretty(
            &json!({ "channels": channels["channels"], "routes": routes }),
        )?);
        return Ok(ExitCode::SUCCESS);
    }
    for (channel, accounts) in channels["channels"].as_object().into_iter().flatten() {
        for account in accounts.as_array().into_iter().flatten() {
            let state = match (account["connected"] == true, account["running"] == true) {
                (true, _) => "connected",
                (false, true) => "connecting",
                (false, false) => "stopped",
            };
            let error = account["lastError"]
                .as_str()
                .map_or(String::new(), |error| format!("  {error}"));
            print(&format!(
                "{channel}/{}  {state}{error}",
                text(&account["accountId"])
            ));
        }
    }
    print(&format!(
        "webchat/default  built in\neverything else  {}",
        text(&routes["everythingElse"])
    ));
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// UTC, to the millisecond.
pub(super) fn clock(at_ms: i64) -> String {
    let ms = u64::try_from(at_ms).unwrap_or(0);
    let time = std::time::UNIX_EPOCH + Duration::from_millis(ms);
    let date = httpdate::HttpDate::from(time).to_string();
    // `Sun, 06 Nov 1994 08:49:37 GMT`
    format!("{}.{:03}", date.get(5..25).unwrap_or(&date), ms % 1000)
}
