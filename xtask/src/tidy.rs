//! The invariants of the house that can be read off its source, as tests: plain `cargo test`
//! enforces them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::shell;

/// Every Rust file below a folder of the repository, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![shell::root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no source in {folder}");
    found
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str();
        name == "tests" || name == "tests.rs"
    })
}

/// The lines of code that hold one of the words; comments may say anything.
fn offences(sources: &[(PathBuf, String)], words: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for (path, text) in sources {
        for (line, number) in text.lines().zip(1..) {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                all.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    all
}

/// Time, files and sockets reach `track` and `diagnose` inside signals only; that is why a
/// recording gives the same verdicts again.
#[test]
fn the_middle_is_pure() {
    let pure = ["agent/src/track", "agent/src/diagnose"];
    let files: Vec<_> = pure
        .iter()
        .flat_map(|folder| sources(folder))
        .filter(|(path, _)| !is_test(path))
        .collect();
    let found = offences(
        &files,
        &[
            "tokio",
            "async ",
            "Instant",
            "SystemTime",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "TcpStream",
            "UdpSocket",
            "UnixStream",
            "println!",
            "crate::sources",
            "crate::sinks",
            "crate::clock",
        ],
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The kernel half knows sockets and processes, not proxies, causes or advice.
#[test]
fn the_kernel_half_names_no_software() {
    let found = offences(
        &sources("agent-ebpf/src"),
        &[
            "nginx",
            "haproxy",
            "envoy",
            "gunicorn",
            "uwsgi",
            "keepalive_race",
            "502",
            "504",
        ],
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A test that cannot run says why and counts as skipped; a stub is no code.
#[test]
fn nothing_is_ignored_or_left_for_later() {
    // In two pieces, or this file would offend.
    let words = [
        concat!("#[ign", "ore"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
    ];
    for folder in ["agent", "agent-ebpf", "tests", "xtask"] {
        let found = offences(&sources(folder), &words);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// The first line of a file says what it is for.
#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["agent/src", "agent-ebpf/src", "xtask/src", "tests/src"] {
        for (path, text) in sources(folder) {
            assert!(
                is_test(&path) || text.starts_with("//! "),
                "{}",
                path.display()
            );
        }
    }
}
