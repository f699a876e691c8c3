//! One request to the receiver, and what its answer means for what was sent.

use std::time::Duration;

use anyhow::Result;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use rustls::RootCertStore;

use crate::https::{self, AGENT};

const PROTOBUF: &str = "application/x-protobuf";

/// An answer is a few bytes.
const ANSWER: usize = 64 * 1024;

/// What became of a request, as OTLP/HTTP has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Taken, but for so many records.
    Taken { rejected: u64, why: String },
    /// Not taken, and will not be if it is sent again.
    Refused(String),
    /// Nobody answered, or asked to be spared for a while.
    Later {
        why: String,
        after: Option<Duration>,
    },
}

#[derive(Debug)]
pub(super) struct Client {
    http: https::Client,
    patience: Duration,
}

impl Client {
    /// `roots`: who vouches for a receiver that is reached by https.
    pub(super) fn new(roots: RootCertStore, patience: Duration) -> Result<Client> {
        let http = https::client(roots, patience / 2)?;
        Ok(Client { http, patience })
    }

    /// Sends a compressed request.
    pub(super) async fn post(&self, to: &Uri, body: Bytes) -> Outcome {
        let request = Request::post(to)
            .header(CONTENT_TYPE, PROTOBUF)
            .header(CONTENT_ENCODING, "gzip")
            .header(USER_AGENT, AGENT)
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let later = |why: String| Outcome::Later { why, after: None };
        let answer = async {
            let response = self.http.request(request).await;
            let response = match response {
                Ok(response) => response,
                Err(error) => return later(format!("{:#}", anyhow::Error::from(error))),
            };
            let (head, body) = response.into_parts();
            match Limited::new(body, ANSWER).collect().await {
                Ok(body) => judge(head.status, &head.headers, &body.to_bytes()),
                // Taken or not: its status says it.
                Err(_) => judge(head.status, &head.headers, &[]),
            }
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(outcome) => outcome,
            Err(_) => later(format!("no answer within {} s", self.patience.as_secs())),
        }
    }
}

/// The host's certificate authorities, or those in `SSL_CERT_FILE`.
pub(super) fn trusted_roots() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    anyhow::ensure!(
        !roots.is_empty(),
        "no certificate authority is trusted here: install ca-certificates, or name a file in SSL_CERT_FILE"
    );
    Ok(roots)
}

fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    if status.is_success() {
        // What is no such message rejects nothing.
        let partial = ExportLogsServiceResponse::decode(body)
            .ok()
            .and_then(|response| response.partial_success);
        return Outcome::Taken {
            rejected: partial.as_ref().map_or(0, |partial| {
                u64::try_from(partial.rejected_log_records).unwrap_or(0)
            }),
            why: partial.map(|p| p.error_message).unwrap_or_default(),
        };
    }
    let why = format!("it answered {status}");
    match status.as_u16() {
        429 | 502 | 503 | 504 => Outcome::Later {
            why,
            after: headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs),
        },
        _ => Outcome::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A test server that speaks TLS: answers one request with 200, and ends.
    async fn encrypted(key: &CertifiedKey<rcgen::KeyPair>, listener: tokio::net::TcpListener) {
        let provider = rustls::crypto::ring::default_provider().into();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        // Whoever does not trust it breaks off.
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(tls)).accept(stream).await else {
            return;
        };
        let mut request = Vec::new();
        while !request.ends_with(b"compressed") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        assert!(request.starts_with(b"POST /otlp/v1/logs HTTP/1.1\r\n"));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn by_https_only_who_is_vouched_for_is_sent_anything() {
        let of_localhost = || generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (key, other) = (of_localhost(), of_localhost());
        let post = async |trusted: &CertifiedKey<rcgen::KeyPair>| {
            let mut roots = RootCertStore::empty();
            roots.add(trusted.cert.der().clone()).unwrap();
            let client = Client::new(roots, Duration::from_secs(10)).unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let endpoint: crate::sinks::otlp::Endpoint =
                format!("https://localhost:{port}/otlp/").parse().unwrap();
            let to = endpoint.of("logs");
            let body = Bytes::from_static(b"compressed");
            let ((), outcome) = tokio::join!(encrypted(&key, listener), client.post(&to, body));
            outcome
        };
        let taken = post(&key).await;
        assert!(
            matches!(taken, Outcome::Taken { rejected: 0, .. }),
            "{taken:?}"
        );
        // It may be renewed: nothing is given up for it.
        let Outcome::Later { why, .. } = post(&other).await else {
            panic!("taken")
        };
        assert!(why.contains("certificate"), "{why}");
    }

    #[test]
    fn an_answer_means_what_otlp_says() {
        let none = HeaderMap::new();
        let answer =
            |status: u16, body: &[u8]| judge(StatusCode::from_u16(status).unwrap(), &none, body);
        let taken = |rejected, why: &str| Outcome::Taken {
            rejected,
            why: why.to_owned(),
        };
        assert_eq!(answer(200, b""), taken(0, ""));
        assert_eq!(answer(204, b"ok, thanks"), taken(0, ""));
        let partial = ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: 3,
                error_message: "too old".to_owned(),
            }),
        };
        assert_eq!(answer(200, &partial.encode_to_vec()), taken(3, "too old"));
        for status in [400, 401, 404, 413, 500, 301] {
            let outcome = answer(status, b"");
            assert!(
                matches!(outcome, Outcome::Refused(_)),
                "{status}: {outcome:?}"
            );
        }
        for status in [429, 502, 503, 504] {
            let outcome = answer(status, b"");
            assert!(
                matches!(outcome, Outcome::Later { after: None, .. }),
                "{status}: {outcome:?}"
            );
        }
    }

    #[test]
    fn a_receiver_may_say_when_to_come_again() {
        let mut headers = HeaderMap::new();
        let mut after = |value: &str| {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            match judge(StatusCode::SERVICE_UNAVAILABLE, &headers, b"") {
                Outcome::Later { after, .. } => after,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 22 Nov 2026 08:49:37 GMT"), None);
        assert_eq!(after("-1"), None);
    }
}
