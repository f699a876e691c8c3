//! nginx's settings: from its configuration, as far as a tolerant reader of words and blocks can tell.

pub(super) const DEFAULT: &str = "/etc/nginx/nginx.conf";
const MAX_FILES: usize = 256;
const MAX_DEPTH: usize = 8;
const MAX_VALUES: usize = 8;
const MAX_FORMATS: usize = 64;

/// Directives wherever they stand; several values are listed.
const ANYWHERE: &[&str] = &[
    "worker_processes",
    "worker_connections",
    "worker_rlimit_nofile",
    "proxy_connect_timeout",
    "proxy_send_timeout",
    "proxy_read_timeout",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_buffer_size",
    "proxy_http_version",
    "proxy_request_buffering",
    "proxy_socket_keepalive",
    "uwsgi_connect_timeout",
    "uwsgi_send_timeout",
    "uwsgi_read_timeout",
    "fastcgi_connect_timeout",
    "fastcgi_read_timeout",
];

/// Directives of an `upstream` block, named with it.
const IN_UPSTREAM: &[&str] = &[
    "server",
    "keepalive",
    "keepalive_timeout",
    "keepalive_requests",
    "keepalive_time",
];

/// The arguments of a master's title (`nginx: master process nginx -c x`) or of a plain start.
pub(super) fn arguments(given: &[String]) -> Option<Vec<String>> {
    let first = given.first()?;
    if let Some(title) = first.strip_prefix("nginx: ") {
        let line = title.strip_prefix("master process ")?;
        return Some(line.split(' ').skip(1).map(ToOwned::to_owned).collect());
    }
    Some(given.iter().skip(1).cloned().collect())
}

/// The file that it was started with, as it means it: from its root or its working directory.
pub(super) fn main_file(arguments: &[String], read: &dyn Fn(&str) -> Option<String>) -> String {
    let option = |name: &str| {
        let mut words = arguments.iter();
        words.by_ref().find_map(|word| {
            let rest = word.strip_prefix(name)?;
            Some(rest.to_owned())
        })
    };
    let after = |name: &str| {
        let place = arguments.iter().position(|word| word == name)?;
        arguments.get(place + 1).cloned()
    };
    let value = |name: &str| {
        after(name)
            .or_else(|| option(name))
            .filter(|v| !v.is_empty())
    };
    let prefix = value("-p");
    match (value("-c"), &prefix) {
        (Some(file), Some(prefix)) if !file.starts_with('/') => join(prefix, &file),
        (Some(file), _) => file,
        (None, Some(prefix)) if read(DEFAULT).is_none() => join(prefix, "conf/nginx.conf"),
        (None, _) => DEFAULT.to_owned(),
    }
}

pub(super) fn settings(
    arguments: &[String],
    read: &dyn Fn(&str) -> Option<String>,
    list: &dyn Fn(&str) -> Vec<String>,
) -> Vec<(String, String)> {
    Reader::of(&main_file(arguments, read), read, list).found
}

/// A `log_format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFormat {
    pub name: String,
    pub format: String,
    /// `default`, `json` or `none`.
    pub escape: String,
}

/// The formats of access lines that a configuration names.
pub(super) fn log_formats(
    main: &str,
    read: &dyn Fn(&str) -> Option<String>,
    list: &dyn Fn(&str) -> Vec<String>,
) -> Vec<LogFormat> {
    Reader::of(main, read, list).formats
}

struct Reader<'a> {
    read: &'a dyn Fn(&str) -> Option<String>,
    list: &'a dyn Fn(&str) -> Vec<String>,
    folder: String,
    files: usize,
    found: Vec<(String, String)>,
    formats: Vec<LogFormat>,
}

