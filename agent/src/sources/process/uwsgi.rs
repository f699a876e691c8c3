//! uWSGI's settings: command line, `UWSGI_…` variables and ini files.

/// The option and its short form.
const OPTIONS: &[(&str, Option<&str>)] = &[
    ("socket", Some("-s")),
    ("uwsgi-socket", None),
    ("http-socket", None),
    ("http", None),
    ("https", None),
    ("fastcgi-socket", None),
    ("scgi-socket", None),
    ("protocol", None),
    ("socket-protocol", None),
    ("harakiri", Some("-t")),
    ("listen", Some("-l")),
    ("processes", Some("-p")),
    ("workers", None),
    ("threads", None),
    ("http-keepalive", None),
    ("http-timeout", None),
    ("socket-timeout", None),
    ("buffer-size", Some("-b")),
    ("max-requests", Some("-R")),
    ("ini", None),
];

/// May be given more than once, each adding one.
const SOCKETS: &[&str] = &[
    "socket",
    "uwsgi-socket",
    "http-socket",
    "http",
    "https",
    "fastcgi-socket",
    "scgi-socket",
];

pub(super) fn settings(
    arguments: &[String],
    environment: &[String],
    configuration: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut files = Vec::new();
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        let (given, value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let long = given.strip_prefix("--");
        let known = OPTIONS
            .iter()
            .find(|(name, short)| long == Some(name) || *short == Some(given));
        if let Some((name, _)) = known {
            let Some(value) = value.or_else(|| words.next().cloned()) else {
                break;
            };
            if *name == "ini" {
                files.push(value);
            } else {
                add(&mut out, format!("--{name}"), value);
            }
        } else if !word.starts_with('-') && word.ends_with(".ini") {
            files.push(word.clone());
        }
    }
    for entry in environment {
        let Some((name, value)) = entry.split_once('=') else {
            continue;
        };
        let Some(option) = name.strip_prefix("UWSGI_") else {
            continue;
        };
        let option = option.to_lowercase().replace('_', "-");
        match OPTIONS.iter().find(|(known, _)| *known == option) {
            Some(("ini", _)) => files.push(value.to_owned()),
            Some(_) => add(&mut out, name.to_owned(), value.to_owned()),
            None => {}
        }
    }
    for file in files.iter().take(8) {
        let Some(text) = configuration(file) else {
            continue;
        };
        for (name, value) in ini(&text) {
            add(&mut out, name, value);
        }
    }
    out
}

fn add(out: &mut Vec<(String, String)>, name: String, value: String) {
    let adds = SOCKETS.contains(&crate::settings::plain(&name).as_str());
    match out.iter_mut().find(|(known, _)| *known == name) {
        Some((_, all)) if adds => *all = format!("{all}, {value}"),
        Some((_, last)) => *last = value,
        None => out.push((name, value)),
    }
}

fn ini(text: &str) -> Vec<(String, String)> {
    let mut ours = false;
    let mut out = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            ours = section.trim_end_matches(']') == "uwsgi";
        } else if ours
            && !line.starts_with([';', '#'])
            && let Some((name, value)) = line.split_once('=')
            && OPTIONS.iter().any(|(known, _)| *known == name.trim())
        {
            out.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str, environment: &[&str], file: Option<&str>) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
        let environment: Vec<String> = environment.iter().map(|e| (*e).to_owned()).collect();
        settings(&words, &environment, |_| file.map(ToOwned::to_owned))
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }

    #[test]
    fn three_places() {
        assert_eq!(
            found(
                "uwsgi --plugin python3 -s :1 --socket=:2 --harakiri 2 app.ini",
                &["UWSGI_LISTEN=64", "HOME=/"],
                Some("[other]\nsocket = x\n[uwsgi]\n; no\nhttp-socket = :3\nprocesses=4\n"),
            ),
            [
                "--socket: :1, :2",
                "--harakiri: 2",
                "UWSGI_LISTEN: 64",
                "http-socket: :3",
                "processes: 4",
            ]
        );
    }

    #[test]
    fn cut_short() {
        assert_eq!(
            found("uwsgi --socket", &["=", "UWSGI_"], None),
            Vec::<String>::new()
        );
    }
}
