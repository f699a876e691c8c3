//! What the agent says of the machine's kernel where that offers one thing less: the machines' commands, and
//! what they left.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::result::{self, Fact};

const PREFIX: &str = "without-";

/// The agent's checks without each name that BTF has, and without tracefs. What cannot be seen is a check's
/// status too.
pub(super) fn commands() -> [String; 2] {
    let check = |what: &str, option: &str| {
        format!("lab without {option} -- why502 check --json > {PREFIX}{what}.json 2>> without.err")
    };
    [
        format!(
            "for name in $(kernel_offer names); do {}; done; true",
            check("$name", "--btf $name")
        ),
        format!("{}; true", check("tracefs", "--tracefs")),
    ]
}

/// By what is missing, the lines that are not as in the whole check.
pub(super) fn read(results: &Path, whole: &[Fact]) -> Result<BTreeMap<String, Vec<Fact>>> {
    let mut without = BTreeMap::new();
    for entry in fs::read_dir(results)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some(what) = name
            .strip_prefix(PREFIX)
            .and_then(|name| name.strip_suffix(".json"))
        else {
            continue;
        };
        let mut lines = result::check(&entry.path())?;
        anyhow::ensure!(
            lines.len() == whole.len(),
            "check without {what} tells of {} facts, not of {}",
            lines.len(),
            whole.len()
        );
        lines.retain(|line| !whole.contains(line));
        without.insert(what.to_owned(), lines);
    }
    Ok(without)
}