impl<'a> Reader<'a> {
    /// Reads a whole configuration.
    fn of(
        main: &str,
        read: &'a dyn Fn(&str) -> Option<String>,
        list: &'a dyn Fn(&str) -> Vec<String>,
    ) -> Reader<'a> {
        let folder = main.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let mut reader = Reader {
            read,
            list,
            folder: folder.to_owned(),
            files: 0,
            found: Vec::new(),
            formats: Vec::new(),
        };
        reader.file(main, &mut Vec::new(), 0);
        reader
    }

    /// `blocks` are the first words of the blocks around, with their first argument.
    fn file(&mut self, path: &str, blocks: &mut Vec<(String, String)>, depth: usize) {
        if self.files >= MAX_FILES || depth > MAX_DEPTH {
            return;
        }
        self.files += 1;
        let Some(text) = (self.read)(path) else {
            return;
        };
        let outside = blocks.len();
        let mut directive: Vec<String> = Vec::new();
        for token in tokens(&text) {
            match token {
                Token::Word(word) => directive.push(word),
                Token::Open => {
                    let mut words = std::mem::take(&mut directive).into_iter();
                    let name = words.next().unwrap_or_default();
                    blocks.push((name, words.next().unwrap_or_default()));
                }
                Token::Close => {
                    directive.clear();
                    if blocks.len() > outside {
                        blocks.pop();
                    }
                }
                Token::End => {
                    let words = std::mem::take(&mut directive);
                    self.directive(&words, blocks, depth);
                }
            }
        }
        blocks.truncate(outside);
    }

    fn directive(&mut self, words: &[String], blocks: &mut Vec<(String, String)>, depth: usize) {
        let [name, values @ ..] = words else { return };
        if name == "include" {
            for file in values.first().map_or_else(Vec::new, |v| self.matching(v)) {
                self.file(&file, blocks, depth + 1);
            }
            return;
        }
        if let ("log_format", [name, rest @ ..]) = (name.as_str(), values) {
            let escape = rest.first().and_then(|word| word.strip_prefix("escape="));
            let parts = &rest[usize::from(escape.is_some())..];
            if self.formats.len() < MAX_FORMATS {
                self.formats.push(LogFormat {
                    name: name.clone(),
                    format: parts.concat(),
                    escape: escape.unwrap_or("default").to_owned(),
                });
            }
            return;
        }
        let upstream = blocks.iter().find(|(block, _)| block == "upstream");
        match upstream {
            Some((_, block)) if IN_UPSTREAM.contains(&name.as_str()) => {
                // A server's address; its parameters do not matter here.
                let value = values.first().cloned().unwrap_or_default();
                self.add(format!("upstream {block} {name}"), value);
            }
            None if ANYWHERE.contains(&name.as_str()) => self.add(name.clone(), values.join(" ")),
            _ => {}
        }
    }

    fn add(&mut self, name: String, value: String) {
        match self.found.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => {
                let known: Vec<&str> = values.split(", ").collect();
                if !known.contains(&value.as_str()) && known.len() < MAX_VALUES {
                    *values = format!("{values}, {value}");
                }
            }
            None => self.found.push((name, value)),
        }
    }

    /// The files of an include, in order; a star is understood in the last part of the path.
    fn matching(&self, pattern: &str) -> Vec<String> {
        let path = join(&self.folder, pattern);
        let Some((folder, last)) = path.rsplit_once('/') else {
            return vec![path];
        };
        let Some((head, tail)) = last.split_once('*') else {
            return vec![path];
        };
        let mut names: Vec<String> = (self.list)(folder)
            .into_iter()
            .filter(|n| n.len() >= head.len() + tail.len())
            .filter(|n| n.starts_with(head) && n.ends_with(tail) && !n.starts_with('.'))
            .collect();
        names.sort();
        names
            .into_iter()
            .map(|name| format!("{folder}/{name}"))
            .collect()
    }
}

