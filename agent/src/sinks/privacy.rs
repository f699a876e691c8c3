//! How much of a user's request leaves the process: whole, as a template, or not at all.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::signal::Address;
use crate::verdict::Verdict;

/// What a verdict may show of the request and its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Privacy {
    /// Everything that was seen: method, Host, path without query, client address
    Full,
    /// Numbers, UUIDs and other identifiers in the path become :id, client addresses are cut to /24 and /48
    Template,
    /// Neither path nor client address
    Minimal,
}

impl Privacy {
    /// A caller as this level shows it.
    pub fn caller(self, caller: &Address) -> Option<Address> {
        match self {
            Privacy::Full => Some(caller.clone()),
            Privacy::Template => Some(cut(caller)),
            Privacy::Minimal => None,
        }
    }

    /// Takes out of a verdict what this level does not show. Texts are searched for the same values.
    pub fn apply(self, verdict: &mut Verdict) {
        if self == Privacy::Full {
            return;
        }
        let path = verdict.request.path.take();
        let client = verdict.client.address.take();
        let (shown_path, shown_client) = match self {
            Privacy::Full | Privacy::Minimal => (None, None),
            Privacy::Template => (path.as_deref().map(template), client.as_ref().map(cut)),
        };
        // Those that are shown themselves say no more of the client.
        let tried = verdict.attempts.iter().map(|attempt| &attempt.upstream);
        let shown_as_they_are: Vec<IpAddr> = tried
            .chain(&verdict.upstream.address)
            .chain(&verdict.proxy.address)
            .filter_map(|address| Some(address.0.parse::<SocketAddr>().ok()?.ip()))
            .collect();
        let hide = |text: &mut String| {
            // The root path is in every other word and says nothing of the user.
            if let Some(path) = path.as_deref().filter(|path| path.len() > 1) {
                replace(text, path, shown_path.as_deref().unwrap_or("(path)"));
            }
            if let Some(Address(client)) = client.as_ref().filter(|client| !client.is_unix()) {
                let shown = shown_client.as_ref().map_or("(client)", |shown| &shown.0);
                replace_address(text, client, shown);
                if let Ok(address) = client.parse::<SocketAddr>()
                    && !shown_as_they_are.contains(&address.ip())
                {
                    replace_address(text, &address.ip().to_string(), shown);
                }
            }
        };
        for evidence in &mut verdict.evidence {
            hide(&mut evidence.text);
        }
        verdict.missing.iter_mut().for_each(hide);
        hide(&mut verdict.advice.text);
        verdict.request.path = shown_path;
        verdict.client.address = shown_client;
    }
}

fn replace(text: &mut String, from: &str, to: &str) {
    if text.contains(from) {
        *text = text.replace(from, to);
    }
}

/// Where it is no part of a longer one.
fn replace_address(text: &mut String, from: &str, to: &str) {
    let is_v6 = from.matches(':').count() > 1;
    let joins = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    let goes_on = |after: &str| match is_v6 {
        true => after.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':'),
        false => after.starts_with(|c: char| c.is_ascii_digit()),
    };
    let mut replaced = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(from) {
        let (before, after) = (&rest[..at], &rest[at + from.len()..]);
        let apart = !before.ends_with(joins) && !goes_on(after);
        replaced += before;
        replaced += if apart { to } else { from };
        rest = after;
    }
    replaced += rest;
    *text = replaced;
}

/// The path with everything that may name a person, an order or a session turned into `:id`.
pub fn template(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for (i, segment) in path.split('/').enumerate() {
        if i > 0 {
            out.push('/');
        }
        if is_uuid(segment) || segment.contains('@') || segment.to_lowercase().contains("%40") {
            out.push_str(":id");
        } else {
            template_segment(segment, &mut out);
        }
    }
    out
}

/// A segment's words, between its punctuation, one by one: `order-1234.json` keeps `order` and `json`.
fn template_segment(segment: &str, out: &mut String) {
    let mut rest = segment;
    while !rest.is_empty() {
        let word = rest
            .find(|c: char| !c.is_alphanumeric())
            .unwrap_or(rest.len());
        out.push_str(&template_word(&rest[..word]));
        rest = &rest[word..];
        let between = rest.find(char::is_alphanumeric).unwrap_or(rest.len());
        // A UUID inside a longer segment begins at a word.
        out.push_str(&rest[..between]);
        rest = &rest[between..];
        if rest.get(..36).is_some_and(is_uuid) {
            out.push_str(":id");
            rest = &rest[36..];
        }
    }
}

fn template_word(word: &str) -> Cow<'_, str> {
    let digits = word.chars().filter(|c| c.is_numeric()).count();
    let all_hex = word.bytes().all(|b| b.is_ascii_hexdigit());
    let identifier = !word.is_empty()
        && (digits == word.chars().count()
            || all_hex && (word.len() >= 16 || word.len() >= 8 && digits > 0)
            || word.len() >= 20 && digits > 0);
    if identifier {
        return Cow::Borrowed(":id");
    }
    // `v1`, `s3` and `oauth2` are names; `order1234` holds a number.
    if digits < 3 {
        return Cow::Borrowed(word);
    }
    let mut out = String::new();
    let mut in_number = false;
    for c in word.chars() {
        if c.is_numeric() {
            if !in_number {
                out.push_str(":id");
            }
            in_number = true;
        } else {
            out.push(c);
            in_number = false;
        }
    }
    Cow::Owned(out)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The network of an address: /24 for IPv4, /48 for IPv6. Unix sockets say nothing of a client.
