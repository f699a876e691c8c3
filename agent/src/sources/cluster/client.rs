//! Requests to the Kubernetes API, as a pod's service account: its answers, whole or as they come.

use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;

use super::Api;
use crate::https::{self, AGENT};

/// Metadata of some hundred pods, a few KB each.
const ANSWER: usize = 32 << 20;
/// An event is of one pod.
const EVENT: usize = 4 << 20;

/// Made anew for each list: the authority's certificate may have been replaced.
pub(super) struct Client {
    http: https::Client,
    api: Api,
    patience: Duration,
}

impl Client {
    pub(super) fn new(api: &Api, patience: Duration) -> Result<Client> {
        let file = api.account.join("ca.crt");
        let pem = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let mut roots = RootCertStore::empty();
        roots
            .add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        if roots.is_empty() {
            bail!("{} holds no certificate", file.display());
        }
        Ok(Client {
            http: https::client(roots, patience / 2)?,
            api: api.clone(),
            patience,
        })
    }

    /// An answer that is one object.
    pub(super) async fn whole<T: DeserializeOwned>(&self, request: Request<Vec<u8>>) -> Result<T> {
        let answer = async {
            let body = self.send(request).await?.into_body();
            let body = Limited::new(body, ANSWER).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("its answer: {error}"))?;
            serde_json::from_slice(&body.to_bytes()).context("its answer is not understood")
        };
        self.soon(answer).await
    }

    /// An answer that goes on: an object in each line.
    pub(super) async fn lines(&self, request: Request<Vec<u8>>) -> Result<Lines> {
        let body = self.soon(self.send(request)).await?.into_body();
        Ok(Lines {
            body,
            rest: Vec::new(),
        })
    }

    async fn soon<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer within {} s", self.patience.as_secs()),
        }
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Incoming>> {
        let (mut head, _) = request.into_parts();
        head.uri = Uri::builder()
            .scheme("https")
            .authority(self.api.authority.as_str())
            .path_and_query(head.uri.path_and_query().map_or("/", |path| path.as_str()))
            .build()?;
        // It is replaced within the hour.
        let file = self.api.account.join("token");
        let token =
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .with_context(|| format!("{} is no token", file.display()))?;
        bearer.set_sensitive(true);
        head.headers.insert(AUTHORIZATION, bearer);
        head.headers
            .insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let request = Request::from_parts(head, Full::default());
        let response = self.http.request(request).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::GONE => Err(Gone.into()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                bail!("it answered {status}: the service account may not list and watch pods")
            }
            status => bail!("it answered {status}"),
        }
    }
}

/// A version is not known there any more.
#[derive(Debug)]
pub(super) struct Gone;

impl std::error::Error for Gone {}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it answered 410 Gone")
    }
}

pub(super) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// `None` when the answer has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                let line = std::mem::replace(&mut self.rest, rest);
                return Ok(Some(Bytes::from(line)));
            }
            if self.rest.len() > EVENT {
                bail!("an event of more than {EVENT} bytes");
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            if let Ok(data) = frame.context("its answer")?.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}
