//! From the configuration to what is started: the package, its Node, and the child's own view of the user's file.

use std::path::PathBuf;
use std::sync::Arc;

use super::{ChildSpec, Plan, Times, find};
use crate::bridge::Secret;
use crate::config::{AuthMode, ConfigDocument, Env, Paths, Settings, UpstreamSettings, overlay};

/// Where a start reads from. Read anew each time, so that a change counts at the next start.
#[derive(Debug, Clone)]
pub struct Sources {
    pub env: Env,
    pub paths: Paths,
    pub upstream: UpstreamSettings,
    /// The token of a first start, for a child whose own configuration names none that we can use.
    pub token: Secret,
}

impl Sources {
    /// How to run the child.
    pub fn plan(self) -> Plan {
        let upstream = &self.upstream;
        Plan {
            state_dir: self.paths.own_dir.clone(),
            port: upstream.port,
            times: Times {
                start: upstream.start_timeout,
                stop: upstream.stop_timeout,
                ..Times::default()
            },
            idle_stop: upstream.on_demand.then_some(upstream.idle_stop),
            memory_max: upstream.memory_max,
            prepare: Arc::new(move |port| {
                let sources = self.clone();
                Box::pin(async move { sources.child(port).await })
            }),
        }
    }

    /// # Errors
    /// What is missing or wrong, and what to do about it.
    async fn child(&self, port: u16) -> Result<ChildSpec, String> {
        let places = find::Places::from_env(&self.env);
        let package =
            find::package(&places, &self.upstream.command).map_err(|error| error.to_string())?;
        let node = find::node(
            &places,
            &package,
            &self.upstream.command,
            self.upstream.node.as_deref(),
        )
        .await
        .map_err(|error| error.to_string())?;
        let child = self.configured(port).map_err(|error| error.to_string())?;
        let mut args = vec![package.entry().into_os_string()];
        args.extend(child.args.into_iter().map(Into::into));
        Ok(ChildSpec {
            program: node.program,
            args,
            env: child
                .env
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
            env_remove: child.env_remove.into_iter().map(Into::into).collect(),
            cwd: working_directory(&self.paths),
            port,
            token: Secret::new(child.secret.as_ref().map_or("", |secret| secret.expose())),
        })
    }

    fn configured(&self, port: u16) -> Result<overlay::Child, crate::config::ConfigError> {
        let document = ConfigDocument::load(&self.paths, &self.env)?;
        let mut settings = Settings::read(&document, &self.paths)?;
        let own = crate::config::Secret::new(self.token.expose());
        if settings.auth.mode == AuthMode::Token && settings.auth.token.is_none() {
            settings.auth.token = Some(own.clone());
        }
        let ours = {
            // As it is now: an account may have changed hands since the last start.
            let native = crate::config::OwnSettings::load(&self.paths.own_file)
                .map(|own| own.channels_native)
                .unwrap_or_default();
            let accounts = crate::messages::Accounts::read(&document.resolved, &native, false);
            overlay::Ours::of(&document.resolved, |channel, account| {
                accounts.get(channel, account).is_some()
            })
        };
        overlay::child(&document, &settings, &self.paths, port, &own, &ours)
    }
}

/// Where relative paths of the user's configuration start: where we were started, as without us.
fn working_directory(paths: &Paths) -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_gone| paths.home.clone())
}
