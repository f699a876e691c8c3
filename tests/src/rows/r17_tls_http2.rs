//! Row 17: rows 1, 2, 6 and 8 with the client side in TLS and HTTP/2: the same causes, no status.

use super::front::Front;
use super::{
    GUNICORN, NGINX, r01_accept_queue, r02_keepalive_race, r06_no_reply, r08_worker_timeout,
};
use crate::client::Request;
use crate::run::{Need, Scenario};

const CURL: Need = Need::Http2Curl;
const OPENSSL: Need = Need::Program("openssl");

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 17,
            name: "tls-accept-queue",
            needs: &[NGINX, GUNICORN, CURL, OPENSSL],
            run: |run| r01_accept_queue::unix(run, Front::TlsHttp2, 128),
        },
        Scenario {
            row: 17,
            name: "tls-accept-queue-1024",
            needs: &[NGINX, GUNICORN, CURL, OPENSSL],
            run: |run| r01_accept_queue::unix(run, Front::TlsHttp2, 1024),
        },
        Scenario {
            row: 17,
            name: "tls-accept-queue-tcp",
            needs: &[NGINX, GUNICORN, CURL, OPENSSL, Need::Program("tcpdump")],
            run: |run| r01_accept_queue::tcp(run, Front::TlsHttp2),
        },
        Scenario {
            row: 17,
            name: "tls-keepalive-race",
            needs: &[NGINX, CURL, OPENSSL, Need::Tun, Need::Program("tcpdump")],
            run: |run| {
                r02_keepalive_race::in_flight(run, Front::TlsHttp2, Request::post, "fin_in_flight")
            },
        },
        Scenario {
            row: 17,
            name: "tls-keepalive-variants",
            needs: &[NGINX, CURL, OPENSSL, Need::Tun, Need::Program("tcpdump")],
            run: |run| r02_keepalive_race::other_variants(run, Front::TlsHttp2),
        },
        Scenario {
            row: 17,
            name: "tls-no-reply",
            needs: &[NGINX, GUNICORN, CURL, OPENSSL, Need::Controller("cpu")],
            run: |run| r06_no_reply::all(run, Front::TlsHttp2),
        },
        Scenario {
            row: 17,
            name: "tls-worker-timeout",
            needs: &[NGINX, GUNICORN, CURL, OPENSSL],
            run: |run| r08_worker_timeout::both(run, Front::TlsHttp2),
        },
    ]
}
