//! Builds the kernel half and leaves it at `OUT_DIR/probes`, for the agent to embed; `libpcap` says
//! how that library is linked.
//!
//! Rust for the BPF target needs three things: a compiler, the source of `core` that belongs to
//! it, and `bpf-linker` for the same LLVM. `choose` is the one place that decides which are used.
//! Where they are missing the object is left empty, so that everything but the kernel source
//! builds and tests on a bare stable toolchain; the agent then says that it has no kernel half.

#[path = "build/libpcap.rs"]
mod libpcap;

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const COMPILER: &str = "WHY502_BPF_RUSTC";
const LINKER: &str = "WHY502_BPF_LINKER";
/// Debian's packages put a compiler here; it never is rustup's.
const SYSTEM_COMPILER: &str = "/usr/bin/rustc";
/// aya-ebpf needs this much.
const OLDEST_COMPILER: (u32, u32) = (1, 87);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let root = root()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let stamp = stamp(&root);
    // `cargo xtask setup` writes the stamp, so a toolchain that arrives later is noticed.
    for path in [
        "agent-ebpf/src",
        "agent-ebpf/Cargo.toml",
        "Cargo.toml",
        "agent/build.rs",
        "agent/build",
    ] {
        watch(&root.join(path));
    }
    watch(&stamp);
    for name in [COMPILER, LINKER] {
        println!("cargo:rerun-if-env-changed={name}");
    }

    libpcap::link(&out)?;

    let object = out.join("probes");
    let description = match choose(&root) {
        Ok(toolchain) => {
            watch(&toolchain.linker);
            compile(&toolchain, &root, &out, &object)?;
            toolchain.to_string()
        }
        Err(missing) => {
            for line in missing {
                println!("cargo:warning=no kernel half: {line}");
            }
            println!(
                "cargo:warning=the agent will not see kernel facts; `cargo xtask setup` installs \
                 what is missing"
            );
            fs::write(&object, [])?;
            "absent".to_owned()
        }
    };
    println!("cargo:rustc-env=WHY502_KERNEL_HALF={description}");
    Ok(())
}

/// What builds the kernel half.
struct Toolchain {
    whose: &'static str,
    version: String,
    linker: PathBuf,
    /// The compiler to name to cargo; `None` when `cargo` already is the right toolchain's.
    compiler: Option<PathBuf>,
    /// The command that starts cargo.
    cargo: Vec<String>,
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.version, self.whose)
    }
}

/// The toolchain for the kernel half, or what is missing, a line each.
fn choose(root: &Path) -> std::result::Result<Toolchain, Vec<String>> {
    let linker = linker(root);
    let cargo = vec![env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())];
    let mut missing = Vec::new();
    let mut found = None;

    if let Some(path) = env::var_os(COMPILER) {
        let path = PathBuf::from(path);
        match usable(&[path.display().to_string()]) {
            Ok(version) => found = Some((COMPILER, version, Some(path), cargo)),
            // A person who names a compiler wants that one or none.
            Err(why) => return Err(vec![format!("{COMPILER}={}: {why}", path.display())]),
        }
    } else {
        let own = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let nightly = ["rustup", "run", "nightly", "cargo"]
            .map(str::to_owned)
            .to_vec();
        let system = PathBuf::from(SYSTEM_COMPILER);
        let candidates = [
            (
                "Debian's compiler",
                vec![SYSTEM_COMPILER.to_owned()],
                Some(system),
                cargo.clone(),
            ),
            (
                "the toolchain in use",
                vec![own.clone()],
                Some(PathBuf::from(own)),
                cargo,
            ),
            (
                "rustup's nightly",
                ["rustup", "run", "nightly", "rustc"]
                    .map(str::to_owned)
                    .to_vec(),
                None,
                nightly,
            ),
        ];
        for (whose, command, compiler, cargo) in candidates {
            match usable(&command) {
                Ok(version) => {
                    found = Some((whose, version, compiler, cargo));
                    break;
                }
                Err(why) => missing.push(format!("{whose}: {why}")),
            }
        }
        if found.is_none() {
            missing.push(
                "install Debian's rustc-web and rust-web-src, or `rustup toolchain install \
                 nightly --component rust-src`"
                    .to_owned(),
            );
        }
    }

    match (found, linker) {
        (Some((whose, version, compiler, cargo)), Some(linker)) => Ok(Toolchain {
            whose,
            version,
            linker,
            compiler,
            cargo,
        }),
        (found, linker) => {
            if found.is_some() {
                missing.clear();
            }
            if linker.is_none() {
                missing.push("bpf-linker is neither in target/tools/bin nor on PATH".to_owned());
            }
            Err(missing)
        }
    }
}

