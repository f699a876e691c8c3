//! Where it is sent: a receiver's URL, to which each kind of telemetry adds its path.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// The base of a receiver's URLs: `http://collector:4318`, `https://logs.example/otlp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    base: String,
    pub(super) encrypted: bool,
}

impl Endpoint {
    /// Of one kind: `logs`, `metrics`.
    pub(super) fn of(&self, kind: &str) -> Uri {
        let whole = format!("{}/v1/{kind}", self.base);
        // The base was one, and this adds nothing that needs quoting.
        whole.parse().unwrap_or_default()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        const WANTED: &str = "expected a receiver's URL, such as http://collector:4318";
        let uri: Uri = text.trim().parse().map_err(|_| WANTED.to_owned())?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(WANTED.to_owned()),
        };
        let Some(authority) = uri.authority().filter(|a| !a.host().is_empty()) else {
            return Err(WANTED.to_owned());
        };
        if authority.as_str().contains('@') {
            return Err("a password in the URL would be seen in the process list".to_owned());
        }
        if uri.query().is_some() {
            return Err(format!("{WANTED}, without a query"));
        }
        let base = text.trim().trim_end_matches('/');
        if base.ends_with("/v1/logs") || base.ends_with("/v1/metrics") {
            return Err("/v1/logs and /v1/metrics are added to it: leave them out".to_owned());
        }
        Ok(Endpoint {
            base: base.to_owned(),
            encrypted,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}