fn join(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{}/{path}", folder.trim_end_matches('/'))
    }
}

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' | '\'' if word.is_none() => {
                let mut quoted = String::new();
                while let Some(inner) = chars.next_if(|inner| *inner != c) {
                    if inner == '\\' {
                        quoted.extend(chars.next());
                    } else {
                        quoted.push(inner);
                    }
                }
                chars.next();
                out.push(Token::Word(quoted));
            }
            // A variable's name in braces is no block.
            '{' if word.as_ref().is_some_and(|w| w.ends_with('$')) => {
                word.get_or_insert_default().push(c);
                while let Some(inner) = chars.next_if(|inner| !matches!(inner, '}' | '\n')) {
                    word.get_or_insert_default().push(inner);
                }
                word.get_or_insert_default().extend(chars.next());
            }
            ';' | '{' | '}' => {
                out.extend(word.take().map(Token::Word));
                out.push(match c {
                    ';' => Token::End,
                    '{' => Token::Open,
                    _ => Token::Close,
                });
            }
            _ if c.is_whitespace() => out.extend(word.take().map(Token::Word)),
            _ => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word.map(Token::Word));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(main: &str, files: &[(&str, &str)]) -> Vec<String> {
        let main = ("/etc/nginx/nginx.conf", main);
        let read = |path: &str| {
            let mut all = files.iter().chain([&main]);
            all.find(|(name, _)| *name == path)
                .map(|(_, text)| (*text).to_owned())
        };
        let list = |folder: &str| {
            let inside =
                |name: &str| Some(name.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
            files.iter().filter_map(|(name, _)| inside(name)).collect()
        };
        settings(&[], &read, &list)
            .into_iter()
            .map(|(n, v)| format!("{n}: {v}"))
            .collect()
    }

    #[test]
    fn timeouts_and_pools() {
        let main = r#"
            events { worker_connections 512; } # not { this
            http {
                keepalive_timeout 65;
                upstream app { server 127.0.0.1:9000 weight=2; server 'unix:/a b'; keepalive 8; keepalive_timeout 30s; }
                server { location / { proxy_read_timeout 10s; proxy_pass http://$host${x}; } }
                include sites/*.conf;
            }"#;
        let sites = [
            (
                "/etc/nginx/sites/b.conf",
                "server { proxy_read_timeout 20s; }",
            ),
            (
                "/etc/nginx/sites/a.conf",
                "server { proxy_read_timeout 10s; } }",
            ),
            (
                "/etc/nginx/sites/c.bak",
                "server { proxy_read_timeout 99s; }",
            ),
        ];
        assert_eq!(
            found(main, &sites),
            [
                "worker_connections: 512",
                "upstream app server: 127.0.0.1:9000, unix:/a b",
                "upstream app keepalive: 8",
                "upstream app keepalive_timeout: 30s",
                "proxy_read_timeout: 10s, 20s",
            ]
        );
    }

    #[test]
    fn loops_and_rubbish_end() {
        assert_eq!(
            found("include nginx.conf; proxy_read_timeout 1s;", &[]),
            ["proxy_read_timeout: 1s"]
        );
        for rubbish in [
            "{{{{",
            "}}}}",
            "\"",
            "'\\",
            "${",
            ";;;{",
            "include",
            "include ;",
        ] {
            assert_eq!(found(rubbish, &[]), Vec::<String>::new(), "{rubbish}");
        }
    }

    #[test]
    fn where_the_configuration_is() {
        let asked = std::cell::RefCell::new(Vec::new());
        let read = |path: &str| {
            asked.borrow_mut().push(path.to_owned());
            None
        };
        for (line, file) in [
            (
                "nginx: master process /usr/sbin/nginx -c /a/n.conf",
                "/a/n.conf",
            ),
            (
                "nginx: master process nginx -p /srv -c n.conf",
                "/srv/n.conf",
            ),
            ("nginx: master process nginx -g x;", "/etc/nginx/nginx.conf"),
        ] {
            let words = arguments(&[line.to_owned()]).expect("a master's title");
            settings(&words, &read, &|_| Vec::new());
            assert_eq!(
                asked.borrow_mut().drain(..).next_back().as_deref(),
                Some(file)
            );
        }
        assert_eq!(arguments(&["nginx: worker process".to_owned()]), None);
    }
}
