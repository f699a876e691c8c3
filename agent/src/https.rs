//! The one way out over HTTP: a client for plain and encrypted servers, which trusts whom it is told to.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;

mod dial;

use dial::Dialer;
pub(crate) use dial::{PORTS, Ports};

/// How this program calls itself.
pub(crate) const AGENT: &str = concat!("why502/", env!("CARGO_PKG_VERSION"));

pub(crate) type Client = legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// `roots`: who vouches for a server that is reached by https.
pub(crate) fn client(roots: RootCertStore, connect: Duration) -> Result<Client> {
    let tls = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    )
    .with_safe_default_protocol_versions()
    .context("TLS")?
    .with_root_certificates(roots)
    .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(Dialer::new(connect, &PORTS));
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(1)
        .build(connector))
}
