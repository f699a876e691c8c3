//! The scenarios, one file per row of the table they come from (row 3 is row 2 with another method).

mod deaths;
mod front;
mod pool;
mod r01_accept_queue;
mod r02_keepalive_race;
mod r04_death_on_reused;
mod r05_unix_keepalive;
mod r06_no_reply;
mod r07_never_read;
mod r08_worker_timeout;
mod r09_health_check;
mod r10_shutdown;
mod r11_connect_errors;
mod r12_uwsgi;
mod r13_status;
mod r14_connect_timeout;
mod r15_tier_in_front;
mod r16_all_at_once;
mod r17_tls_http2;
mod r18_health;
mod r19_bad_days;
mod r20_live_packets;
mod r21_logs;
mod r22_haproxy;
mod r23_containers;
mod r24_readme;
mod r25_other_tools;
mod r26_system_calls;
mod r27_probe_costs;
mod r28_cluster;
mod r29_one_shot;
mod r30_far_upstream;
mod r31_tls_status;
mod r32_interrupted;
mod r33_tls_upstream;
mod r34_chain;
mod r35_detours;

use crate::run::{Need, Scenario};
pub use r32_interrupted::{Held, hold};

/// What every scenario needs.
const NGINX: Need = Need::Program("nginx");
const GUNICORN: Need = Need::Program("gunicorn");

/// All scenarios in order.
pub fn all() -> Vec<Scenario> {
    [
        r01_accept_queue::scenarios(),
        r02_keepalive_race::scenarios(),
        r04_death_on_reused::scenarios(),
        r05_unix_keepalive::scenarios(),
        r06_no_reply::scenarios(),
        r07_never_read::scenarios(),
        r08_worker_timeout::scenarios(),
        r09_health_check::scenarios(),
        r10_shutdown::scenarios(),
        r11_connect_errors::scenarios(),
        r12_uwsgi::scenarios(),
        r13_status::scenarios(),
        r14_connect_timeout::scenarios(),
        r15_tier_in_front::scenarios(),
        r16_all_at_once::scenarios(),
        r17_tls_http2::scenarios(),
        r18_health::scenarios(),
        r19_bad_days::scenarios(),
        r20_live_packets::scenarios(),
        r21_logs::scenarios(),
        r22_haproxy::scenarios(),
        r23_containers::scenarios(),
        r24_readme::scenarios(),
        r25_other_tools::scenarios(),
        r26_system_calls::scenarios(),
        r27_probe_costs::scenarios(),
        r28_cluster::scenarios(),
        r29_one_shot::scenarios(),
        r30_far_upstream::scenarios(),
        r31_tls_status::scenarios(),
        r32_interrupted::scenarios(),
        r33_tls_upstream::scenarios(),
        r34_chain::scenarios(),
        r35_detours::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
