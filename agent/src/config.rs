//! The settings of one command, valid and complete: made from the command line, the environment
//! and the configuration file, in this order of precedence.

pub mod duration;
mod file;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, ValueEnum};

use crate::cli::{self, Cli, Command, Exit};
use crate::sinks::otlp::Endpoint;
use crate::sinks::privacy::Privacy;
use crate::sources::kernel::load::Asked;
use crate::sources::process::Wanted;

/// Process names of the proxies that are watched when none is named.
///
/// `cache-main` is the process of Varnish that talks to upstreams.
pub const KNOWN_PROXIES: &[&str] = &[
    "nginx",
    "haproxy",
    "envoy",
    "apache2",
    "httpd",
    "caddy",
    "traefik",
    "h2o",
    "varnishd",
    "cache-main",
    "squid",
];

/// libpcap's name for every interface at once.
pub const ANY_INTERFACE: &str = "any";

/// What to do, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub verbosity: Verbosity,
    /// This host's name, as verdicts carry it.
    pub node: String,
    pub job: Job,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    ErrorsOnly,
    Normal,
    Verbose,
    Everything,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    Run(Run),
    Capture(Capture),
    Explain(Explain),
    Report(Report),
    Check(Check),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub listen: SocketAddr,
    pub watch: Watch,
    pub privacy: Privacy,
    pub json: bool,
    /// Where verdicts are kept; `None`: nowhere.
    pub history: Option<PathBuf>,
    /// Who is sent verdicts and metrics.
    pub otlp: Option<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub duration: Duration,
    pub count: Option<u64>,
    pub watch: Watch,
    pub fail_on_verdict: bool,
    pub privacy: Privacy,
    pub json: bool,
    pub kept: Kept,
    pub record: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    pub inputs: Vec<Input>,
    pub logs: Logs,
    /// The proxies' own addresses; with none, they are found.
    pub proxies: Vec<IpAddr>,
    pub privacy: Privacy,
    pub json: bool,
    pub kept: Kept,
}

/// Files that are written beside standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub report: Option<PathBuf>,
    pub pcap: Option<PathBuf>,
    pub with_payload: bool,
}

/// Which logs are read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    pub files: Vec<PathBuf>,
    pub format: Option<String>,
    pub nginx_config: Option<PathBuf>,
}

impl From<cli::LogArgs> for Logs {
    fn from(args: cli::LogArgs) -> Logs {
        Logs {
            files: args.log,
            format: args.log_format,
            nginx_config: args.nginx_config,
        }
    }
}

impl Logs {
    /// For titles, as of inputs.
    pub fn inputs(&self) -> Vec<Input> {
        self.files.iter().cloned().map(Input::File).collect()
    }
}

