//! Which software a process is, and whether its arguments name an address.

use crate::signal::{Address, Software};

/// By the executable, the process's name, and for interpreted programs by their arguments.
pub(super) fn recognise(name: &str, executable: Option<&str>, arguments: &[String]) -> Software {
    let title = arguments.first().map_or("", String::as_str);
    let executable = executable.unwrap_or(name).trim_end_matches(" (deleted)");
    for word in [executable, name] {
        match word {
            "nginx" => return Software::Nginx,
            "haproxy" => return Software::Haproxy,
            "envoy" => return Software::Envoy,
            "apache2" | "httpd" => return Software::Apache,
            "caddy" => return Software::Caddy,
            "h2o" => return Software::H2o,
            "varnishd" => return Software::Varnish,
            "node" | "nodejs" => return Software::Node,
            "gunicorn" => return Software::Gunicorn,
            "uvicorn" => return Software::Uvicorn,
            "puma" => return Software::Puma,
            _ if word.starts_with("uwsgi") => return Software::Uwsgi,
            _ if word.starts_with("php-fpm") => return Software::PhpFpm,
            _ => {}
        }
    }
    // Programs that rewrite their title.
    for (prefix, software) in [
        ("gunicorn: ", Software::Gunicorn),
        ("puma: ", Software::Puma),
        ("puma ", Software::Puma),
        ("nginx: ", Software::Nginx),
        ("php-fpm: ", Software::PhpFpm),
    ] {
        if title.starts_with(prefix) {
            return software;
        }
    }
    if executable.starts_with("java") {
        let tomcat = arguments
            .iter()
            .any(|a| a.starts_with("org.apache.catalina."));
        return if tomcat {
            Software::Tomcat
        } else {
            Software::Other
        };
    }
    if executable.starts_with("python") || executable.starts_with("ruby") {
        // The script, or the module after -m: among the first few words.
        for word in arguments.iter().skip(1).take(4) {
            match base(word) {
                "gunicorn" => return Software::Gunicorn,
                "uvicorn" => return Software::Uvicorn,
                "puma" => return Software::Puma,
                _ => {}
            }
        }
    }
    Software::Other
}

pub(super) fn is_proxy(software: Software) -> bool {
    matches!(
        software,
        Software::Nginx | Software::Haproxy | Software::Envoy | Software::Caddy | Software::Varnish
    )
}

/// The option by which a server's command line names this address; `--port` for a bare argument.
///
/// A client's command line names addresses as well, so short options and bare arguments count only
/// for programs that run someone's script.
pub(super) fn naming(
    executable: &str,
    arguments: &[String],
    address: &Address,
) -> Option<&'static str> {
    if is_client(executable) {
        return None;
    }
    let script = runs_scripts(executable);
    let mut before: Option<&str> = None;
    for word in arguments.iter().skip(1).take(256) {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with('-') => (Some(option), value),
            _ => (before, word.as_str()),
        };
        if names(value, address) {
            let long = option.and_then(serving_option);
            return long.or_else(|| (script && option.is_none_or(short)).then_some("--port"));
        }
        before = word.starts_with('-').then_some(word.as_str());
    }
    None
}

/// `PORT` and its like; every child of a shell inherits them, so only of a script's interpreter.
pub(super) fn named_by_environment(
    executable: &str,
    environment: &[String],
    address: &Address,
) -> bool {
    let port = |name: &str| matches!(name, "PORT" | "LISTEN" | "BIND" | "SAGEMAKER_BIND_TO_PORT");
    runs_scripts(executable)
        && environment
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .any(|(name, value)| port(name) && names(value, address))
}

fn serving_option(option: &str) -> Option<&'static str> {
    match option {
        "--bind" | "-b" => Some("--bind"),
        "--socket" | "-s" => Some("--socket"),
        "--http-socket" => Some("--http-socket"),
        "--http" => Some("--http"),
        "--port" | "--listen" | "--listen-address" | "--address" | "--addr" => Some("--port"),
        _ => None,
    }
}

fn short(option: &str) -> bool {
    option.len() == 2
}