fn cut(address: &Address) -> Address {
    let Ok(socket) = address.0.parse::<SocketAddr>() else {
        return match address.is_unix() {
            true => address.clone(),
            // Not an address as we know them: show nothing of it.
            false => Address("hidden".to_owned()),
        };
    };
    Address(match socket.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{}/24", Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    #[test]
    fn identifiers_in_paths_become_templates_and_names_stay() {
        for (path, expected) in [
            ("/", "/"),
            ("", ""),
            ("/orders", "/orders"),
            ("/orders/1234", "/orders/:id"),
            ("/v1/users/7/oauth2", "/v1/users/:id/oauth2"),
            (
                "/orders/9f8b6c1e-2b7a-4c55-8d3e-0123456789ab/x",
                "/orders/:id/x",
            ),
            (
                "/o/order-9f8b6c1e-2b7a-4c55-8d3e-0123456789ab.json",
                "/o/order-:id.json",
            ),
            ("/blob/deadbeefdeadbeefdead", "/blob/:id"),
            ("/blob/deadbee1", "/blob/:id"),
            ("/cafe/facade", "/cafe/facade"),
            ("/order-12345.json", "/order-:id.json"),
            ("/order12345x6", "/order:idx:id"),
            ("/reset/Zx9QwertyUiopAsdfghjkl", "/reset/:id"),
            ("/u/jane@example.org/x", "/u/:id/x"),
            ("/u/jane%40example.org", "/u/:id"),
            ("//double//", "//double//"),
            ("/\u{661}\u{662}\u{663}/é", "/:id/é"),
        ] {
            assert_eq!(template(path), expected, "{path}");
        }
    }

    #[test]
    fn client_addresses_are_cut_to_their_network() {
        for (address, expected) in [
            ("10.9.0.7:51544", "10.9.0.0/24"),
            ("[2001:db8:1:2::7]:443", "2001:db8:1::/48"),
            ("[::ffff:10.9.0.7]:80", "10.9.0.0/24"),
            ("unix:", "unix:"),
            ("10.9.0.7", "hidden"),
        ] {
            assert_eq!(cut(&Address(address.to_owned())).0, expected);
        }
    }

    #[test]
    fn each_level_hides_in_fields_and_in_texts() {
        let full = || {
            let mut verdict = sample::verdict();
            verdict.request.path = Some("/orders/1234".to_owned());
            verdict.evidence[0].text =
                "POST /orders/1234 from 10.9.0.7:51544 (10.9.0.7)".to_owned();
            verdict
        };
        let mut verdict = full();
        Privacy::Full.apply(&mut verdict);
        assert_eq!(verdict, full());

        Privacy::Template.apply(&mut verdict);
        assert_eq!(verdict.request.path.as_deref(), Some("/orders/:id"));
        assert_eq!(
            verdict.client.address,
            Some(Address("10.9.0.0/24".to_owned()))
        );
        assert_eq!(
            verdict.evidence[0].text,
            "POST /orders/:id from 10.9.0.0/24 (10.9.0.0/24)"
        );

        let mut verdict = full();
        Privacy::Minimal.apply(&mut verdict);
        assert_eq!((verdict.request.path, verdict.client.address), (None, None));
        assert_eq!(
            verdict.evidence[0].text,
            "POST (path) from (client) ((client))"
        );
        assert_eq!(verdict.request.method.as_deref(), Some("POST"));
    }

    #[test]
    fn an_address_is_hidden_where_it_is_the_clients_alone() {
        let mut verdict = sample::verdict();
        let address = |text: &str| Some(Address(text.to_owned()));
        verdict.client.address = address("10.9.0.3:51544");
        verdict.upstream.address = address("10.9.0.32:9000");
        verdict.evidence[0].text =
            "10.9.0.32:9000 of 10.9.0.3:5154, 110.9.0.3:51544, 10.9.0.3.".to_owned();
        let mut near = verdict.clone();
        Privacy::Template.apply(&mut verdict);
        assert_eq!(
            verdict.evidence[0].text,
            "10.9.0.32:9000 of 10.9.0.0/24:5154, 110.9.0.3:51544, 10.9.0.0/24."
        );
        // Client and upstream on one host.
        near.upstream.address = address("10.9.0.3:9000");
        near.evidence[0].text = "10.9.0.3:9000: ECONNREFUSED for 10.9.0.3:51544".to_owned();
        Privacy::Template.apply(&mut near);
        assert_eq!(
            near.evidence[0].text,
            "10.9.0.3:9000: ECONNREFUSED for 10.9.0.0/24"
        );
    }
}
