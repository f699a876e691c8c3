//! `cargo xtask demo`: real servers on loopback, broken on purpose, each failure explained.

mod acts;
mod apps;
mod nginx;
mod story;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use self::acts::{ACTS, Played, Stage};
use self::nginx::{Nginx, Upstreams};
use crate::agent::Agent;
use crate::{build, http, process, setup, shell};

/// A Unix socket's path may have 107 bytes; the longest name here needs some of them.
const LONGEST_FOLDER: usize = 85;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Break things without why502 beside them: what a person sees today
    #[arg(long)]
    without: bool,
    /// Play only these acts
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=5))]
    act: Vec<u8>,
    /// Use this why502 instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "without")]
    why502: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.without && !shell::is_root() {
        bail!("the demo loads probes into the kernel: run it as root");
    }
    process::end_all_when_interrupted();
    process::adopt_orphans();
    let program = match (&args.why502, args.without) {
        (_, true) => {
            setup::run(&setup::Args::default())?;
            None
        }
        (Some(file), _) => Some(file.canonicalize()?),
        (None, _) => Some(build::run(&build::Args { release: true })?),
    };

    let start = Instant::now();
    let folder = folder();
    process::fresh_folder(&folder)?;
    let (_database, database) = apps::silent_database()?;
    let (orders, payments) = (http::free_address()?.port(), http::free_address()?.port());
    let socket = |name| apps::socket(&folder, name);
    let upstreams = Upstreams {
        shop: socket("shop"),
        orders,
        payments,
        model: socket("model"),
        strict: socket("strict"),
        patient: socket("patient"),
    };
    println!("\nnginx, gunicorn and Node.js run in {}", folder.display());
    let nginx = Nginx::start(&folder, &upstreams)?;
    let agent = match &program {
        Some(program) => Some(Agent::start(program, &folder, nginx.pid(), |command| {
            println!("$ {}", shell::line(command));
        })?),
        None => None,
    };
    let stage = Stage {
        folder: &folder,
        nginx: &nginx,
        orders,
        payments,
        database,
    };

    let mut wrong = 0;
    for (act, number) in ACTS.iter().zip(1u8..) {
        if !args.act.is_empty() && !args.act.contains(&number) {
            continue;
        }
        story::open(number.into(), ACTS.len(), act);
        let (log, seen) = (nginx.mark(), agent.as_ref().map_or(0, Agent::mark));
        let Played { cases, upstreams } = (act.play)(&stage)?;
        story::outside(&cases, &nginx.complaints(log));
        if let Some(agent) = &agent {
            let failures = cases.iter().filter(|case| case.answer.failed()).count();
            let lines = agent.since(seen, failures);
            story::inside(&lines);
            wrong += story::judge(&cases, &lines);
        }
        drop(upstreams);
    }

    if let Some(agent) = agent {
        println!(
            "\nThe same in Prometheus (http://{}/metrics):",
            agent.address()
        );
        story::metrics(&agent.metrics());
        agent.stop()?;
    }
    nginx.stop()?;
    println!(
        "\nThat took {} s. Configurations and logs are in {}.",
        start.elapsed().as_secs(),
        folder.display()
    );
    if wrong > 0 {
        bail!("{wrong} labels are not what was broken");
    }
    Ok(())
}

fn folder() -> PathBuf {
    let folder = shell::target().join("demo");
    if folder.as_os_str().len() <= LONGEST_FOLDER {
        folder
    } else {
        std::env::temp_dir().join("why502-demo")
    }
}