fn runs_scripts(executable: &str) -> bool {
    [
        "python", "node", "ruby", "perl", "java", "php", "gunicorn", "uwsgi", "uvicorn", "puma",
    ]
    .iter()
    .any(|program| executable.starts_with(program))
}

/// Programs that are told addresses in order to connect to them.
fn is_client(executable: &str) -> bool {
    const CLIENTS: &[&str] = &[
        "curl",
        "wget",
        "nc",
        "ncat",
        "socat",
        "ssh",
        "telnet",
        "ab",
        "wrk",
        "hey",
        "h2load",
        "k6",
        "mysql",
        "mariadb",
        "psql",
        "redis-cli",
        "mongo",
        "mongosh",
        "openssl",
        "tcpdump",
        "tshark",
        "why502",
    ];
    CLIENTS.contains(&executable)
}

fn names(word: &str, address: &Address) -> bool {
    match address.0.strip_prefix("unix:") {
        Some(path) => word.strip_prefix("unix:").unwrap_or(word) == path,
        None => address.0.rsplit_once(':').is_some_and(|(_, port)| {
            word == port
                || word == address.0
                || word
                    .strip_suffix(port)
                    .is_some_and(|host| host.ends_with(':'))
        }),
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn software_by_executable_title_or_script() {
        for (name, executable, line, software) in [
            (
                "nginx",
                Some("nginx"),
                "nginx: worker process",
                Software::Nginx,
            ),
            (
                "gunicorn",
                Some("python3.11"),
                "/usr/bin/python3 /usr/bin/gunicorn app",
                Software::Gunicorn,
            ),
            (
                "python3",
                Some("python3.11"),
                "python3 -m gunicorn -w 4 app",
                Software::Gunicorn,
            ),
            (
                "gunicorn: worke",
                None,
                "gunicorn: worker [app]",
                Software::Gunicorn,
            ),
            ("MainThread", Some("node"), "node server.js", Software::Node),
            (
                "uwsgi",
                Some("uwsgi-core"),
                "uwsgi --ini x.ini",
                Software::Uwsgi,
            ),
            (
                "java",
                Some("java"),
                "java org.apache.catalina.startup.Bootstrap",
                Software::Tomcat,
            ),
            // The process that talks to clients and upstreams.
            (
                "cache-main",
                Some("varnishd"),
                "varnishd -F -a :80",
                Software::Varnish,
            ),
            (
                "python3",
                Some("python3.11"),
                "python3 app.py",
                Software::Other,
            ),
            (
                "nginx-exporter",
                Some("nginx-exporter"),
                "nginx-exporter",
                Software::Other,
            ),
            ("\n", None, "", Software::Other),
        ] {
            // Who rewrites its title leaves one string.
            let title = line.contains(": ");
            let arguments = if title {
                vec![line.to_owned()]
            } else {
                words(line)
            };
            assert_eq!(recognise(name, executable, &arguments), software, "{line}");
        }
    }

    #[test]
    fn an_address_on_a_command_line() {
        let tcp = Address("127.0.0.1:9000".into());
        let unix = Address("unix:/run/app.sock".into());
        for (line, address, option) in [
            ("curl 127.0.0.1:9000", &tcp, None),
            ("nc 127.0.0.1 9000", &tcp, None),
            ("server 9000", &tcp, None),
            ("server --port 9000", &tcp, Some("--port")),
            ("python3 slow.py -p 9000", &tcp, Some("--port")),
            ("python3 slow.py --workers 9000", &tcp, None),
            ("gunicorn -b :9000 app", &tcp, Some("--bind")),
            ("python3 slow.py 9000", &tcp, Some("--port")),
            ("python3 slow.py --bind 0.0.0.0:9000", &tcp, Some("--bind")),
            (
                "gunicorn --bind=unix:/run/app.sock app",
                &unix,
                Some("--bind"),
            ),
            ("python3 slow.py 19000", &tcp, None),
            ("python3 slow.py /run/app.sock.old", &unix, None),
        ] {
            let words = words(line);
            assert_eq!(naming(&words[0], &words, address), option, "{line}");
        }
    }
}
