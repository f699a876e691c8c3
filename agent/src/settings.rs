//! Settings of other software as carried by `Process`: their plain names, and where each was read.
//!
//! A name tells its origin: `--timeout` was on the command line, `GUNICORN_CMD_ARGS --timeout` and
//! `UWSGI_HARAKIRI` in the environment, `timeout` and `upstream app keepalive` in a configuration.

use crate::signal::Process;

/// The name without origin: `timeout`, `harakiri`, `keepalive`; words are joined by `-`.
pub fn plain(name: &str) -> String {
    let last = name.rsplit(' ').next().unwrap_or(name);
    let bare = last.trim_start_matches('-');
    let bare = if is_environment(bare) {
        bare.strip_prefix("UWSGI_").unwrap_or(bare).to_lowercase()
    } else {
        bare.to_owned()
    };
    bare.replace('_', "-")
}

/// `command_line`, `environment` or `configuration`, as the contract's `observed_from` names them.
pub fn origin(name: &str) -> &'static str {
    let first = name.split(' ').next().unwrap_or(name);
    if first.starts_with('-') {
        "command_line"
    } else if is_environment(first) {
        "environment"
    } else {
        "configuration"
    }
}

/// The first of a process's settings with one of these plain names: its full name and value.
pub fn find<'a>(process: &'a Process, names: &[&str]) -> Option<(&'a str, &'a str)> {
    let wanted = |name: &str| names.contains(&plain(name).as_str());
    process
        .settings
        .iter()
        .find(|(name, _)| wanted(name))
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

/// A time as configurations write it: `60`, `60s`, `500ms`, `1m`, `1m30s`, `2h`; in seconds.
pub fn seconds(value: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = value.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match rest.get(..unit_end)?.trim() {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        total += number * factor;
        rest = rest.get(unit_end..)?;
    }
    Some(total)
}

fn is_environment(name: &str) -> bool {
    name.contains(|c: char| c.is_ascii_uppercase())
        && !name.contains(|c: char| c.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_origin() {
        for (name, bare, from) in [
            ("--keep-alive", "keep-alive", "command_line"),
            ("GUNICORN_CMD_ARGS --timeout", "timeout", "environment"),
            ("UWSGI_HTTP_SOCKET", "http-socket", "environment"),
            (
                "SAGEMAKER_MODEL_SERVER_TIMEOUT",
                "sagemaker-model-server-timeout",
                "environment",
            ),
            ("graceful_timeout", "graceful-timeout", "configuration"),
            (
                "upstream app keepalive_timeout",
                "keepalive-timeout",
                "configuration",
            ),
        ] {
            assert_eq!((plain(name).as_str(), origin(name)), (bare, from), "{name}");
        }
    }

    #[test]
    fn times_as_configurations_write_them() {
        for (value, expected) in [
            ("60", Some(60.0)),
            ("1m30s", Some(90.0)),
            ("500ms", Some(0.5)),
            ("2h", Some(7200.0)),
            ("", None),
            ("x", None),
            ("10 parsecs", None),
            ("1.2.3", None),
        ] {
            assert_eq!(seconds(value), expected, "{value}");
        }
    }
}
