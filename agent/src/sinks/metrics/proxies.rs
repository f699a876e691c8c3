//! What is counted per proxy. Each has all of its series at 0 from the moment it is seen, so their
//! number is small, and one that does not run any more gives its place up to one that does.

use std::collections::BTreeMap;

use prometheus::proto::MetricFamily;

use super::families::{counters, gauges};
use super::series::{Counters, Scrape};
use super::{UNKNOWN, UNUSED, Who};
use crate::cause::Cause;
use crate::signal::Nanos;

/// Proxies with a place of their own. A node of a cluster may run one beside every application.
const MAX_IN_CLUSTER: usize = 8;

/// The same with those outside of a cluster, and with what stands for the rest of a name.
const MAX_PROXIES: usize = 12;

/// Statuses that exist at 0 for every proxy and cause: those a proxy makes on its own.
const STATUSES: &[&str] = &["500", "502", "503", "504", UNKNOWN];

/// Causes times statuses of one proxy; beyond it, statuses that no proxy usually makes.
const MAX_FAILED: usize = 375;

const PROXY: [&str; 3] = ["proxy", "proxy_namespace", "proxy_workload"];

/// Counters of one proxy.
#[derive(Clone, Debug)]
struct Proxy {
    last_used: Nanos,
    /// Its processes.
    watched: u64,
    /// By status, cause.
    failed: Counters<2>,
    /// By cause.
    contradicted: Counters<1>,
}

impl Proxy {
    fn new() -> Proxy {
        let mut proxy = Proxy {
            last_used: 0,
            watched: 0,
            failed: Counters::new(MAX_FAILED),
            contradicted: Counters::new(Cause::ALL.len()),
        };
        for cause in Cause::ALL {
            if *cause != Cause::DownstreamGaveUp {
                for status in STATUSES {
                    proxy.failed.touch([status, cause.name()]);
                }
                proxy.contradicted.touch([cause.name()]);
            }
        }
        proxy
    }
}

/// All proxies.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    by_who: BTreeMap<Who, Proxy>,
}

impl Proxies {
    /// As whom this proxy is counted; its series exist from now on.
    pub(super) fn place(&mut self, who: &Who, now: Nanos) -> Who {
        let places = [who.clone(), who.rest()];
        let choices = if who.is_in_cluster() {
            &places[..]
        } else {
            &places[..1]
        };
        let free = choices.iter().find(|who| self.has_place(who, now));
        let place = free.cloned().unwrap_or_else(Who::other);
        let proxy = self.by_who.entry(place.clone()).or_insert_with(Proxy::new);
        proxy.last_used = now;
        place
    }

    /// Whether there is a place for this one, if need be that of one that was not used for long.
    fn has_place(&mut self, who: &Who, now: Nanos) -> bool {
        if self.by_who.contains_key(who) {
            return true;
        }
        let own = |who: &Who| who.is_in_cluster() && *who != who.rest();
        let free = |proxies: &BTreeMap<Who, Proxy>| {
            let in_cluster = proxies.keys().filter(|who| own(who)).count();
            proxies.len() < MAX_PROXIES && (!own(who) || in_cluster < MAX_IN_CLUSTER)
        };
        if !free(&self.by_who) {
            self.by_who.retain(|_, proxy| {
                proxy.watched > 0 || now.saturating_sub(proxy.last_used) < UNUSED
            });
        }
        free(&self.by_who)
    }

    /// How many processes each has now; those not named have none.
    pub(super) fn watched(&mut self, processes: &BTreeMap<Who, u64>, now: Nanos) {
        for proxy in self.by_who.values_mut().filter(|proxy| proxy.watched > 0) {
            proxy.watched = 0;
            proxy.last_used = now;
        }
        for (who, count) in processes {
            let place = self.place(who, now);
            if let Some(proxy) = self.by_who.get_mut(&place) {
                proxy.watched += count;
            }
        }
    }

