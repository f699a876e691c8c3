//! The configuration file: its keys are the long names of options, its values take the options'
//! own way through the parser, so that a setting means the same wherever it is written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Refusal;

/// Options that make no sense inside the file.
const NOT_IN_FILE: &[&str] = &["config", "help", "version"];

/// Parses the arguments, then fills in from the file what they and the environment left open.
pub(super) fn matches(args: &[OsString], command: &clap::Command) -> Result<ArgMatches, Refusal> {
    let given = command.clone().try_get_matches_from(args)?;
    let Some(path) = given.get_one::<PathBuf>("config") else {
        return Ok(given);
    };
    let table = read(path)?;
    let Some((name, given)) = given.subcommand() else {
        return Ok(given);
    };
    let known = keys(command);
    let applicable: Vec<&clap::Arg> = command
        .get_arguments()
        .chain(
            command
                .find_subcommand(name)
                .into_iter()
                .flat_map(|c| c.get_arguments()),
        )
        .collect();

    let mut from_file = Vec::new();
    for (key, value) in &table {
        if !known.contains(key) {
            return Err(refuse(
                path,
                key,
                &format!("is not an option; the options are {}", known.join(", ")),
            ));
        }
        // A key of another command: the same file serves them all.
        let Some(arg) = applicable.iter().find(|arg| arg.get_long() == Some(key)) else {
            continue;
        };
        if !matches!(
            given.value_source(arg.get_id().as_str()),
            None | Some(ValueSource::DefaultValue)
        ) {
            continue;
        }
        let written = as_arguments(arg, value).map_err(|reason| refuse(path, key, &reason))?;
        command
            .clone()
            .try_get_matches_from(with(args, &written))
            .map_err(|error| refuse(path, key, &first_line(&error)))?;
        from_file.extend(written);
    }
    let all = with(args, &from_file);
    command
        .clone()
        .try_get_matches_from(all)
        .map_err(|error| Refusal::Usage(format!("{}: {}", path.display(), first_line(&error))))
}

fn read(path: &Path) -> Result<toml::Table, Refusal> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Refusal::Usage(format!(
            "--config {}: cannot be read: {error}",
            path.display()
        ))
    })?;
    text.parse().map_err(|error: toml::de::Error| {
        Refusal::Usage(format!(
            "--config {}: not valid TOML: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

/// Every key that some command understands.
fn keys(command: &clap::Command) -> Vec<String> {
    let mut keys: Vec<String> = std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(clap::Arg::get_long)
        .filter(|long| !NOT_IN_FILE.contains(long))
        .map(str::to_owned)
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The option as it would be written on the command line.
fn as_arguments(arg: &clap::Arg, value: &toml::Value) -> Result<Vec<OsString>, String> {
    let long = arg.get_long().unwrap_or_default();
    if !arg.get_action().takes_values() {
        let times = match value {
            toml::Value::Boolean(on) => i64::from(*on),
            toml::Value::Integer(times @ 0..=9) => *times,
            _ => return Err("expected true or false".to_owned()),
        };
        return Ok((0..times).map(|_| format!("--{long}").into()).collect());
    }
    let values = match value {
        toml::Value::Array(values) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    values
        .iter()
        .map(|value| match value {
            toml::Value::String(text) => Ok(format!("--{long}={text}").into()),
            toml::Value::Integer(number) => Ok(format!("--{long}={number}").into()),
            other => Err(format!(
                "expected text or a number, got {}",
                other.type_str()
            )),
        })
        .collect()
}

/// Adds options to the arguments, before a `--` that ends the options.
fn with(args: &[OsString], more: &[OsString]) -> Vec<OsString> {
    let end = args
        .iter()
        .position(|arg| arg == "--")
        .unwrap_or(args.len());
    let (options, rest) = args.split_at(end);
    [options, more, rest].concat()
}

fn refuse(path: &Path, key: &str, reason: &str) -> Refusal {
    Refusal::Usage(format!(
        "--config {}: key {key:?}: {reason}",
        path.display()
    ))
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::{Choice, Job, Settings, Verbosity};
    use super::*;

    fn load(file: &str, args: &[&str]) -> Result<Settings, String> {
        let mut config = tempfile::NamedTempFile::new().unwrap();
        config.write_all(file.as_bytes()).unwrap();
        let args = ["why502", "--config"]
            .map(OsString::from)
            .into_iter()
            .chain([config.path().into()])
            .chain(args.iter().map(OsString::from));
        Settings::load(args).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn a_file_sets_what_the_command_line_leaves_open() {
        let file = "for = \"5m\"\ncount = 3\nproxy = [\"nginx\", \"envoy\"]\njson = true\nverbose = 2\nsource = \"packets\"\nlisten = \"[::1]:80\"\n";
        let settings = load(file, &["capture", "--for", "10s"]).unwrap();
        assert_eq!(settings.verbosity, Verbosity::Everything);
        let Job::Capture(capture) = settings.job else {
            panic!("not a capture")
        };
        assert_eq!(capture.duration.as_secs(), 10);
        assert_eq!(capture.count, Some(3));
        assert_eq!(capture.watch.names, ["nginx", "envoy"]);
        assert_eq!(capture.watch.source, Choice::Packets);
        assert!(capture.json);
    }

    #[test]
    fn a_files_options_stay_options_after_a_double_dash() {
        let Job::Explain(explain) = load("json = true", &["explain", "--", "-x"]).unwrap().job
        else {
            panic!("not an explain")
        };
        assert!(explain.json);
        assert_eq!(explain.inputs.len(), 1);
    }

    #[test]
    fn errors_name_the_file_the_key_and_the_reason() {
        for (file, part) in [
            (
                "lissten = \"x\"",
                "key \"lissten\": is not an option; the options are container, count",
            ),
            ("config = \"x\"", "key \"config\": is not an option"),
            (
                "for = 60",
                "key \"for\": invalid value '60' for '--for <DURATION>'",
            ),
            ("json = \"yes\"", "key \"json\": expected true or false"),
            (
                "count = 1.5",
                "key \"count\": expected text or a number, got float",
            ),
            (
                "proxy = [[\"x\"]]",
                "key \"proxy\": expected text or a number, got array",
            ),
            ("for = ", "not valid TOML"),
            ("quiet = true\nverbose = true", "cannot be used with"),
        ] {
            let error = load(file, &["capture"]).unwrap_err();
            assert!(error.contains(part), "{file}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let args = ["why502", "--config", "/nonexistent/why502.toml", "run"];
        let error = Settings::load(args.map(OsString::from)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/nonexistent/why502.toml: cannot be read")
        );
    }
}
