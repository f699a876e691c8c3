//! What runs this node's pods, as the Kubernetes API says: names of workloads, which no file of the
//! node tells for certain.
//!
//! A thread lists the node's pods and watches them; whoever names processes asks what it knows and
//! never waits. While the API is away the last known names stay.

mod client;
mod known;
mod pod;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cli::note;
use crate::privileges;
use known::Known;
use watch::Watcher;

pub use pod::Pod;

/// Where a pod's service account is, if it has one.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How the API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Holds `token` and `ca.crt`, both replaced from time to time.
    account: PathBuf,
    /// `HOST:PORT`
    authority: String,
}

impl Api {
    /// As a pod is told; `None` outside of clusters, and for a pod without a token.
    pub fn of_this_pod() -> Option<Api> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
        let account = Path::new(ACCOUNT);
        account
            .join("token")
            .exists()
            .then(|| Api::new(account, &host, &port))
    }

    fn new(account: &Path, host: &str, port: &str) -> Api {
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        Api {
            account: account.to_owned(),
            authority: format!("{host}:{port}"),
        }
    }
}

/// Pauses and patience; tests have no minute.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// After a failure; each pause is twice the one before.
    first_pause: Duration,
    longest_pause: Duration,
    /// For an answer to begin.
    answer: Duration,
    /// A watch is begun anew after this.
    watch: Duration,
}

impl Limits {
    const USUAL: Limits = Limits {
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(30),
        answer: Duration::from_secs(10),
        watch: Duration::from_secs(290),
    };
}

/// What is known of this node's pods. The default one knows none and asks nobody.
#[derive(Clone, Debug, Default)]
pub struct Pods(Option<Arc<Shared>>);

impl Pods {
    /// Starts to ask, where this is a pod with a service account. That nobody answers is no error.
    pub fn start(node: &str) -> io::Result<Pods> {
        let Some(api) = Api::of_this_pod() else {
            return Ok(Pods::default());
        };
        note!(
            "workloads are named by the Kubernetes API at {}",
            api.authority
        );
        Pods::ask(api, node, Limits::USUAL)
    }

    fn ask(api: Api, node: &str, limits: Limits) -> io::Result<Pods> {
        let shared = Arc::new(Shared::default());
        let watcher = Watcher::new(api, node, limits, &shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || {
                privileges::keep(&[]);
                runtime.block_on(watcher.run());
                // A name that is still looked up is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Pods(Some(shared)))
    }

    /// As if these had been told, by UID.
    #[cfg(test)]
    pub(crate) fn of(pods: &[(&str, Pod)]) -> Pods {
        let shared = Arc::new(Shared::default());
        for (uid, pod) in pods {
            shared.state().known.add((*uid).to_owned(), pod.clone());
        }
        Pods(Some(shared))
    }

    pub fn are_asked_for(&self) -> bool {
        self.0.is_some()
    }

    /// The pod with this UID, as its control group has it, else the last one of this name.
    pub fn find(&self, uid: Option<&str>, name: Option<(&str, &str)>) -> Option<Pod> {
        let state = self.0.as_ref()?.state();
        state.known.find(uid, name).cloned()
    }

    /// Another number whenever a pod came to be known.
    pub fn heard(&self) -> u64 {
        let heard = |shared: &Arc<Shared>| shared.state().known.heard();
        self.0.as_ref().map_or(0, heard)
    }

    /// Whether the API answers; `None`: it has not been asked, or has not answered yet.
    pub fn up(&self) -> Option<bool> {
        self.0.as_ref()?.state().up
    }

    /// What is to be said, since this was asked last.
    pub fn messages(&self) -> Vec<String> {
        let take = |shared: &Arc<Shared>| std::mem::take(&mut shared.state().messages);
        self.0.as_ref().map(take).unwrap_or_default()
    }
}

/// Between the thread and whoever asks; the thread ends when nobody asks any more.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Known,
    up: Option<bool>,
    messages: Vec<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // What is known is whole between statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) {
        let mut state = self.state();
        if state.up.replace(true) == Some(false) {
            state
                .messages
                .push("the Kubernetes API answers again".to_owned());
        }
    }

    /// Said once, however long it lasts.
    fn is_away(&self, why: &str) {
        let mut state = self.state();
        if state.up.replace(false) != Some(false) {
            state.messages.push(format!(
                "the Kubernetes API: {why}; workloads keep the names that are known, and it is asked again"
            ));
        }
    }
}
