//! Apache httpd with mod_proxy_http and threads for clients.

use std::path::Path;

use super::{Again, Own, PORT, Proxy, Speaks, Target, program, serve};
use crate::matrix::upstreams::{SCRIPT, TRUSTED};

const MODULES: [&str; 10] = [
    "mpm_event",
    "alias",
    "proxy",
    "proxy_http",
    "proxy_fcgi",
    "ssl",
    "authz_core",
    "slotmem_shm",
    "lbmethod_byrequests",
    "proxy_balancer",
];

pub(super) const PROXY: Proxy = Proxy {
    name: "apache",
    process: "apache2",
    unix: true,
    speaks: &[Speaks::Http, Speaks::FastCgi, Speaks::Https],
    // To another server, and only of a route that has two.
    again: Again::Connects,
    times_sending: true,
    logs: &["apache-error.log", "apache-access.log"],
    nameless: &[],
    lacking: || program("apache2"),
    start: |run, ns, wanted| {
        // It counts in whole seconds.
        let seconds = |time: std::time::Duration| time.as_millis().div_ceil(1000);
        let (connect, patience) = (seconds(wanted.connect), seconds(wanted.patience));
        let folder = run.folder.join("apache");
        std::fs::create_dir_all(&folder)?;
        let mut text = String::new();
        for module in MODULES {
            let file = format!("/usr/lib/apache2/modules/mod_{module}.so");
            if Path::new(&file).exists() {
                text += &format!("LoadModule {module}_module {file}\n");
            }
        }
        text += &format!(
            "ServerName lab.example\nUser nobody\nGroup nogroup\nListen 127.0.0.1:{PORT}\n\
             PidFile {folder}/pid\nMutex file:{folder}\nErrorLog {log}\n\
             CustomLog {access_log} \"%h %l %u %t \\\"%r\\\" %>s %O \\\"%{{Referer}}i\\\" \\\"%{{User-Agent}}i\\\"\"\n\
             StartServers {workers}\nThreadsPerChild 25\n",
            folder = folder.display(),
            log = run.folder.join("apache-error.log").display(),
            access_log = run.folder.join("apache-access.log").display(),
            workers = wanted.workers,
        );
        let times = format!("retry=0 connectiontimeout={connect} timeout={patience}");
        if wanted
            .routes
            .iter()
            .any(|route| route.speaks == Speaks::Https)
        {
            text += &format!(
                "SSLProxyEngine on\nSSLProxyVerify require\nSSLProxyCACertificateFile {}\n",
                run.folder.join(TRUSTED).display()
            );
        }
        for (number, route) in wanted.routes.iter().enumerate() {
            let folder = route.folder;
            if route.speaks == Speaks::FastCgi {
                text += &format!(
                    "<Location {folder}>\nProxyPass fcgi://{}{folder} {times}\n\
                     ProxyFCGISetEnvIf true SCRIPT_FILENAME {}\n</Location>\n",
                    route.to,
                    run.folder.join(SCRIPT).display()
                );
                continue;
            }
            let scheme = match route.speaks {
                Speaks::Https => "https",
                _ => "http",
            };
            let address = |to: &Target| match to {
                Target::Tcp(address) => format!("{scheme}://{address}"),
                Target::Unix(path) => format!("unix:{}|http://back", path.display()),
            };
            let (mut times, mut set) = (times.clone(), "");
            match route.own {
                Some(Own::Answers) => {
                    text += &format!("Redirect 503 {folder}\n");
                    continue;
                }
                Some(Own::Queues(wait)) => {
                    times += &format!(" max=1 acquire={}", wait.as_millis());
                }
                Some(Own::TakesOut) => {
                    times = times.replace("retry=0", "retry=60");
                    set = "ProxySet forcerecovery=Off\n";
                }
                _ => {}
            }
            if route.own == Some(Own::LooksUp) {
                let to = route.address();
                text += &format!("ProxyPass {folder} http://{to}{folder} {times}\n");
                continue;
            }
            if route.or.is_none() && route.own != Some(Own::TakesOut) {
                let to = address(&route.to);
                text += &format!("ProxyPass {folder} {to}{folder} {times}\n");
                continue;
            }
            let member = |to| format!("BalancerMember {} {times}\n", address(to));
            let members: String = route.servers().map(member).collect();
            text += &format!(
                "<Proxy balancer://back{number}>\n{members}{set}</Proxy>\n\
                 ProxyPass {folder} balancer://back{number}{folder}\n"
            );
        }
        let config = run.folder.join("apache.conf");
        std::fs::write(&config, text)?;
        let mut command = ns.command("apache2");
        command.arg("-f").arg(&config).arg("-DFOREGROUND");
        Ok(Box::new(serve(run, ns, "apache", command)?))
    },
};