/// The compiler's version, if it is new enough and has the source of `core`.
fn usable(compiler: &[String]) -> std::result::Result<String, String> {
    let ask = |question: &[&str]| {
        let output = rustless(compiler)
            .args(question)
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("cannot be run ({error})"))?;
        if !output.status.success() {
            return Err("is not installed".to_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let version = ask(&["--version"])?;
    let sysroot = ask(&["--print", "sysroot"])?;
    let number = version.split([' ', '-']).nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < OLDEST_COMPILER {
        let (major, minor) = OLDEST_COMPILER;
        return Err(format!("{version} is older than {major}.{minor}"));
    }
    let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/Cargo.lock");
    if !core.exists() {
        return Err(format!("{version} has no source of core"));
    }
    // `rustc 1.96.0 (hash date) (built from …)`: the first two words name it.
    Ok(version.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

/// The linker a person names, the one that `cargo xtask setup` built, or the one on PATH.
fn linker(root: &Path) -> Option<PathBuf> {
    if let Some(path) = env::var_os(LINKER) {
        return Some(PathBuf::from(path));
    }
    let private = root.join("target/tools/bin/bpf-linker");
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(private)
        .chain(env::split_paths(&path).map(|folder| folder.join("bpf-linker")))
        .find(|candidate| candidate.is_file())
}

fn compile(toolchain: &Toolchain, root: &Path, out: &Path, object: &Path) -> Result<()> {
    let (target, arch) = match (
        env::var("CARGO_CFG_TARGET_ENDIAN").as_deref(),
        env::var("CARGO_CFG_TARGET_ARCH")?,
    ) {
        (Ok("big"), arch) => ("bpfeb-unknown-none", arch),
        (_, arch) => ("bpfel-unknown-none", arch),
    };
    // One folder for every profile of the agent: the kernel half is always a release build. It
    // must not be the folder of the cargo that is waiting for this script.
    let folder = out
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(out)
        .join("bpf");
    let mut cargo = rustless(&toolchain.cargo);
    if let Some(compiler) = &toolchain.compiler {
        cargo.env("RUSTC", compiler);
    }
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    let output = cargo
        .current_dir(root)
        // Stable compilers take -Z options with this; nightly ones do not mind.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .args([
            "build",
            "--release",
            "-Z",
            "build-std=core",
            "--target",
            target,
        ])
        .args([
            "--package",
            "agent-ebpf",
            "--features",
            "kernel",
            "--bin",
            "probes",
        ])
        .arg("--target-dir")
        .arg(&folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    if !output.status.success() {
        return Err(format!("the kernel half does not build with {toolchain}").into());
    }
    pass_on_warnings(&said);
    let built = folder.join(target).join("release/probes");
    fs::copy(&built, object).map_err(|error| format!("copy {}: {error}", built.display()))?;
    strip(object);
    Ok(())
}

/// What a script's own output says is shown by no cargo: warnings would go unseen.
fn pass_on_warnings(said: &str) {
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(warning) = line.strip_prefix("warning: ") else {
            continue;
        };
        let place = lines
            .peek()
            .and_then(|next| next.trim().strip_prefix("--> "));
        let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
        println!("cargo:warning=kernel half: {place}{warning}");
    }
}

/// Drops DWARF, which made the BTF and is of no more use: four fifths of the object, all of which
/// the agent would parse at each start. Without the tool the object is larger, and works.
fn strip(object: &Path) {
    let tools = (19..40)
        .rev()
        .map(|major| format!("/usr/lib/llvm-{major}/bin/llvm-objcopy"));
    let Some(tool) = tools.into_iter().find(|tool| Path::new(tool).exists()) else {
        return;
    };
    let stripped = object.with_extension("stripped");
    let done = Command::new(tool)
        .arg("--strip-debug")
        .arg(object)
        .arg(&stripped)
        .status();
    if done.is_ok_and(|status| status.success()) {
        let _ = fs::rename(stripped, object);
    }
}

/// A command free of what the outer cargo and its wrappers (clippy, say) told their children.
fn rustless(command: &[String]) -> Command {
    let mut result = Command::new(&command[0]);
    result.args(&command[1..]);
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTUP_TOOLCHAIN",
    ] {
        result.env_remove(name);
    }
    result
}

fn root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let parent = Path::new(&manifest)
        .parent()
        .ok_or("the agent has no workspace")?;
    Ok(parent.to_owned())
}

/// The file whose change says that the toolchain changed. Made here if need be: cargo takes a
/// missing file for a changed one, and would rebuild the agent each time.
fn stamp(root: &Path) -> PathBuf {
    let path = root.join("target/tools/bpf-toolchain");
    if !path.exists() {
        if let Some(folder) = path.parent() {
            let _ = fs::create_dir_all(folder);
        }
        let _ = fs::write(&path, []);
    }
    path
}

fn watch(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}
