//! Email against dovecot and postfix, with a person's mail program by Python's own libraries.

use crate::support::{Certificate, Process, Received, free_port, in_time, message, wait_for};
use channels::email::{Email, Timing};
use channels::message::{Attachment, ChatKind};
use channels::{Channel, ChannelError, Reconciled, SendError, accounts};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Dovecot and postfix for example.org, where bot and amy have a mailbox.
struct MailServer {
    folder: TempDir,
    dovecot: Process,
    _postfix: Process,
    certificate: Certificate,
    imaps: u16,
    imap: u16,
    smtps: u16,
    submission: u16,
}

const MASTER: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
";

fn run_ok(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output();
    let done = done.unwrap_or_else(|e| panic!("{program}: {e}: run `cargo xtask setup`"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{program} {args:?}: {said} (it needs root)"
    );
}

impl MailServer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        run_ok("chmod", &["755", &at("")]);
        for name in ["run", "state", "box", "queue", "data", "postfix"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        run_ok("chown", &["nobody", &at("box")]);
        run_ok("chown", &["postfix", &at("data")]);
        let certificate = Certificate::write(folder.path());
        let (imap, imaps, smtps, submission) = (free_port(), free_port(), free_port(), free_port());
        let root = folder.path().display();
        let dovecot = format!(
            "base_dir = {root}/run\nstate_dir = {root}/state\nlog_path = {root}/dovecot.log\n\
             protocols = imap\nlisten = 127.0.0.1\nssl = required\n\
             ssl_cert = <{root}/cert.pem\nssl_key = <{root}/key.pem\n\
             mail_location = maildir:~/Maildir\nmail_uid = nobody\nmail_gid = nogroup\n\
             first_valid_uid = 1\nauth_username_format = %Ln\n\
             passdb {{\n driver = static\n args = password=secret\n}}\n\
             userdb {{\n driver = static\n args = home={root}/box/%n\n}}\n\
             service imap-login {{\n inet_listener imap {{\n port = {imap}\n }}\n \
             inet_listener imaps {{\n port = {imaps}\n ssl = yes\n }}\n}}\n\
             service auth {{\n unix_listener smtp-auth {{\n mode = 0666\n }}\n}}\n"
        );
        std::fs::write(at("dovecot.conf"), dovecot).unwrap();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {root}/queue\ndata_directory = {root}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
             maillog_file = {root}/postfix.log\nmaillog_file_prefixes = {root}\n\
             mail_owner = postfix\nsetgid_group = postdrop\nmyhostname = mx.example.org\n\
             mydestination =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             virtual_mailbox_domains = example.org\nvirtual_mailbox_base = {root}/box\n\
             virtual_mailbox_maps = inline:{{ bot@example.org=bot/Maildir/, amy@example.org=amy/Maildir/ }}\n\
             virtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
             smtpd_tls_cert_file = {root}/cert.pem\nsmtpd_tls_key_file = {root}/key.pem\n\
             smtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes\n\
             smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\n\
             smtpd_sasl_path = {root}/run/smtp-auth\n\
             smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination\n\
             smtpd_recipient_restrictions = reject_unlisted_recipient\n\
             message_size_limit = 60000000\nmailbox_size_limit = 0\nvirtual_mailbox_limit = 0\n\
             alias_maps =\nalias_database =\n"
        );
        std::fs::write(at("postfix/main.cf"), main).unwrap();
        let listen = format!(
            "127.0.0.1:{smtps} inet n - n - - smtpd\n  -o smtpd_tls_wrappermode=yes\n\
             127.0.0.1:{submission} inet n - n - - smtpd\n{MASTER}"
        );
        std::fs::write(at("postfix/master.cf"), listen).unwrap();
        run_ok("/usr/sbin/postfix", &["-c", &at("postfix"), "check"]);
        let mut command = Command::new("/usr/sbin/postfix");
        command.args(["-c", &at("postfix"), "start-fg"]);
        let mut postfix = Process::start(command, &folder.path().join("postfix.out"));
        let mut dovecot = Self::dovecot(&folder);
        postfix.listens(smtps).await;
        dovecot.listens(imaps).await;
        Self {
            dovecot,
            _postfix: postfix,
            certificate,
            imaps,
            imap,
            smtps,
            submission,
            folder,
        }
    }

    fn dovecot(folder: &TempDir) -> Process {
        let mut command = Command::new("/usr/sbin/dovecot");
        command
            .arg("-F")
            .arg("-c")
            .arg(folder.path().join("dovecot.conf"));
        Process::start(command, &folder.path().join("dovecot.out"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn stop_dovecot(&mut self) {
        run_ok("doveadm", &["-c", &self.path("dovecot.conf"), "stop"]);
        self.dovecot.stop();
    }

    fn channel(&self, settings: Value) -> Arc<Email> {
        let mut section = json!({ "address": "bot@example.org", "name": "Claw", "password": "secret",
            "imap": { "host": "localhost", "port": self.imaps },
            "smtp": { "host": "localhost", "port": self.smtps },
            "authservId": "mx.example.org" });
        for (key, value) in settings.as_object().unwrap() {
            section[key] = value.clone();
        }
        let account = accounts::of("email", &section).remove(0);
        let timing = Timing {
            idle_max: Duration::from_secs(20),
            answer_max: Duration::from_secs(10),
            poll_every: Duration::from_millis(200),
        };
        Arc::new(Email::with(&account, self.certificate.trust(), timing).unwrap())
    }

    fn person(&self, ask: Value) -> Value {
        let mut ask = ask;
        ask["ca"] = self.certificate.cert.display().to_string().into();
        ask["who"] = "amy@example.org".into();
        (ask["smtp"], ask["imap"]) = (self.smtps.into(), self.imaps.into());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/person.py");
        let mut python = Command::new("/usr/bin/python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python
            .stdin
            .take()
            .unwrap()
            .write_all(ask.to_string().as_bytes())
            .unwrap();
        let done = python.wait_with_output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn send(&self, headers: Value, text: &str) {
        self.person(
            json!({ "do": "send", "to": "bot@example.org", "headers": headers, "text": text }),
        );
    }

    async fn amy_has(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, async || {
            let mails = self.person(json!({ "do": "read" }));
            mails.as_array().unwrap().iter().find(|m| is_it(m)).cloned()
        })
        .await
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        for (program, args) in [
            ("/usr/sbin/postfix", ["-c", &self.path("postfix"), "abort"]),
            ("doveadm", ["-c", &self.path("dovecot.conf"), "stop"]),
        ] {
            // Whatever is left goes with the process group.
            let _ended = Command::new(program).args(args).output();
        }
    }
}

struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ChannelError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        in_time("stop", self.ended).await.unwrap().unwrap();
    }
}

async fn run(email: &Arc<Email>, received: &Arc<Received>) -> Running {
    let stop = CancellationToken::new();
    let (email, sink, token) = (Arc::clone(email), received.sink("email"), stop.clone());
    let ended = tokio::spawn(async move { email.receive(sink, token).await });
    wait_for("the mailbox", async || received.cursor_of("INBOX")).await;
    Running { stop, ended }
}

const VOUCHED: &str = "mx.example.org; dmarc=pass header.from=example.org";

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_with_threads_and_files() {
    let server = MailServer::start().await;
    server.send(json!({ "Subject": "old" }), "from before");
    let email = server.channel(json!({}));
    wait_for("the old mail", async || {
        let folder = server.folder.path().join("box/bot/Maildir/new");
        std::fs::read_dir(folder).ok()?.next().map(|_| ())
    })
    .await;
    let received = Arc::new(Received::default());
    let running = run(&email, &received).await;

    let headers = json!({ "Subject": "Prüfung der Pläne", "Message-ID": "<first@example.org>",
        "Authentication-Results": VOUCHED });
    server.person(
        json!({ "do": "send", "to": "bot@example.org", "headers": headers,
        "text": "Please look.\n", "html": "<p>Please <b>look</b>.</p>",
        "files": [{ "name": "../../plan.bin", "hex": "00ff10" }] }),
    );
    let first = received
        .wait("mail", |m| m.event_id == "first@example.org")
        .await;
    assert_eq!(first.text, "Prüfung der Pläne\n\nPlease look.");
    assert_eq!(
        (first.chat.kind, first.chat.id.as_str()),
        (ChatKind::Direct, "amy@example.org")
    );
    assert_eq!(
        (first.sender.id.as_str(), first.chat.thread.as_deref()),
        ("amy@example.org", Some("first@example.org"))
    );
    assert_eq!(received.all().len(), 1, "what lay there is not answered");
    let file = &first.attachments[0];
    assert_eq!(file.name.as_deref(), Some("plan.bin"));
    assert_eq!(
        &email.fetch(&file.source, 100).await.unwrap()[..],
        b"\x00\xff\x10"
    );
    assert!(matches!(
        email.fetch(&file.source, 2).await,
        Err(SendError::Rejected { .. })
    ));

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.bin"), b"\x01\x02").unwrap();
    let mut answer = message("delivery/1", "amy@example.org", "**Looks** fine:\n\n- one");
    answer.reply_to = Some("first@example.org".into());
    answer.thread = first.chat.thread.clone();
    answer.attachments.push(Attachment {
        source: folder.path().join("a.bin").display().to_string(),
        name: Some("größe.bin".into()),
        mime: None,
        bytes: None,
        voice: false,
        as_file: false,
    });
    assert_eq!(
        email.reconcile(&answer).await.unwrap(),
        Reconciled::CannotTell
    );
    let receipt = email.send(&answer).await.unwrap();
    assert_eq!(
        email.reconcile(&answer).await.unwrap(),
        Reconciled::Arrived(receipt.clone())
    );
    let mail = server
        .amy_has("answer", |m| {
            m["headers"]["subject"] == "Re: Prüfung der Pläne"
        })
        .await;
    let headers = &mail["headers"];
    assert_eq!(headers["message-id"], format!("<{}>", receipt.message_id));
    assert_eq!(headers["in-reply-to"], "<first@example.org>");
    assert_eq!(headers["references"], "<first@example.org>");
    assert_eq!(
        (headers["from"].as_str(), headers["auto-submitted"].as_str()),
        (Some("Claw <bot@example.org>"), Some("auto-replied"))
    );
    assert!(
        mail["text"].as_str().unwrap().contains("Looks fine"),
        "{mail}"
    );
    assert!(
        mail["html"].as_str().unwrap().contains("<b>Looks</b>")
            || mail["html"].as_str().unwrap().contains("<strong>Looks"),
        "{mail}"
    );
    assert_eq!(
        mail["files"],
        json!([{ "name": "größe.bin", "hex": "0102" }])
    );

    let headers = json!({ "Subject": "Re: Prüfung der Pläne", "In-Reply-To": format!("<{}>", receipt.message_id),
        "References": format!("<first@example.org> <{}>", receipt.message_id) });
    server.send(
        headers,
        "Thanks!\n\nOn 1 Jan 2026, Claw wrote:\n> Looks fine\n",
    );
    let back = received.wait("reply", |m| m.text == "Thanks!").await;
    assert_eq!(
        (back.chat.thread, back.reply_to),
        (first.chat.thread, Some(receipt.message_id))
    );
    // Nobody vouched for this one.
    assert_eq!(back.sender.id, "unverified:amy@example.org");

    // A new process knows no subjects: it looks them up.
    let other = server.channel(json!({}));
    let mut late = message("delivery/2", "amy@example.org", "later");
    late.reply_to = Some("first@example.org".into());
    other.send(&late).await.unwrap();
    server
        .amy_has("late", |m| {
            m["text"].as_str().is_some_and(|t| t.trim() == "later")
                && m["headers"]["subject"] == "Re: Prüfung der Pläne"
        })
        .await;
    let nobody = email.send(&message("d", "nobody@example.org", "x")).await;
    assert!(
        matches!(nobody, Err(SendError::Rejected { .. })),
        "{nobody:?}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_over_restarts_and_machines_are_not_answered() {
    let mut server = MailServer::start().await;
    let starttls = json!({ "imap": { "host": "localhost", "port": server.imap, "security": "starttls" },
        "smtp": { "host": "localhost", "port": server.submission, "security": "starttls" },
        "verifySender": "off" });
    let email = server.channel(starttls.clone());
    let received = Arc::new(Received::default());
    let running = run(&email, &received).await;
    assert_eq!(email.probe().await.unwrap().id, "bot@example.org");

    server.send(
        json!({ "Subject": "away", "Auto-Submitted": "auto-replied" }),
        "I am away",
    );
    server.send(
        json!({ "Subject": "list", "List-Id": "<l.example.org>" }),
        "news",
    );
    server.send(
        json!({ "Subject": "loop", "X-Loop": "bot@example.org" }),
        "again",
    );
    server.send(json!({ "Message-ID": "<one@x>" }), "one");
    received.wait("one", |m| m.text == "one").await;
    assert_eq!(received.texts(), ["one"]);

    // Refused by the sink: read again at the next start.
    received.refuse(true);
    server.send(json!({ "Message-ID": "<two@x>" }), "two");
    let ended = in_time("end", running.ended).await.unwrap();
    assert!(matches!(ended, Err(ChannelError::Sink(_))), "{ended:?}");
    received.refuse(false);
    server.send(json!({ "Message-ID": "<three@x>" }), "three");
    let running = run(&email, &received).await;
    received.wait("three", |m| m.text == "three").await;
    assert_eq!(received.texts(), ["one", "two", "three"]);

    // The server goes away and comes back.
    server.stop_dovecot();
    let ended = in_time("end", running.ended).await.unwrap();
    assert!(
        matches!(ended, Err(ChannelError::Disconnected { .. })),
        "{ended:?}"
    );
    // The mailbox is numbered anew: dovecot forgets its numbers with this file.
    std::fs::remove_file(server.folder.path().join("box/bot/Maildir/dovecot-uidlist")).unwrap();
    let before = received.cursor_of("INBOX").unwrap();
    for entry in std::fs::read_dir(server.folder.path().join("box/bot/Maildir")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("dovecot")
        {
            std::fs::remove_file(path).unwrap();
        }
    }
    server.dovecot = MailServer::dovecot(&server.folder);
    let imaps = server.imaps;
    server.dovecot.listens(imaps).await;
    let running = run(&email, &received).await;
    server.send(json!({ "Message-ID": "<four@x>" }), "four");
    received.wait("four", |m| m.text == "four").await;
    assert_eq!(received.texts(), ["one", "two", "three", "four"]);
    let after = received.cursor_of("INBOX").unwrap();
    assert_ne!(
        before.split(':').next(),
        after.split(':').next(),
        "{before} {after}"
    );
    email
        .send(&message("d/3", "amy@example.org", "hello"))
        .await
        .unwrap();
    let mail = server
        .amy_has("hello", |m| {
            m["text"].as_str().is_some_and(|t| t.trim() == "hello")
        })
        .await;
    assert_eq!(mail["headers"]["auto-submitted"], "auto-generated");
    running.stop().await;

    let mut wrong = starttls;
    wrong["password"] = "wrong".into();
    let wrong = server.channel(wrong);
    let refused = wrong
        .receive(received.sink("email"), CancellationToken::new())
        .await;
    assert!(
        matches!(refused, Err(ChannelError::Unauthorized { .. })),
        "{refused:?}"
    );
    let refused = wrong.send(&message("d/4", "amy@example.org", "x")).await;
    assert!(
        matches!(refused, Err(SendError::Unauthorized { .. })),
        "{refused:?}"
    );
}
