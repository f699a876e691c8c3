//! Tomcat: one process with a thread for each request under way. What its servlet throws because there is
//! no memory ends a connection without a word; what it does not read of a body ends it, too.

use std::path::{Path, PathBuf, absolute};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use super::{Act, KEPT, Server, Speaks, Upstream, is_kept};
use crate::matrix::proxies::Target;
use crate::process::{self, Proc};
use crate::run::START;
use crate::software::{AppLog, provide};

const APP: &str = include_str!("../../../apps/Lab.java");
/// Nothing is looked for in any library.
const WEB: &str = r#"<web-app xmlns="https://jakarta.ee/xml/ns/jakartaee" version="6.0" metadata-complete="true">
  <absolute-ordering/>
  <servlet><servlet-name>lab</servlet-name><servlet-class>Lab</servlet-class>
    <load-on-startup>1</load-on-startup></servlet>
  <servlet-mapping><servlet-name>lab</servlet-name><url-pattern>/*</url-pattern></servlet-mapping>
</web-app>
"#;

/// Debian's `tomcat10-common`, which is no service, and what it comes with.
const HOME: &str = "/usr/share/tomcat10";
const SERVLETS: &str = "/usr/share/java/tomcat10-servlet-api.jar";
const COMPILER: &str = "/usr/share/java/eclipse-jdt-core.jar";
/// A small virtual machine that is up soon.
const MACHINE: [&str; 5] = [
    "-Xmx64m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
];

pub(super) const UPSTREAM: Upstream = Upstream {
    name: "tomcat",
    speaks: Speaks::Http,
    lacking: || {
        let missing = |file: &&&str| !Path::new(file).exists();
        match [HOME, SERVLETS, COMPILER].iter().find(missing) {
            Some(file) => Some(format!("there is no {file}")),
            None if process::program("java").is_none() => Some("java is not installed".to_owned()),
            None => None,
        }
    },
    ask: |act| {
        Some(match act {
            Act::Answer => String::new(),
            Act::Status(status) => format!("status={status}"),
            Act::Sleep(time) => format!("ms={}", time.as_millis()),
            Act::Neglect(time) => format!("do=neglect&ms={}", time.as_millis()),
            Act::CloseIdle(idle) if is_kept(idle) => "ms=40".to_owned(),
            Act::Close => "do=close".to_owned(),
            Act::BigHead => "do=big-head".to_owned(),
            Act::Reject => "do=reject".to_owned(),
            Act::Spurn => "do=spurn".to_owned(),
            _ => return None,
        })
    },
    start: |run, ns, to, _| {
        let app = application(&run.options.out)?;
        let base = absolute(&run.folder)?.join("tomcat");
        for folder in ["conf", "temp"] {
            std::fs::create_dir_all(base.join(folder))?;
        }
        std::fs::write(base.join("conf/server.xml"), configuration(to, &app))?;
        let log = AppLog::new(&base.join("app.log"));
        let mut command = ns.command("java");
        command
            .args(MACHINE)
            .arg(format!("-Dcatalina.home={HOME}"))
            .arg(format!("-Dcatalina.base={}", base.display()))
            .arg(format!("-Djava.io.tmpdir={}/temp", base.display()))
            .args([
                "-cp",
                &format!("{HOME}/bin/bootstrap.jar:{HOME}/bin/tomcat-juli.jar"),
            ])
            .args(["org.apache.catalina.startup.Bootstrap", "start"])
            .env("APP_LOG", log.file());
        let mut proc = Proc::spawn("tomcat", command, &run.folder.join("tomcat.log"))?;
        // Its port is bound before.
        proc.wait_ready("tomcat's servlet", START, || log.count("loaded") > 0)?;
        Ok(Server {
            log,
            pid: proc.pid(),
            running: Box::new(proc),
        })
    },
};

/// Idle connections are looked through every few milliseconds, so that a race can be aimed at.
fn configuration(to: &Target, app: &Path) -> String {
    let place = match to {
        Target::Tcp(address) => {
            format!("address=\"{}\" port=\"{}\"", address.ip(), address.port())
        }
        Target::Unix(path) => format!("unixDomainSocketPath=\"{}\"", path.display()),
    };
    let kept = KEPT.as_millis();
    format!(
        r#"<Server port="-1"><Service name="lab">
<Connector protocol="org.apache.coyote.http11.Http11NioProtocol" {place} keepAliveTimeout="{kept}"
  connectionTimeout="60000" selectorTimeout="5" maxHttpResponseHeaderSize="200000"/>
<Engine name="lab" defaultHost="lab"><Host name="lab" appBase="." autoDeploy="false" deployOnStartup="false">
<Context path="" docBase="{}" containerSciFilter=".*"><JarScanner scanClassPath="false" scanManifest="false"/>
</Context></Host></Engine></Service></Server>
"#,
        app.display()
    )
}

/// The model application's folder, compiled once for each run of the lab.
fn application(out: &Path) -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().expect("the building of the servlet");
    if let Some(folder) = &*built {
        return Ok(folder.clone());
    }
    let folder = absolute(out)?.join("tomcat");
    let inner = folder.join("WEB-INF");
    std::fs::create_dir_all(&inner)?;
    provide(&inner.join("web.xml"), WEB)?;
    let source = inner.join("Lab.java");
    provide(&source, APP)?;
    let output = Command::new("java")
        .args(MACHINE)
        .args(["-cp", COMPILER])
        .arg("org.eclipse.jdt.internal.compiler.batch.Main")
        .args([
            "-proc:none",
            "-nowarn",
            "--release",
            "11",
            "-cp",
            SERVLETS,
            "-d",
        ])
        .arg(inner.join("classes"))
        .arg(&source)
        .output()
        .context("run java")?;
    if !output.status.success() {
        bail!("the servlet: {}", String::from_utf8_lossy(&output.stderr));
    }
    *built = Some(folder.clone());
    Ok(folder)
}
