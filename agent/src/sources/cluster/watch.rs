//! The thread: lists the node's pods, follows what becomes of them, and begins anew when the API has
//! been away.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use hyper::StatusCode;
use kube::core::params::{ListParams, WatchParams};
use kube::core::watch::WatchEvent;
use kube::core::{ObjectList, PartialObjectMeta, Request};
use tokio::time::{sleep, timeout};

use super::client::{Client, Gone};
use super::pod::Pod;
use super::{Api, Limits, Shared};

const PODS: &str = "/api/v1/pods";

type Meta = PartialObjectMeta;

pub(super) struct Watcher {
    api: Api,
    limits: Limits,
    /// This node's alone.
    fields: String,
    shared: Arc<Shared>,
}

/// Why it has to be begun anew.
enum Over {
    /// What came since the list is not known there any more.
    Expired,
    Away(anyhow::Error),
}

impl From<anyhow::Error> for Over {
    fn from(error: anyhow::Error) -> Over {
        match error.is::<Gone>() {
            true => Over::Expired,
            false => Over::Away(error),
        }
    }
}

impl Watcher {
    pub(super) fn new(api: Api, node: &str, limits: Limits, shared: &Arc<Shared>) -> Watcher {
        Watcher {
            api,
            limits,
            fields: format!("spec.nodeName={node}"),
            shared: Arc::clone(shared),
        }
    }

    /// Until nobody asks any more.
    pub(super) async fn run(&self) {
        let mut pause = self.limits.first_pause;
        while Arc::strong_count(&self.shared) > 1 {
            let began = Instant::now();
            let Err(over) = self.follow().await;
            if began.elapsed() > self.limits.longest_pause {
                pause = self.limits.first_pause;
            }
            if let Over::Away(error) = over {
                self.shared.is_away(&format!("{error:#}"));
            }
            // At least half of it, so that a cluster's nodes do not come back all at once.
            let random = RandomState::new().hash_one(()) % 1_000;
            sleep(pause / 2 + pause * random as u32 / 2_000).await;
            pause = (2 * pause).min(self.limits.longest_pause);
        }
    }

    async fn follow(&self) -> Result<Infallible, Over> {
        let client = Client::new(&self.api, self.limits.answer)?;
        let mut version = self.list(&client).await?;
        loop {
            // One that ends at once is not asked for again at once.
            let (next, ()) =
                tokio::join!(self.watch(&client, version), sleep(self.limits.first_pause));
            version = next?;
        }
    }

    /// Gives the version from which to watch.
    async fn list(&self, client: &Client) -> Result<String> {
        // What the API's servers have in memory is as good, and costs them little.
        let parameters = ListParams::default().fields(&self.fields).match_any();
        let request = Request::new(PODS).list_metadata(&parameters)?;
        let list: ObjectList<Meta> = client.whole(request).await?;
        let pods = list.items.into_iter();
        let pods = pods.filter_map(|pod| Pod::of(pod.metadata)).collect();
        self.shared.state().known.replace(pods);
        Ok(list.metadata.resource_version.unwrap_or_default())
    }

    /// Until the API ends it, which it does from time to time; gives the version to go on from.
    async fn watch(&self, client: &Client, mut version: String) -> Result<String, Over> {
        let seconds = self.limits.watch.as_secs();
        let parameters = WatchParams::default()
            .fields(&self.fields)
            .timeout(u32::try_from(seconds).unwrap_or(u32::MAX));
        let request = Request::new(PODS).watch_metadata(&parameters, &version);
        let mut lines = client.lines(request.map_err(anyhow::Error::from)?).await?;
        self.shared.answers();
        let events = async {
            while let Some(line) = lines.next().await? {
                let event: WatchEvent<Meta> =
                    serde_json::from_slice(&line).map_err(anyhow::Error::from)?;
                if let Some(next) = self.take(event)? {
                    version = next;
                }
            }
            Ok(version)
        };
        match timeout(self.limits.watch + self.limits.answer, events).await {
            Ok(ended) => ended,
            Err(_) => Err(anyhow::anyhow!("it fell silent").into()),
        }
    }

    /// Gives the version that it tells.
    fn take(&self, event: WatchEvent<Meta>) -> Result<Option<String>, Over> {
        let known = |pod: Meta| (pod.metadata.resource_version.clone(), Pod::of(pod.metadata));
        Ok(match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                let (version, pod) = known(pod);
                if let Some((uid, pod)) = pod {
                    self.shared.state().known.add(uid, pod);
                }
                version
            }
            WatchEvent::Deleted(pod) => {
                let (version, pod) = known(pod);
                if let Some((uid, _)) = pod {
                    self.shared.state().known.remove(&uid);
                }
                version
            }
            WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) if status.code == StatusCode::GONE.as_u16() => {
                return Err(Over::Expired);
            }
            WatchEvent::Error(status) => {
                return Err(anyhow::anyhow!("it ended the watch: {status}").into());
            }
        })
    }
}