    pub(super) fn failed(&mut self, place: &Who, status: Option<u16>, cause: Cause) {
        let status = status.map_or(UNKNOWN.to_owned(), |status| status.to_string());
        if let Some(proxy) = self.by_who.get_mut(place) {
            proxy.failed.add([&status, cause.name()], 1);
        }
    }

    pub(super) fn contradicted(&mut self, place: &Who, cause: Cause) {
        if let Some(proxy) = self.by_who.get_mut(place) {
            proxy.contradicted.add([cause.name()], 1);
        }
    }

    pub(super) fn gather(&mut self, scrape: Scrape) -> [MetricFamily; 3] {
        let mut failed = Vec::new();
        let mut contradicted = Vec::new();
        let mut watched = Vec::new();
        for (who, proxy) in &mut self.by_who {
            let who = who.labels();
            let with = |more: &[String]| [&who, more].concat();
            let export = proxy.failed.export(scrape);
            failed.extend(export.map(|(labels, count)| (with(&labels), count)));
            let export = proxy.contradicted.export(scrape);
            contradicted.extend(export.map(|(labels, count)| (with(&labels), count)));
            watched.push((who, proxy.watched as f64));
        }
        [
            counters(
                "why502_failed_responses_total",
                "Responses that the proxy failed, by their cause",
                &[&PROXY[..], &["status", "cause"]].concat(),
                failed,
            ),
            counters(
                "why502_log_disagreements_total",
                "Verdicts whose cause the proxy's own log does not admit",
                &[&PROXY[..], &["cause"]].concat(),
                contradicted,
            ),
            gauges(
                "why502_proxies_watched",
                "Processes watched, by proxy",
                &PROXY,
                watched,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Party;

    fn sidecar(workload: usize) -> Who {
        let home = Party {
            namespace: Some("shop".to_owned()),
            workload: Some(format!("app-{workload}")),
            ..Party::default()
        };
        Who::proxy("envoy", &home)
    }

    #[test]
    fn proxies_beyond_the_cap_keep_their_name_and_lose_none_of_their_failures() {
        let mut proxies = Proxies::default();
        for workload in 0..100 {
            let place = proxies.place(&sidecar(workload), 0);
            proxies.failed(&place, Some(503), Cause::ConnectionRefused);
        }
        let nginx = Who::named("nginx");
        assert_eq!(proxies.place(&nginx, 0), nginx);
        for n in 0..100 {
            proxies.place(&Who::named(format!("proxy-{n}")), 0);
        }
        assert!(
            proxies.by_who.len() <= MAX_PROXIES + 1,
            "{:?}",
            proxies.by_who.keys()
        );
        assert_eq!(proxies.place(&sidecar(99), 0), sidecar(99).rest());
        let [failed, ..] = proxies.gather(Scrape::WHOLE);
        let of_envoy = failed.get_metric().iter().filter(|metric| {
            let label = |name: &str| metric.get_label().iter().find(|label| label.name() == name);
            label("proxy").is_some_and(|label| label.value() == "envoy")
        });
        let total: f64 = of_envoy
            .map(|metric| metric.get_counter().get_value())
            .sum();
        assert_eq!(total, 100.0);
    }

    #[test]
    fn only_one_that_runs_no_more_gives_its_place_up() {
        let mut proxies = Proxies::default();
        let watched = |workloads: std::ops::Range<usize>| {
            workloads.map(|workload| (sidecar(workload), 1)).collect()
        };
        proxies.watched(&watched(0..MAX_IN_CLUSTER), 0);
        let late = sidecar(50);
        assert_eq!(proxies.place(&late, UNUSED * 2), late.rest());
        proxies.watched(&watched(1..MAX_IN_CLUSTER), UNUSED * 2);
        assert_eq!(proxies.place(&late, UNUSED * 3 - 1), late.rest());
        assert_eq!(proxies.place(&late, UNUSED * 4), late);
        assert!(!proxies.by_who.contains_key(&sidecar(0)));
        assert!(proxies.by_who.contains_key(&sidecar(1)));
    }
}
