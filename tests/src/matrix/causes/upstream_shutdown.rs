//! gunicorn is told to quit, with requests in its workers.

use std::time::Duration;

use super::{By, Cause};
use crate::client;
use crate::matrix::upstreams::{Act, Manner};
use crate::process;
use crate::wait;

const LONG: Duration = Duration::from_secs(30);

pub(super) const CAUSE: Cause = Cause {
    name: "upstream_shutdown",
    by: By::Upstreams(&[Act::Exit, Act::Sleep(LONG), Act::Quit]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.tries_connects_alone();
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: stage.wanted as u32,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front_for(&to, LONG)?;
        let query = stage.ask(Act::Sleep(LONG));
        let requests: Vec<_> = (0..stage.wanted).map(|_| stage.failing(&query)).collect();
        let paths: Vec<String> = requests.iter().map(|each| each.path.clone()).collect();
        let requests = requests.into_iter().map(|each| (Duration::ZERO, each));
        let requests = requests.collect();
        let (to, ledger) = (stage.to(), &stage.run.ledger);
        stage.near.traffic(async || {
            let quitting = async {
                wait::until_async("the reads", Duration::from_secs(10), || {
                    let reads = server.log.reads();
                    paths.iter().all(|path| reads.contains_key(path))
                })
                .await?;
                process::kill(server.pid, libc::SIGQUIT);
                anyhow::Ok(())
            };
            let (_, quit) = tokio::join!(client::burst(to, ledger, requests), quitting);
            quit
        })?;
        stage.run.hold(server.running);
        Ok(())
    },
};
