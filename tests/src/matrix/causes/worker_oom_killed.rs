//! The worker that has read a request takes more memory than its control group has, and the kernel kills it.

use std::time::Duration;

use super::{By, Cause};
use crate::cgroup::Cgroup;
use crate::expect::Expect;
use crate::matrix::stage::ANY;
use crate::matrix::upstreams::{Act, Manner};
use crate::process;

/// What is taken after the workers' start counts, and all of those that are started in others' place.
const MEMORY: u64 = 160 << 20;

pub(super) const CAUSE: Cause = Cause {
    name: "worker_oom_killed",
    by: By::Upstreams(&[Act::Hunger]),
    unix: false,
    spares: &[],
    inject: |stage| {
        let alone = stage.upstream.and_then(|it| (it.ask)(Act::Alone));
        // The one that has taken most goes first; beside it others would go with their worker.
        stage.draw.crowd = alone.map_or(1, |_| stage.draw.crowd.min(3));
        stage.apart(Duration::ZERO)?;
        let manner = Manner {
            workers: 3,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        let group = Cgroup::with_memory_limit(MEMORY)?;
        group.add(server.pid)?;
        for worker in process::children(server.pid) {
            group.add(worker)?;
        }
        // A worker that dies takes a while to be replaced.
        stage.front_for(&to, Duration::from_secs(20))?;
        stage.introduce()?;
        let wanted = std::mem::replace(&mut stage.wanted, stage.draw.crowd);
        let mut failed = 0;
        while failed < wanted {
            let sent = stage.fail_as_it_is(&stage.ask(Act::Hunger))?;
            if process::children(server.pid).is_empty() {
                // The kernel has taken the supervisor as well: whom these met is not known.
                let apart = Expect::apart(stage.cause.name, ANY);
                for one in &sent {
                    stage.run.ledger.expect(&one.path, apart.clone());
                }
                break;
            }
            match sent.iter().filter(|one| one.failed()).count() {
                0 => break,
                more => failed += more,
            }
        }
        stage.wanted = wanted;
        stage.run.hold((server.running, group));
        Ok(())
    },
};
