//! The README's commands for what needs no privilege, as they stand there, in their order.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// The lines of the README's shell blocks that explain a file.
fn commands(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("\n```").next().unwrap().lines());
    lines
        .filter(|line| line.starts_with("target/release/why502 explain "))
        .collect()
}

#[test]
fn what_the_readme_says_to_type_works_as_it_stands_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let commands = commands(&readme);
    assert!(commands.len() >= 5, "{commands:?}");

    // A person's folder: the program where the build leaves it, a capture, and the proxy's logs.
    let folder = tempfile::tempdir().unwrap();
    let release = folder.path().join("target/release");
    fs::create_dir_all(&release).unwrap();
    symlink(env!("CARGO_BIN_EXE_why502"), release.join("why502")).unwrap();
    for (from, to) in [
        ("captures/r02-post-fin-in-flight.pcap.gz", "trace.pcap"),
        ("logs/nginx/error.log", "error.log"),
        ("logs/nginx/access.log", "access.log"),
    ] {
        fs::copy(root.join("tests").join(from), folder.path().join(to)).unwrap();
    }
    for command in commands {
        let mut sh = Command::new("sh");
        sh.args(["-c", command]).current_dir(folder.path());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WHY502_") {
                sh.env_remove(name);
            }
        }
        let output = sh.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {error}");
        assert!(said.contains("502"), "{command}: {said}");
        if command.contains("trace.pcap") {
            assert!(said.contains("keepalive_race"), "{command}: {said}");
        }
        // What it is said to write is there.
        let words = command.split_whitespace().collect::<Vec<_>>();
        for pair in words
            .windows(2)
            .filter(|pair| ["--report", "-w"].contains(&pair[0]))
        {
            let size = fs::metadata(folder.path().join(pair[1])).unwrap().len();
            assert!(size > 0, "{command}");
        }
    }
}
