//! The command line: its options, their help, and the exit codes. Nothing is decided here.
//!
//! Every option also has an environment variable (`WHY502_` and its name in capitals) and a key in
//! the configuration file (its long name). `config` turns what is parsed here into settings.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::config::{Choice, duration};
use crate::sinks::history;
use crate::sinks::otlp::Endpoint;
use crate::sinks::privacy::Privacy;
use crate::sinks::visible;
use crate::sources::process::Wanted;

/// The revision it was built from, as the build said.
pub const REVISION: &str = match option_env!("WHY502_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// How much is said on standard error: set once, before any work.
static VERBOSITY: AtomicU8 = AtomicU8::new(1);

/// Errors are always said; 0: nothing else, 1: warnings and notes, 2 and more: details.
pub fn say(level: u8) {
    VERBOSITY.store(level, Ordering::Relaxed);
}

/// Whether messages of this level are wanted.
pub fn says(level: u8) -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= level
}

/// A message to the person at the terminal, unless `--quiet`.
macro_rules! note {
    ($($arg:tt)*) => { if $crate::cli::says(1) { eprintln!($($arg)*) } };
}

/// The same, marked as a warning.
macro_rules! warning {
    ($($arg:tt)*) => { if $crate::cli::says(1) { eprintln!("warning: {}", format_args!($($arg)*)) } };
}

/// A message for those who asked for more with `--verbose`.
macro_rules! detail {
    ($($arg:tt)*) => { if $crate::cli::says(2) { eprintln!($($arg)*) } };
}

pub(crate) use {detail, note, warning};

/// How a command ended; the numbers are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The work was done, whatever was found.
    Done = 0,
    /// It could not be done.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// `--fail-on-verdict`, and there was one.
    VerdictFound = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Says why a command could not do its work. That the reader of its output left is no failure.
pub fn report_failure(error: &anyhow::Error) -> Exit {
    if is_closed_pipe(error) {
        return Exit::Done;
    }
    // Names of files and processes are in it: they must not write to the terminal.
    eprintln!("error: {}", visible(&format!("{error:#}")));
    Exit::Failed
}

/// Whether an error is only that the reader of our output went away, which is not a failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

const EXAMPLES: &str = "\
Examples:
  why502 check                      what this host lets it see, and what would show more
  why502 capture --for 5m           watch for five minutes, then say what failed and why
  why502 run --json >> verdicts     stay, serve metrics, write one line per failed response

Every option can also be set by the environment variable shown with it, or in the file given with
--config, where its key is its long name (for = \"5m\", proxy = [\"nginx\"], json = true). The
command line wins over the environment, the environment over the file.

Exit status: 0 the work was done, whatever was found; 1 it could not be done; 2 wrong usage;
3 with --fail-on-verdict when there was a verdict.";

/// Says why a reverse proxy answered 502, 503 or 504, from kernel facts.
#[derive(Debug, Parser)]
#[command(
    name = "why502",
    version,
    after_long_help = EXAMPLES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stay: serve metrics and write every verdict as it is made
    #[command(after_long_help = "\
Examples:
  why502 run                                   every known proxy on this host
  why502 run --proxy nginx --json              one JSON object per line on standard output
  why502 run --listen 0.0.0.0:9502 --privacy minimal

Without a proxy on the host it waits for one.")]
    Run(RunArgs),
    /// Watch for a while, show what fails as it happens, end with a summary
    #[command(after_long_help = "\
Examples:
  why502 capture                               60 seconds, every known proxy
  why502 capture --for 10m --count 1           until the first verdict, ten minutes at most
  why502 capture --fail-on-verdict --json      for scripts: status 3 when a response failed
  why502 capture --pod shop/web-66b6c48dd5-7xk2p   the proxy in this pod alone
  why502 capture --source packets -i eth0      without BPF: root or CAP_NET_RAW is enough
  why502 capture --record failures.jsonl       keep the facts, to be explained elsewhere
  why502 capture --report failures.html        one file with pictures, for a colleague
  why502 capture -w failures.pcapng            the packets of the failures, for Wireshark

It writes the line `ready` on standard error when it sees everything that it will: start the
load then.")]
    Capture(CaptureArgs),
    /// Give verdicts from a packet capture, a recording or logs, without any privilege
    #[command(after_long_help = "\
Examples:
  why502 explain trace.pcapng                  a capture of both sides of the proxy says most
  why502 explain proxy.pcap.gz --proxy-address 10.0.0.7
  ssh web-3 tcpdump -i any -s 2048 -w - | why502 explain -
  why502 explain failures.jsonl
  why502 explain --log error.log --log access.log    what the logs alone admit
  why502 explain trace.pcapng --log error.log        with the proxy's own word
  why502 explain trace.pcapng --report failures.html
  why502 explain trace.pcapng -w failures.pcapng    then: wireshark failures.pcapng
  zcat failures.jsonl.gz | why502 explain - --json")]
    Explain(ExplainArgs),
    /// Say what failed lately and why, from what `run` has kept
    #[command(after_long_help = "\
Examples:
  why502 report                             since yesterday at this time
  why502 report --since 8h --html last-night.html
  why502 report --since 7d --json           one JSON object per line, as `run --json` writes them

It may run beside `why502 run`, and as any user who may read the file.")]
    Report(ReportArgs),
    /// Say what this host lets why502 see, by which hook, and what is missing
    #[command(after_long_help = "\
Examples:
  why502 check
  why502 check --require connect_errors     status 1 unless this fact can be seen")]
    Check(CheckArgs),
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet",
          env = "WHY502_VERBOSE", hide_env_values = true)]
    pub verbose: u8,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, value_parser = BoolishValueParser::new(),
          env = "WHY502_QUIET", hide_env_values = true)]
    pub quiet: bool,
    /// Read settings from this TOML file; the keys are the long names of the options
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WHY502_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
}

