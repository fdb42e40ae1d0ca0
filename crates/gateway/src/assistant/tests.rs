//! An assistant in an application of its own, for unit tests, and how it takes runs.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use store::Options;
use tokio::sync::watch;

use super::*;
use crate::app::Runtime;
use crate::auth::{Auth, AuthSettings};
use crate::bridge::UpstreamState;
use crate::config::{ConfigDocument, Env, Paths, Settings};
use crate::control_ui::{ControlUi, Root};

pub(super) const KEY: &str = "agent:main:main";

/// Its provider takes calls and never answers.
pub(super) struct World {
    pub(super) app: Arc<App>,
    pub(super) assistant: Arc<Assistant>,
    provider: TcpListener,
    _dir: tempfile::TempDir,
}

impl World {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let provider = TcpListener::bind("127.0.0.1:0").expect("a port");
        provider.set_nonblocking(true).expect("set");
        let address = provider.local_addr().expect("an address");
        let config = json!({
            "models": { "providers": { "p": { "baseUrl": format!("http://{address}/v1"), "models": [{ "id": "m" }] } } },
            "agents": { "defaults": { "model": { "primary": "p/m" }, "workspace": dir.path() } },
        });
        let env = Env::from_pairs([("HOME", dir.path().display().to_string())]);
        let paths = Paths::resolve(&env).expect("paths");
        let document = ConfigDocument::with_text(&paths, &env, "{}".to_owned());
        let settings = Settings::read(&document, &paths).expect("settings");
        let now = clock::now_ms();
        let (auth, _) = Auth::open(dir.path(), AuthSettings::default(), now).expect("opens");
        let ui = ControlUi::new(settings.control_ui, Root::Missing(String::new()), false);
        let (_, upstream) = watch::channel(UpstreamState::Off);
        let app = App::new(Runtime::default(), auth, ui, upstream, Arc::default());
        app.set_facts(crate::native::Facts {
            config,
            ..crate::native::Facts::default()
        });
        let store = Store::open(&dir.path().join("messages.db"), Options::default());
        Self {
            app,
            assistant: Arc::new(Assistant::new(store.expect("a store"))),
            provider,
            _dir: dir,
        }
    }

    pub(super) fn was_asked(&self) -> bool {
        self.provider.accept().is_ok()
    }

    /// A turn that its provider lets wait.
    pub(super) async fn busy(&self, run_id: &str) -> Arc<Live> {
        let live = self.begun(input(run_id, "work")).await;
        in_time(async {
            while !self.was_asked() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        live
    }

    pub(super) async fn begun(&self, input: Input) -> Arc<Live> {
        match self.assistant.accept(&self.app, input).await {
            Ok(Accepted::Started(live)) => live,
            Ok(_) => panic!("it is known"),
            Err(error) => panic!("{}", error.message),
        }
    }

    pub(super) async fn state(&self, run_id: &str) -> RunState {
        let run_id = run_id.to_owned();
        let run = self
            .assistant
            .store
            .read(move |reader| reader.agents().run(&run_id));
        run.await.expect("read").expect("a run").state
    }
}

pub(super) fn input(run_id: &str, message: &str) -> Input {
    Input {
        run_id: run_id.to_owned(),
        session_key: KEY.to_owned(),
        agent: "main".to_owned(),
        message: message.to_owned(),
        images: Vec::new(),
        extra_system: None,
        is_chat: true,
        queue: true,
        client: Some(("cli".to_owned(), "cli".to_owned())),
        model: None,
        sampling: Sampling::default(),
        caller_tools: Vec::new(),
    }
}

/// What never comes is a failure, not a hang.
pub(super) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, work)
        .await
        .expect("it comes")
}

/// Does a thing until a run has entered, and drops it then.
pub(super) async fn until_entered(
    world: &World,
    run_id: &str,
    work: impl Future<Output = ()>,
) -> Arc<Live> {
    let entered = async {
        loop {
            if let Some(live) = world.assistant.live(run_id) {
                return live;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        live = in_time(entered) => live,
        () = work => panic!("it was done before it could be dropped"),
    }
}

#[tokio::test]
async fn a_run_begins_although_who_asked_for_it_is_gone() {
    let world = World::start();
    let accepting = async {
        world.begun(input("r", "hello")).await;
    };
    let live = until_entered(&world, "r", accepting).await;
    in_time(async {
        while !world.was_asked() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    live.abort();
    assert_eq!(in_time(live.ended()).await.state, RunState::Aborted);
    assert!(world.assistant.live("r").is_none());
    assert_eq!(world.state("r").await, RunState::Aborted);
}

#[tokio::test]
async fn nothing_begins_after_a_stop_and_what_waits_is_told() {
    let world = World::start();
    let busy = world.busy("busy").await;
    let steered = world.begun(input("steered", "now")).await;
    let mut behind = input("behind", "later");
    behind.queue = false;
    let behind = world.begun(behind).await;
    world.app.stopping.send_replace(true);
    let late = world.begun(input("late", "hello")).await;
    for live in [busy, behind, steered, late] {
        let outcome = in_time(live.ended()).await;
        assert_eq!(outcome.error.as_deref(), Some("the gateway is stopping"));
        // The next start tells of it.
        assert_eq!(world.state(&live.run_id).await, RunState::Accepted);
    }
    assert!(!world.was_asked());
}

#[test]
fn what_is_settled_ends_before_the_blanks_that_are_cut() {
    let live = Live::new("r", KEY, true);
    live.text.lock().push_str("One. \n\n\n");
    live.settle();
    assert_eq!(live.unsettled(), "");
    *live.text.lock() = "One.\n\nTwo.".to_owned();
    assert_eq!(live.unsettled(), "Two.");
}
