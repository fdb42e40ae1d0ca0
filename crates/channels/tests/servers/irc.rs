//! IRC against ngircd, with a person's client beside it that speaks raw lines.

use crate::support::{Certificate, Process, Received, free_port, in_time, message, wait_for};
use channels::irc::{Irc, Timing};
use channels::{Channel, ChannelError, SendError, accounts};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const TIMING: Timing = Timing {
    ping_after: Duration::from_millis(700),
    answer_max: Duration::from_secs(8),
    rejoin_after: Duration::from_millis(100),
};

pub struct Ngircd {
    folder: TempDir,
    process: Process,
    pub plain: u16,
    tls: u16,
    certificate: Certificate,
}

impl Ngircd {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::write(folder.path());
        let (plain, tls) = (free_port(), free_port());
        let config = format!(
            "[Global]\nName = irc.example.net\nInfo = test\nListen = 127.0.0.1\nPorts = {plain}\n\
             MotdPhrase = hello\nServerUID = 0\nServerGID = 0\n\
             [Limits]\nMaxConnectionsIP = 0\nMaxJoins = 20\nMaxNickLength = 20\n\
             [Options]\nPAM = no\nIdent = no\nDNS = no\nCloakHost =\n\
             [Operator]\nName = oper\nPassword = oper\n\
             [SSL]\nCertFile = {}\nKeyFile = {}\nPorts = {tls}\n",
            certificate.cert.display(),
            certificate.key.display()
        );
        std::fs::write(folder.path().join("ngircd.conf"), config).unwrap();
        let process = Self::process(&folder, plain).await;
        Self {
            folder,
            process,
            plain,
            tls,
            certificate,
        }
    }

    async fn process(folder: &TempDir, port: u16) -> Process {
        let mut command = Command::new("/usr/sbin/ngircd");
        command
            .arg("-n")
            .arg("-f")
            .arg(folder.path().join("ngircd.conf"));
        let mut process = Process::start(command, &folder.path().join("log"));
        process.listens(port).await;
        process
    }

    fn channel(&self, settings: Value) -> Arc<Irc> {
        let mut section = json!({ "host": "localhost", "port": self.tls, "nick": "bot",
            "channels": ["#room"] });
        for (key, value) in settings.as_object().unwrap() {
            section[key] = value.clone();
        }
        let account = accounts::of("irc", &section).remove(0);
        Arc::new(Irc::with(&account, self.certificate.trust(), TIMING).unwrap())
    }
}

/// What runs while the test looks at it.
pub struct Running {
    pub stop: CancellationToken,
    pub ended: JoinHandle<Result<(), ChannelError>>,
}

pub fn run(irc: &Arc<Irc>, received: &Arc<Received>) -> Running {
    let stop = CancellationToken::new();
    let (irc, sink, token) = (Arc::clone(irc), received.sink("irc"), stop.clone());
    Running {
        stop,
        ended: tokio::spawn(async move { irc.receive(sink, token).await }),
    }
}

/// A person's client: raw lines over plain TCP.
pub struct Person {
    stream: BufReader<TcpStream>,
    pub seen: Vec<String>,
}

impl Person {
    pub async fn join(port: u16, nick: &str, channel: &str) -> Self {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut person = Self {
            stream: BufReader::new(tcp),
            seen: Vec::new(),
        };
        person.say(&format!("NICK {nick}")).await;
        person.say(&format!("USER {nick} 0 * :{nick}")).await;
        person.until(" 376 ").await;
        person.say(&format!("JOIN {channel}")).await;
        person.until(" 366 ").await;
        person
    }

    pub async fn say(&mut self, line: &str) {
        let raw = format!("{line}\r\n");
        self.stream
            .get_mut()
            .write_all(raw.as_bytes())
            .await
            .unwrap();
    }

    async fn line(&mut self) -> String {
        let mut raw = Vec::new();
        in_time("a line", self.stream.read_until(b'\n', &mut raw))
            .await
            .unwrap();
        assert!(raw.len() <= 512, "{} bytes", raw.len());
        let line = String::from_utf8(raw).expect("UTF-8").trim_end().to_owned();
        assert!(!line.is_empty(), "closed after {:?}", self.seen);
        if let Some(token) = line.strip_prefix("PING ") {
            self.say(&format!("PONG {token}")).await;
        }
        self.seen.push(line.clone());
        line
    }