impl From<cli::KeptArgs> for Kept {
    fn from(args: cli::KeptArgs) -> Kept {
        Kept {
            report: args.report,
            pcap: args.pcap,
            with_payload: args.with_payload,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Stdin,
    File(PathBuf),
}

impl Input {
    /// The names of several inputs without their folders, in a line that stays short.
    pub fn names(inputs: &[Input]) -> String {
        const NAMED: usize = 3;
        let name = |input: &Input| match input {
            Input::Stdin => "standard input".to_owned(),
            Input::File(path) => path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
        };
        let named: Vec<String> = inputs.iter().take(NAMED).map(name).collect();
        match inputs.len().saturating_sub(NAMED) {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub since: Duration,
    pub html: Option<PathBuf>,
    pub json: bool,
    pub history: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub require: Vec<String>,
    pub json: bool,
}

/// What watches live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Probes in the kernel, or packets where they cannot be used
    Auto,
    /// Probes in the kernel
    Kernel,
    /// Packets
    Packets,
    /// Logs alone
    Logs,
}

/// Which processes are proxies to watch, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub names: Vec<String>,
    pub pids: Vec<u32>,
    /// Names count in these containers and pods alone; with none, everywhere.
    pub places: Vec<Wanted>,
    pub source: Choice,
    /// Where packets are captured.
    pub interface: String,
    /// The proxies' own addresses in packets; with none, they are found.
    pub addresses: Vec<IpAddr>,
    pub logs: Logs,
    /// The logs that proxies hold open are followed as well.
    pub find_logs: bool,
    /// What probes tell only where it is asked for.
    pub asked: Asked,
}

impl Watch {
    fn new(args: cli::WatchArgs, interface: String) -> Watch {
        let places: Vec<Wanted> = args.container.into_iter().chain(args.pod).collect();
        let names = if args.proxy.is_empty() && (args.pid.is_empty() || !places.is_empty()) {
            KNOWN_PROXIES
                .iter()
                .map(|name| (*name).to_owned())
                .collect()
        } else {
            args.proxy
        };
        Watch {
            names,
            pids: args.pid,
            places,
            source: args.source,
            interface,
            addresses: args.proxy_address,
            logs: args.logs.into(),
            find_logs: !args.no_logs,
            asked: Asked {
                far_ends: false,
                tls_status: args.tls_status,
            },
        }
    }

    /// What is looked for, for people.
    pub fn wanted(&self) -> String {
        let places: Vec<String> = self.places.iter().map(ToString::to_string).collect();
        match places.is_empty() {
            true => self.names.join(", "),
            false => format!("{} in {}", self.names.join(", "), places.join(", ")),
        }
    }
}

impl Settings {
    /// Reads the arguments, the environment and the configuration file.
    pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Settings, Refusal> {
        let args: Vec<OsString> = args.into_iter().collect();
        let matches = file::matches(&args, &Cli::command())?;
        Settings::new(Cli::from_arg_matches(&matches)?)
    }

    fn new(cli: Cli) -> Result<Settings, Refusal> {
        let verbosity = match (cli.common.quiet, cli.common.verbose) {
            (true, _) => Verbosity::ErrorsOnly,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Verbose,
            (false, _) => Verbosity::Everything,
        };
        match &cli.command {
            Command::Explain(args) => {
                let read = [args.files.as_slice(), args.logs.log.as_slice()].concat();
                kept_is_possible(&args.kept, args.privacy, &read)?;
                if args.kept.pcap.is_some() && args.files.is_empty() {
                    let why = "--pcap: logs hold no packets; give a packet capture as well";
                    return Err(Refusal::Usage(why.to_owned()));
                }
            }
            Command::Capture(args) => {
                kept_is_possible(&args.kept, args.privacy, args.record.as_slice())?;
            }
            Command::Report(args) => {
                if let Some(html) = &args.html
                    && same_file(&args.history, html)
                {
                    return Err(Refusal::Usage(format!(
                        "--html {}: the same file is read; name another",
                        html.display()
                    )));
                }
            }
            Command::Run(_) | Command::Check(_) => {}
        }
        if let Command::Run(cli::RunArgs { watch, .. })
        | Command::Capture(cli::CaptureArgs { watch, .. }) = &cli.command
        {
            tls_status_is_possible(watch)?;
        }
        let named = match &cli.command {
            Command::Run(cli::RunArgs { watch, .. })
            | Command::Capture(cli::CaptureArgs { watch, .. }) => watch.node.clone(),
            _ => None,
        };
        let job = match cli.command {
            Command::Run(args) => Job::Run(Run {
                listen: args.listen,
                watch: {
                    let mut watch = Watch::new(args.watch, ANY_INTERFACE.to_owned());
                    // They meet the verdicts of those hosts where both are sent to.
                    watch.asked.far_ends = args.otlp.is_some();
                    watch
                },
                privacy: args.privacy,
                json: args.json,
                history: Some(args.history).filter(|_| !args.no_history),
                otlp: args.otlp,
            }),
            Command::Report(args) => Job::Report(Report {
                since: args.since,
                html: args.html,
                json: args.json,
                history: args.history,
            }),
            Command::Capture(args) => Job::Capture(Capture {
                duration: args.duration,
                count: args.count,
                watch: Watch::new(args.watch, args.interface),
                fail_on_verdict: args.fail_on_verdict,
                privacy: args.privacy,
                json: args.json,
                kept: args.kept.into(),
                record: args.record,
            }),
            Command::Explain(args) => Job::Explain(Explain {
                inputs: inputs(args.files, &args.logs)?,
                logs: args.logs.into(),
                proxies: args.proxy_address,
                privacy: args.privacy,
                json: args.json,
                kept: args.kept.into(),
            }),
            Command::Check(args) => Job::Check(Check {
                require: args.require,
                json: args.json,
            }),
        };
        Ok(Settings {
            verbosity,
            node: named.unwrap_or_else(host_name),
            job,
        })
    }
}

/// Who asks for what the chosen source cannot see would wait for it in vain.
fn tls_status_is_possible(watch: &cli::WatchArgs) -> Result<(), Refusal> {
    let source = match watch.source {
        Choice::Packets => "packets",
        Choice::Logs => "logs",
        Choice::Auto | Choice::Kernel => return Ok(()),
    };
    match watch.tls_status {
        true => Err(Refusal::Usage(format!(
            "--tls-status: only kernel probes read the status in TLS, and --source {source} starts none; \
             leave one of the two out"
        ))),
        false => Ok(()),
    }
}

/// What is written must not take the place of what is read, recorded or written beside it.
fn kept_is_possible(
    args: &cli::KeptArgs,
    privacy: Privacy,
    others: &[PathBuf],
) -> Result<(), Refusal> {
    // The report takes the place of what had its name.
    if let Some(report) = &args.report
        && others.iter().any(|other| same_file(other, report))
    {
        return Err(Refusal::Usage(format!(
            "--report {}: the same file is read or recorded; name another",
            report.display()
        )));
    }
    pcap_is_possible(args, privacy, others)
}

/// By name, or where they are there by what the names stand for.
fn same_file(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
    a == b || identity(a).is_some_and(|a| Some(a) == identity(b))
}

/// The annotated capture is emptied when the work begins, and holds what `--privacy` lets it.
fn pcap_is_possible(
    args: &cli::KeptArgs,
    privacy: Privacy,
    others: &[PathBuf],
) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::Usage(message));
    let Some(pcap) = &args.pcap else {
        return match args.with_payload {
            true => refuse("--with-payload: there is no --pcap that it could be in".to_owned()),
            false => Ok(()),
        };
    };
    if pcap.as_os_str() == "-" {
        return refuse("--pcap -: standard output is for the results; name a file".to_owned());
    }
    let mut others = others.iter().chain(&args.report);
    if others.any(|other| same_file(other, pcap)) {
        return refuse(format!(
            "--pcap {}: the same file is read or recorded or has the report; name another",
            pcap.display()
        ));
    }
    if args.with_payload && privacy != Privacy::Full {
        return refuse(
            "--with-payload: whole requests would be written, which only --privacy full allows"
                .to_owned(),
        );
    }
    Ok(())
}