/// Which processes are the proxies to watch.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Watch the proxies with this process name; can be repeated [default: every known proxy]
    ///
    /// Processes that start later are found too. Known are nginx, HAProxy, Envoy, Apache, Caddy,
    /// Traefik, h2o, Varnish and Squid; any other, such as one built on pingora, by its name.
    #[arg(long, value_name = "NAME", value_delimiter = ',', action = ArgAction::Append,
          value_parser = process_name, env = "WHY502_PROXY", hide_env_values = true)]
    pub proxy: Vec<String>,
    /// Watch this process and its children; can be repeated
    #[arg(long, value_name = "PID", value_delimiter = ',', action = ArgAction::Append,
          value_parser = clap::value_parser!(u32).range(1..=4_194_304),
          env = "WHY502_PID", hide_env_values = true)]
    pub pid: Vec<u32>,
    /// Watch only the proxies in this container; can be repeated
    ///
    /// The name that its engine gives it, or its pod does, or the first twelve digits of its id at
    /// least. In it the known proxies are watched, or those that --proxy names.
    #[arg(long, value_name = "NAME", value_delimiter = ',', action = ArgAction::Append,
          value_parser = container, env = "WHY502_CONTAINER", hide_env_values = true)]
    pub container: Vec<Wanted>,
    /// Watch only the proxies in this pod of Kubernetes; can be repeated
    #[arg(long, value_name = "NAMESPACE/NAME", value_delimiter = ',', action = ArgAction::Append,
          value_parser = pod, env = "WHY502_POD", hide_env_values = true)]
    pub pod: Vec<Wanted>,
    /// What watches: probes in the kernel, packets, or whichever this host allows
    ///
    /// Packets need no BPF, but do not show processes, Unix sockets and what was read. They are
    /// captured in the network namespaces of the proxies, or else in this one.
    #[arg(long, value_enum, value_name = "SOURCE", default_value_t = Choice::Auto,
          env = "WHY502_SOURCE", hide_env_values = true)]
    pub source: Choice,
    /// In packets, only this is a proxy's address; can be repeated [default: found]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', action = ArgAction::Append,
          value_parser = ip_address, env = "WHY502_PROXY_ADDRESS", hide_env_values = true)]
    pub proxy_address: Vec<IpAddr>,
    #[command(flatten)]
    pub logs: LogArgs,
    /// Follow no logs of proxies but those that --log names [default: those they hold open too]
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_NO_LOGS", hide_env_values = true)]
    pub no_logs: bool,
    /// Also read the status of responses in TLS, where proxies hand them to OpenSSL
    ///
    /// For nginx, HAProxy and Apache without a log that tells it. A uprobe on SSL_write in each
    /// libssl.so that a watched proxy has loaded: every program with that library pays for it. Not
    /// with --source packets or logs.
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_TLS_STATUS", hide_env_values = true)]
    pub tls_status: bool,
    /// The name of this host in verdicts [default: its host name]
    ///
    /// In a pod of Kubernetes the host name is the pod's.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(),
          env = "WHY502_NODE", hide_env_values = true)]
    pub node: Option<String>,
}

