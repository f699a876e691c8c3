//! The one way out over HTTP: a client for plain and encrypted servers, which trusts whom it is told to.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;

/// How this program calls itself.
pub(crate) const AGENT: &str = concat!("why502/", env!("CARGO_PKG_VERSION"));

/// A server that is gone without a word is noticed after some of these.
const PROBE: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

pub(crate) type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// `roots`: who vouches for a server that is reached by https.
pub(crate) fn client(roots: RootCertStore, connect: Duration) -> Result<Client> {
    let tls = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .context("TLS")?
    .with_root_certificates(roots)
    .with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(connect));
    connector.set_keepalive(Some(PROBE));
    connector.set_keepalive_interval(Some(PROBE));
    connector.set_keepalive_retries(Some(PROBES));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(1)
        .build(connector))
}
