//! Another process kills the worker that has read a request.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{By, Cause};
use crate::client;
use crate::matrix::upstreams::{Act, Manner};
use crate::process;
use crate::wait;

const LONG: Duration = Duration::from_secs(30);

pub(super) const CAUSE: Cause = Cause {
    name: "worker_killed",
    by: By::Upstreams(&[Act::Exit, Act::Sleep(LONG)]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.apart(Duration::ZERO)?;
        let crowd = stage.draw.crowd.min(3);
        let manner = Manner {
            workers: 3,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front_for(&to, LONG)?;
        let query = stage.ask(Act::Sleep(LONG));
        let mut done = 0;
        while done < stage.wanted {
            let requests: Vec<_> = (0..crowd).map(|_| stage.failing(&query)).collect();
            let paths: Vec<String> = requests.iter().map(|each| each.path.clone()).collect();
            let requests = requests.into_iter().map(|each| (Duration::ZERO, each));
            let requests = requests.collect();
            let after = stage.draw.moment(Duration::from_millis(300));
            let (to, ledger, log) = (stage.to(), &stage.run.ledger, &server.log);
            stage.near.traffic(async || {
                let killing = async {
                    let mut reads = BTreeMap::new();
                    wait::until_async("the reads", Duration::from_secs(10), || {
                        reads = log.reads();
                        paths.iter().all(|path| reads.contains_key(path))
                    })
                    .await?;
                    tokio::time::sleep(after).await;
                    for path in &paths {
                        process::kill(reads[path].pid, libc::SIGKILL);
                    }
                    anyhow::Ok(())
                };
                let (_, killed) = tokio::join!(client::burst(to, ledger, requests), killing);
                killed
            })?;
            done += crowd;
        }
        stage.run.hold(server.running);
        Ok(())
    },
};