/// Which logs are read, and how.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Also read this log, of the proxy or of an upstream's server; can be repeated
    ///
    /// Error and access logs of nginx and Apache, HAProxy's, Envoy's, Caddy's, Traefik's and h2o's
    /// log, what varnishlog prints, what pingora and Go's ReverseProxy say of failed requests,
    /// gunicorn's and uWSGI's log, as files, from syslog or from containers. Several may also stand in
    /// one value, with commas between them. What a log is, is found by its lines. `run` and `capture`
    /// also listen for a proxy's syslog datagrams: syslog:127.0.0.1:5514, syslog:/run/why502/log.sock.
    #[arg(long, value_name = "FILE", value_delimiter = ',', action = ArgAction::Append,
          env = "WHY502_LOG", hide_env_values = true)]
    pub log: Vec<PathBuf>,
    /// The format of nginx's access logs: a name, or the format itself [default: found]
    #[arg(
        long,
        value_name = "NAME|FORMAT",
        env = "WHY502_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: Option<String>,
    /// Take formats of access logs from this nginx configuration [default: /etc/nginx/nginx.conf]
    ///
    /// Without it `run` and `capture` also read the configuration that each running nginx was started
    /// with, for that one's own logs.
    #[arg(
        long,
        value_name = "FILE",
        env = "WHY502_NGINX_CONFIG",
        hide_env_values = true
    )]
    pub nginx_config: Option<PathBuf>,
}

/// What is kept of the results, beside standard output.
#[derive(Debug, Args)]
pub struct KeptArgs {
    /// Also write one HTML file to send to a colleague: summary, every verdict and its ladder
    #[arg(
        long,
        value_name = "FILE.html",
        env = "WHY502_REPORT",
        hide_env_values = true
    )]
    pub report: Option<PathBuf>,
    /// Also write the packets of the failed exchanges, with comments that Wireshark shows in place
    ///
    /// Kept of payload are request lines without query and status lines; of paths and clients'
    /// addresses what --privacy shows.
    #[arg(
        short = 'w',
        long,
        value_name = "FILE.pcapng",
        env = "WHY502_PCAP",
        hide_env_values = true
    )]
    pub pcap: Option<PathBuf>,
    /// With --pcap, keep the packets' whole payload: headers, cookies, bodies
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_WITH_PAYLOAD", hide_env_values = true)]
    pub with_payload: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Serve /metrics, /healthz and /readyz here
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9502",
        env = "WHY502_LISTEN",
        hide_env_values = true
    )]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub watch: WatchArgs,
    /// How much of users' requests to show
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Privacy::Template,
          env = "WHY502_PRIVACY", hide_env_values = true)]
    pub privacy: Privacy,
    /// Write one JSON object per line; at most 50 verdicts a second of one cause and upstream
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_JSON", hide_env_values = true)]
    pub json: bool,
    /// Keep verdicts in this SQLite file, for `why502 report`: a month and 1 GiB at most
    #[arg(long, value_name = "FILE", default_value = history::DEFAULT_PATH,
          env = "WHY502_HISTORY", hide_env_values = true)]
    pub history: PathBuf,
    /// Keep no verdicts
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_NO_HISTORY", hide_env_values = true)]
    pub no_history: bool,
    /// Also send verdicts, as logs, and metrics to this OpenTelemetry receiver, over OTLP/HTTP
    ///
    /// /v1/logs and /v1/metrics are added to the URL: http://collector:4318, http://loki:3100/otlp.
    /// While the receiver is away 65,536 verdicts wait in memory; what is dropped is counted.
    #[arg(long, value_name = "URL", env = "WHY502_OTLP", hide_env_values = true)]
    pub otlp: Option<Endpoint>,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// How far back: 8h, 24h, 7d
    #[arg(long, value_name = "DURATION", default_value = "24h",
          value_parser = duration::parse, env = "WHY502_SINCE", hide_env_values = true)]
    pub since: Duration,
    /// Also write one HTML file to send to a colleague: summary, every verdict and its ladder
    #[arg(
        long,
        value_name = "FILE.html",
        env = "WHY502_HTML",
        hide_env_values = true
    )]
    pub html: Option<PathBuf>,
    /// Write one JSON object per line instead of the table
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_JSON", hide_env_values = true)]
    pub json: bool,
    /// Read the verdicts that `run` has kept in this file
    #[arg(long, value_name = "FILE", default_value = history::DEFAULT_PATH,
          env = "WHY502_HISTORY", hide_env_values = true)]
    pub history: PathBuf,
}

