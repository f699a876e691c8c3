//! gunicorn's settings: configuration file, then `GUNICORN_CMD_ARGS`, then the command line, the last wins.

/// The option, its short form, and its name in a configuration file.
const OPTIONS: &[(&str, Option<&str>, &str)] = &[
    ("--bind", Some("-b"), "bind"),
    ("--workers", Some("-w"), "workers"),
    ("--threads", None, "threads"),
    ("--worker-class", Some("-k"), "worker_class"),
    ("--timeout", Some("-t"), "timeout"),
    ("--graceful-timeout", None, "graceful_timeout"),
    ("--keep-alive", None, "keepalive"),
    ("--backlog", None, "backlog"),
    ("--max-requests", None, "max_requests"),
    ("--config", Some("-c"), "config"),
];

pub(super) fn settings(
    arguments: &[String],
    environment: &[String],
    configuration: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let variable = |name: &str| {
        environment
            .iter()
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    };
    let from_command_line = options(arguments);
    let from_environment =
        variable("GUNICORN_CMD_ARGS").map_or_else(Vec::new, |line| options(&shell_words(line)));
    let config = from_command_line
        .iter()
        .chain(&from_environment)
        .find(|(option, _)| *option == "--config")
        .map_or("gunicorn.conf.py", |(_, value)| {
            value.strip_prefix("file:").unwrap_or(value)
        });
    let from_file = if config.starts_with("python:") {
        Vec::new()
    } else {
        configuration(config).map_or_else(Vec::new, |text| assignments(&text))
    };

    let mut out = Vec::new();
    for (option, _, name) in OPTIONS {
        let of = |list: &[(&'static str, String)]| {
            // `--bind` may be given more than once; of the others the last counts.
            let all: Vec<&str> = list
                .iter()
                .filter(|(o, _)| o == option)
                .map(|(_, v)| v.as_str())
                .collect();
            if *option == "--bind" {
                (!all.is_empty()).then(|| all.join(", "))
            } else {
                all.last().map(|v| (*v).to_owned())
            }
        };
        let in_file = || {
            from_file
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let concurrency = || variable("WEB_CONCURRENCY").filter(|_| *option == "--workers");
        if let Some(value) = of(&from_command_line) {
            out.push(((*option).to_owned(), value));
        } else if let Some(value) = of(&from_environment) {
            out.push((format!("GUNICORN_CMD_ARGS {option}"), value));
        } else if let Some(value) = in_file() {
            out.push(((*name).to_owned(), value));
        } else if let Some(value) = concurrency() {
            out.push(("WEB_CONCURRENCY --workers".to_owned(), value.to_owned()));
        }
    }
    out
}

fn options(words: &[String]) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let known = |given: &str| {
            OPTIONS
                .iter()
                .find(|(long, short, _)| *long == given || *short == Some(given))
        };
        if let Some((long, _, _)) = known(word) {
            if let Some(value) = words.next() {
                out.push((*long, value.clone()));
            }
        } else if let Some((option, value)) = word.split_once('=')
            && let Some((long, _, _)) = known(option)
        {
            out.push((*long, value.to_owned()));
        } else if !word.starts_with("--")
            && let Some(short) = word.get(..2)
            && let Some((long, _, _)) = known(short)
        {
            out.push((*long, word.get(2..).unwrap_or_default().to_owned()));
        }
    }
    out
}

/// Assignments of plain numbers and strings at the top level of a Python file; the rest is code.
fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            let name = name.trim_end();
            OPTIONS.iter().find(|(_, _, known)| *known == name)?;
            Some((name.to_owned(), literal(value.trim())?))
        })
        .collect()
}

fn literal(value: &str) -> Option<String> {
    let quote = value.chars().next()?;
    if quote == '"' || quote == '\'' {
        let (text, rest) = value.get(1..)?.split_once(quote)?;
        let rest = rest.trim_start();
        return (rest.is_empty() || rest.starts_with('#')).then(|| text.to_owned());
    }
    let number = value.split('#').next()?.trim_end();
    number.parse::<f64>().ok().map(|_| number.to_owned())
}

/// Splits as a shell does, as far as quotes go.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str, environment: &[&str], file: Option<&str>) -> Vec<String> {
        let environment: Vec<String> = environment.iter().map(|e| (*e).to_owned()).collect();
        settings(&shell_words(line), &environment, |_| {
            file.map(ToOwned::to_owned)
        })
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect()
    }

    #[test]
    fn the_command_line_wins() {
        let file =
            "# x\ntimeout = 20  # slow\nkeepalive=5\nworkers = cpu_count() * 2\nbind = 'unix:/a'\n";
        assert_eq!(
            found(
                "gunicorn -w4 --timeout=30 app",
                &["GUNICORN_CMD_ARGS=--backlog 64 -t 9"],
                Some(file)
            ),
            [
                "bind: unix:/a",
                "--workers: 4",
                "--timeout: 30",
                "keepalive: 5",
                "GUNICORN_CMD_ARGS --backlog: 64",
            ]
        );
    }

    #[test]
    fn several_binds_and_odd_ends() {
        assert_eq!(
            found("gunicorn -b :1 --bind :2 app -t", &[], None),
            ["--bind: :1, :2"]
        );
        assert_eq!(
            found(
                "gunicorn: worker [é]",
                &["WEB_CONCURRENCY=3"],
                Some("=\n= =\ntimeout = \"")
            ),
            ["WEB_CONCURRENCY --workers: 3"]
        );
        assert_eq!(found("gunicorn -é -", &[], None), Vec::<String>::new());
    }
}
