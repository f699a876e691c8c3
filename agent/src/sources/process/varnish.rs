//! Where Varnish's backends are: by the VCL that it was started with, as far as a tolerant reader can tell.

use std::net::IpAddr;

/// Where a relative file of VCL is looked for (`vcl_path`).
const FOLDER: &str = "/etc/varnish";
const MAX_FILES: usize = 64;
const MAX_DEPTH: usize = 8;
const MAX_BACKENDS: usize = 64;

/// `read` gives the files that are still what was loaded.
pub(super) fn settings(
    arguments: &[String],
    read: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let mut reader = Reader {
        read: &read,
        files: 0,
        backends: Vec::new(),
    };
    let places = (0..arguments.len()).filter(|at| arguments[*at] == "-f");
    for file in places.filter_map(|at| arguments.get(at + 1)) {
        reader.file(file, 0);
    }
    let addresses = reader.backends.into_iter();
    addresses
        .map(|(name, address)| (format!("backend {name} server"), address))
        .collect()
}

struct Reader<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
    files: usize,
    backends: Vec<(String, String)>,
}

impl Reader<'_> {
    fn file(&mut self, path: &str, depth: usize) {
        if self.files >= MAX_FILES || depth > MAX_DEPTH {
            return;
        }
        self.files += 1;
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{FOLDER}/{}", path.trim_start_matches("./")),
        };
        let Some(text) = (self.read)(&path) else {
            return;
        };
        let tokens = tokens(&text);
        let mut rest = &tokens[..];
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match (first, after) {
                (Token::Word("include"), [Token::Text(path), ..]) => self.file(path, depth + 1),
                (Token::Word("backend"), [Token::Word(name), Token::Mark('{'), inner @ ..]) => {
                    rest = self.backend(name, inner);
                }
                _ => {}
            }
        }
    }

    /// The fields of a backend; gives what follows its block.
    fn backend<'t>(&mut self, name: &str, mut rest: &'t [Token<'t>]) -> &'t [Token<'t>] {
        let mut depth = 1;
        let (mut host, mut port, mut path) = (None, None, None);
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match (first, after) {
                (Token::Mark('{'), _) => depth += 1,
                (Token::Mark('}'), _) if depth == 1 => break,
                (Token::Mark('}'), _) => depth -= 1,
                (Token::Word(field), [Token::Mark('='), value, ..]) if depth == 1 => {
                    match (*field, value) {
                        (".host", Token::Text(value)) => host = Some(*value),
                        (".port", Token::Text(value)) => port = Some(*value),
                        (".path", Token::Text(value)) => path = Some(*value),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if self.backends.len() < MAX_BACKENDS
            && let Some(address) = address(host, port, path)
        {
            self.backends.push((name.to_owned(), address));
        }
        rest
    }
}

/// Where it is, unless a name has to be resolved for that.
fn address(host: Option<&str>, port: Option<&str>, path: Option<&str>) -> Option<String> {
    if let Some(path) = path {
        return Some(format!("unix:{path}"));
    }
    let ip: IpAddr = host?.parse().ok()?;
    let port: u16 = match port.unwrap_or("http") {
        "http" => 80,
        number => number.parse().ok()?,
    };
    Some(std::net::SocketAddr::new(ip, port).to_string())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    /// Names, numbers and times.
    Word(&'a str),
    /// What stood in quotes.
    Text(&'a str),
    Mark(char),
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let quoted = |open: &str, close| Some(until(rest.strip_prefix(open)?, close));
        let skipped = quoted("#", "\n")
            .or_else(|| quoted("//", "\n"))
            .or_else(|| quoted("/*", "*/"))
            .or_else(|| quoted("C{", "}C"));
        let text = || {
            quoted("\"\"\"", "\"\"\"")
                .or_else(|| quoted("{\"", "\"}"))
                .or_else(|| quoted("\"", "\""))
        };
        if let Some((_, after)) = skipped {
            rest = after;
        } else if let Some((text, after)) = text() {
            out.push(Token::Text(text));
            rest = after;
        } else if is_word(c) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            out.push(Token::Word(&rest[..end]));
            rest = &rest[end..];
        } else {
            if !c.is_whitespace() {
                out.push(Token::Mark(c));
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// What stands before `close`, and what follows it.
fn until<'a>(text: &'a str, close: &str) -> (&'a str, &'a str) {
    text.split_once(close).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(arguments: &[&str], files: &[(&str, &str)]) -> Vec<String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let read = |path: &str| {
            let mut files = files.iter();
            let (_, text) = files.find(|(name, _)| *name == path)?;
            Some((*text).to_owned())
        };
        let all = settings(&arguments, read);
        all.into_iter().map(|(n, v)| format!("{n}: {v}")).collect()
    }

    #[test]
    fn backends() {
        let main = r#"
            vcl 4.1; # backend hash { .path = "/x"; }
            include "more.vcl";
            backend app { .host = "10.0.0.1"; .port = "9000"; .first_byte_timeout = 5s;
              .probe = { .url = "/"; .host = "10.0.0.9"; .connect_timeout = 9s; } }
            /* backend old { .path = "/y"; } */ C{ backend c { .path = "/z"; } }C
            backend named { .host = "app.example"; }
            backend plain { .host = {"::1"}; }
            sub vcl_recv { set req.http.x = {" backend in { .path = "/q"; } "}; }"#;
        let more = r#"backend unix { .path = "/run/a b.sock"; } backend default none;"#;
        assert_eq!(
            found(
                &["varnishd", "-f", "/etc/varnish/default.vcl"],
                &[
                    ("/etc/varnish/default.vcl", main),
                    ("/etc/varnish/more.vcl", more)
                ]
            ),
            [
                "backend unix server: unix:/run/a b.sock",
                "backend app server: 10.0.0.1:9000",
                "backend plain server: [::1]:80",
            ]
        );
    }

    #[test]
    fn any_bytes() {
        for text in [
            "",
            "backend",
            "backend x {",
            "backend x { .host",
            "backend x { .host = ",
            "\"",
            "/*",
            "é}{",
            "backend é { .path = \"/a\"; }",
            "include \"/a\"; include \"/a\";",
        ] {
            assert_eq!(found(&["varnishd", "-f", "/a"], &[("/a", text)]), [""; 0]);
        }
    }
}