fn inputs(files: Vec<PathBuf>, logs: &cli::LogArgs) -> Result<Vec<Input>, Refusal> {
    let streamed = logs.log.iter().filter(|log| log.as_os_str() == "-").count();
    if streamed > 0 && (streamed > 1 || !files.is_empty()) {
        return Err(Refusal::Usage(
            "--log -: standard input can be read only once, and only as the one input".to_owned(),
        ));
    }
    let inputs: Vec<Input> = files
        .into_iter()
        .map(|file| match file.as_os_str() == "-" {
            true => Input::Stdin,
            false => Input::File(file),
        })
        .collect();
    if inputs
        .iter()
        .filter(|input| **input == Input::Stdin)
        .count()
        > 1
    {
        return Err(Refusal::Usage(
            "standard input (-) was given more than once; it can be read only once".to_owned(),
        ));
    }
    Ok(inputs)
}

/// The host's name; a host without one is named by nothing else here, so say so.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Why there are no settings: wrong usage, or a request for help or the version.
#[derive(Debug)]
pub enum Refusal {
    Clap(Box<clap::Error>),
    Usage(String),
}

impl Refusal {
    /// Tells the user, and gives the status to end with.
    pub fn report(self) -> ExitCode {
        match self {
            Refusal::Clap(error) => {
                // Help goes to standard output; a reader that went away is not an error.
                let _ = error.print();
                match error.use_stderr() {
                    true => Exit::Usage.into(),
                    false => Exit::Done.into(),
                }
            }
            Refusal::Usage(message) => {
                eprintln!("error: {message}\n\nFor more information, try 'why502 --help'.");
                Exit::Usage.into()
            }
        }
    }
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Refusal {
        Refusal::Clap(Box::new(error))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Clap(error) => error.fmt(f),
            Refusal::Usage(message) => f.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests;