    pub async fn until(&mut self, part: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Until the bot is in the channel.
    pub async fn meet(&mut self, nick: &str, channel: &str) {
        loop {
            self.say(&format!("NAMES {channel}")).await;
            let names = self.until(" 353 ").await;
            let list = names.rsplit(':').next().unwrap();
            if list
                .split(' ')
                .any(|n| n.trim_start_matches(['@', '+']) == nick)
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_conversation_over_tls() {
    let server = Ngircd::start().await;
    let irc = server.channel(json!({}));
    let received = Arc::new(Received::default());
    let running = run(&irc, &received);
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    amy.meet("bot", "#room").await;

    amy.say("PRIVMSG #room :good \u{2}morning\u{2}, everybody")
        .await;
    let group = received
        .wait("group", |m| m.text == "good morning, everybody")
        .await;
    assert_eq!(group.chat.id, "#room");
    assert_eq!(group.chat.kind, channels::message::ChatKind::Group);
    assert!(!group.mentions_us);
    assert!(group.sender.id.starts_with("amy!") && group.sender.id.contains('@'));

    amy.say("PRIVMSG #room :Bot: are you there?").await;
    assert!(
        received
            .wait("mention", |m| m.text.starts_with("Bot:"))
            .await
            .mentions_us
    );
    amy.say("PRIVMSG bot :\u{1}ACTION waves\u{1}").await;
    let direct = received.wait("direct", |m| m.text == "* amy waves").await;
    assert_eq!(
        (direct.chat.id.as_str(), direct.chat.kind),
        ("amy", channels::message::ChatKind::Direct)
    );

    // Neither a notice nor a CTCP question is a message, and neither is answered.
    amy.say("NOTICE bot :automatic").await;
    amy.say("PRIVMSG bot :\u{1}VERSION\u{1}").await;
    amy.say("PRIVMSG bot :last").await;
    received.wait("last", |m| m.text == "last").await;
    assert_eq!(received.all().len(), 4);
    let spoken =
        |l: &String| l.starts_with(":bot!") && (l.contains(" PRIVMSG ") || l.contains(" NOTICE "));
    assert!(!amy.seen.iter().any(spoken));

    let receipt = irc
        .send(&message(
            "d1",
            "#room",
            "**yes**, [here](https://a.example)",
        ))
        .await
        .unwrap();
    assert!(!receipt.message_id.is_empty());
    let line = amy.until("PRIVMSG #room").await;
    assert!(line.ends_with(":yes, here (https://a.example)"), "{line}");
    irc.send(&message("d2", "amy", "for you")).await.unwrap();
    amy.until("PRIVMSG amy :for you").await;

    assert_eq!(irc.probe().await.unwrap().id, "bot");
    running.stop.cancel();
    in_time("stop", running.ended).await.unwrap().unwrap();
    amy.until("QUIT").await;
}

#[tokio::test]
async fn what_the_server_refuses_is_rejected_and_says_why() {
    let server = Ngircd::start().await;
    let irc = server.channel(json!({}));
    let early = irc.send(&message("d0", "#room", "x")).await;
    assert!(matches!(early, Err(SendError::Retry { .. })), "{early:?}");
    let received = Arc::new(Received::default());
    let _running = run(&irc, &received);
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    amy.meet("bot", "#room").await;
    for (target, part) in [
        ("nobody", "nobody"),
        ("#elsewhere", "#elsewhere"),
        ("a b", "neither"),
    ] {
        match irc.send(&message("d", target, "x")).await {
            Err(SendError::Rejected { reason }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    let injected = irc.send(&message("d", "#room\r\nQUIT", "x")).await;
    assert!(matches!(injected, Err(SendError::Rejected { .. })));
    irc.send(&message("d", "#room", "one\r\nQUIT :gone\r\ntwo"))
        .await
        .unwrap();
    assert!(
        amy.until("PRIVMSG #room :QUIT")
            .await
            .ends_with(":QUIT :gone")
    );
    amy.until("PRIVMSG #room :two").await;
}

#[tokio::test]
async fn a_long_text_arrives_whole_at_the_allowed_pace() {
    let server = Ngircd::start().await;
    let irc = server.channel(json!({ "textChunkLimit": 5000 }));
    let received = Arc::new(Received::default());
    let running = run(&irc, &received);
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    amy.meet("bot", "#room").await;
    let text = (0..150)
        .map(|n| format!("漢字{n}"))
        .collect::<Vec<_>>()
        .join(" ");
    let sent = tokio::spawn({
        let (irc, text) = (Arc::clone(&irc), text.clone());
        async move { irc.send(&message("long", "#room", &text)).await }
    });
    let mut got = Vec::new();
    while got.join(" ") != text {
        let line = amy.until("PRIVMSG #room :").await;
        got.push(line.split_once(" :").unwrap().1.to_owned());
        assert!(got.len() < 10, "{got:?}");
    }
    assert!(got.len() > 2);
    // The server drops who floods: still there is the proof.
    in_time("receipt", sent).await.unwrap().unwrap();
    assert!(!running.ended.is_finished());
}

#[tokio::test]
async fn a_kick_and_a_restart_of_the_server_end_in_the_channel_again() {
    let mut server = Ngircd::start().await;
    let irc = server.channel(json!({}));
    let received = Arc::new(Received::default());
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    let running = run(&irc, &received);
    amy.meet("bot", "#room").await;
    amy.say("KICK #room bot :out").await;
    amy.until("KICK #room bot").await;
    amy.meet("bot", "#room").await;

    server.process.stop();
    let ended = in_time("end", running.ended).await.unwrap();
    assert!(
        matches!(ended, Err(ChannelError::Disconnected { .. })),
        "{ended:?}"
    );
    let refused = irc
        .receive(received.sink("irc"), CancellationToken::new())
        .await;
    assert!(
        matches!(refused, Err(ChannelError::Disconnected { .. })),
        "{refused:?}"
    );

    server.process = Ngircd::process(&server.folder, server.plain).await;
    let _again = run(&irc, &received);
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    amy.meet("bot", "#room").await;
    amy.say("PRIVMSG #room :welcome back").await;
    received.wait("after", |m| m.text == "welcome back").await;
}

#[tokio::test]
async fn a_server_that_is_connected_but_deaf_is_noticed() {
    let server = Ngircd::start().await;
    let irc = server.channel(json!({}));
    let received = Arc::new(Received::default());
    let running = run(&irc, &received);
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    amy.meet("bot", "#room").await;
    server.process.signal("-STOP");
    let unknown = in_time("send", irc.send(&message("d", "#room", "x"))).await;
    assert!(
        matches!(unknown, Err(SendError::Unknown { .. })),
        "{unknown:?}"
    );
    let ended = in_time("end", running.ended).await.unwrap();
    assert!(
        matches!(ended, Err(ChannelError::Disconnected { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_taken_nick_becomes_another_and_mentions_follow() {
    let server = Ngircd::start().await;
    let mut bob = Person::join(server.plain, "bot", "#room").await;
    let irc = server.channel(json!({}));
    let received = Arc::new(Received::default());
    let _running = run(&irc, &received);
    bob.meet("bot_", "#room").await;
    bob.say("PRIVMSG #room :bot_, hello").await;
    assert!(
        received
            .wait("mention", |m| m.text == "bot_, hello")
            .await
            .mentions_us
    );
    assert_eq!(irc.probe().await.unwrap().id, "bot_");
}

#[tokio::test]
async fn what_the_sink_refuses_is_kept_for_the_next_start() {
    let server = Ngircd::start().await;
    let irc = server.channel(json!({}));
    let received = Arc::new(Received::default());
    let running = run(&irc, &received);
    let mut amy = Person::join(server.plain, "amy", "#room").await;
    amy.meet("bot", "#room").await;
    received.refuse(true);
    amy.say("PRIVMSG #room :kept").await;
    let ended = in_time("end", running.ended).await.unwrap();
    assert!(matches!(ended, Err(ChannelError::Sink(_))), "{ended:?}");
    received.refuse(false);
    let _again = run(&irc, &received);
    received.wait("kept", |m| m.text == "kept").await;
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = Ngircd::start().await;
    let section = json!({ "host": "localhost", "port": server.tls, "nick": "bot" });
    let irc = Irc::new(&accounts::of("irc", &section)[0]).unwrap();
    match irc.probe().await {
        Err(ChannelError::Disconnected { reason, .. }) => {
            assert!(reason.contains("TLS"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    wait_for("server still there", async || {
        TcpStream::connect(("127.0.0.1", server.plain)).await.ok()
    })
    .await;
}
