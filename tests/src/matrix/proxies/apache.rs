//! Apache httpd with mod_proxy_http and threads for clients.

use std::path::Path;

use super::{PORT, Proxy, Target, program, serve};

const MODULES: [&str; 4] = ["mpm_event", "proxy", "proxy_http", "authz_core"];

pub(super) const PROXY: Proxy = Proxy {
    name: "apache",
    process: "apache2",
    // It waits in connect() where a Unix socket's queue is full.
    unix: false,
    logs: &["apache-error.log", "apache-access.log"],
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
        for route in &wanted.routes {
            let to = match &route.to {
                Target::Tcp(address) => format!("http://{address}{}", route.folder),
                Target::Unix(path) => {
                    format!("unix:{}|http://back{}", path.display(), route.folder)
                }
            };
            text += &format!(
                "ProxyPass {} {to} retry=0 connectiontimeout={connect} timeout={patience}\n",
                route.folder
            );
        }
        let config = run.folder.join("apache.conf");
        std::fs::write(&config, text)?;
        let mut command = ns.command("apache2");
        command.arg("-f").arg(&config).arg("-DFOREGROUND");
        Ok(Box::new(serve(run, ns, "apache", command)?))
    },
};