#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// How long to watch: 60s, 5m, 1h30m
    #[arg(long = "for", value_name = "DURATION", default_value = "60s",
          value_parser = duration::parse, env = "WHY502_FOR", hide_env_values = true)]
    pub duration: Duration,
    /// End after this many verdicts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
          env = "WHY502_COUNT", hide_env_values = true)]
    pub count: Option<u64>,
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Capture packets on this interface, where packets are what watches or --pcap wants them
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "any",
        env = "WHY502_INTERFACE",
        hide_env_values = true
    )]
    pub interface: String,
    /// End with status 3 when there was a verdict
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_FAIL_ON_VERDICT", hide_env_values = true)]
    pub fail_on_verdict: bool,
    /// How much of users' requests to show
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Privacy::Full,
          env = "WHY502_PRIVACY", hide_env_values = true)]
    pub privacy: Privacy,
    /// Write one JSON object per line instead of the table
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_JSON", hide_env_values = true)]
    pub json: bool,
    #[command(flatten)]
    pub kept: KeptArgs,
    /// Also keep every signal in this file, for `why502 explain`; it holds full paths and addresses
    #[arg(
        long,
        value_name = "FILE",
        env = "WHY502_RECORD",
        hide_env_values = true
    )]
    pub record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Packet captures (pcap, pcapng; plain, gzip or zstd), or recordings made by `why502 capture
    /// --record`; `-` is standard input; none where logs are all there is
    #[arg(value_name = "FILE", required_unless_present = "log")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub logs: LogArgs,
    /// In a packet capture, only this is a proxy's address; can be repeated [default: found]
    ///
    /// Without it, a proxy is found where a request arrives at an address and goes on from it. A
    /// capture of one side only may need the name.
    #[arg(long, value_name = "ADDR", value_delimiter = ',', action = ArgAction::Append,
          value_parser = ip_address, env = "WHY502_PROXY_ADDRESS", hide_env_values = true)]
    pub proxy_address: Vec<IpAddr>,
    /// How much of users' requests to show
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = Privacy::Full,
          env = "WHY502_PRIVACY", hide_env_values = true)]
    pub privacy: Privacy,
    /// Write one JSON object per line instead of the table
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_JSON", hide_env_values = true)]
    pub json: bool,
    #[command(flatten)]
    pub kept: KeptArgs,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// End with status 1 unless this fact can be seen; can be repeated
    #[arg(long, value_name = "FACT", value_delimiter = ',', action = ArgAction::Append,
          env = "WHY502_REQUIRE", hide_env_values = true)]
    pub require: Vec<String>,
    /// Write one JSON object per line
    #[arg(long, value_parser = BoolishValueParser::new(),
          env = "WHY502_JSON", hide_env_values = true)]
    pub json: bool,
}

/// An IP address; a port after it is for people.
fn ip_address(text: &str) -> Result<IpAddr, String> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    text.trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .or_else(|_| with_port())
        .map_err(|_| "expected an IP address, such as 10.0.0.7 or 2001:db8::7".to_owned())
}

/// A container's name as engines allow it.
fn container(text: &str) -> Result<Wanted, String> {
    let name = text.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err("expected a container's name, such as web, or its id".to_owned());
    }
    Ok(Wanted::Container(name.to_owned()))
}

fn pod(text: &str) -> Result<Wanted, String> {
    let parts = text.trim().split_once('/');
    let named = |part: &str| !part.is_empty() && !part.contains(['/', ' ']);
    match parts {
        Some((namespace, name)) if named(namespace) && named(name) => Ok(Wanted::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        _ => Err("expected a namespace and a pod's name, such as shop/web-0".to_owned()),
    }
}

/// A process name as the kernel keeps it: not a path, not empty.
fn process_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() {
        return Err("a process name cannot be empty".to_owned());
    }
    if let Some((_, last)) = name.rsplit_once('/') {
        return Err(format!("expected a process name, not a path; try {last:?}"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_accepts_the_definitions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_environment_variable() {
        let root = Cli::command();
        let commands = std::iter::once(&root).chain(root.get_subcommands());
        let mut seen = 0;
        for arg in commands.flat_map(clap::Command::get_arguments) {
            let Some(long) = arg.get_long() else { continue };
            if ["help", "version"].contains(&long) {
                continue;
            }
            let expected = format!("WHY502_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(
                arg.get_env().and_then(|e| e.to_str()),
                Some(expected.as_str()),
                "--{long}"
            );
            seen += 1;
        }
        assert!(seen > 15);
    }

    #[test]
    fn a_closed_pipe_is_recognised_through_its_context() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(
            &anyhow::Error::from(closed).context("write verdicts")
        ));
        assert!(!is_closed_pipe(&anyhow::anyhow!("broken pipe")));
    }
}
