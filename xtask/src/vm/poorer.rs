//! What the agent says of the machine's kernel where that offers one thing less: the machines' commands, and
//! what they left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::result::{self, Fact};

const PREFIX: &str = "without-";
const TRACEFS: &str = "tracefs";
const BTF: &str = "BTF";

/// The agent's checks without each name that BTF has, without BTF, and without tracefs. What cannot be seen is a check's
/// status too.
pub(super) fn commands() -> [String; 3] {
    let check = |what: &str, option: &str| {
        format!("lab without {option} -- why502 check --json > {PREFIX}{what}.json 2>> without.err")
    };
    [
        format!(
            "for name in $(kernel_offer names); do {}; done; true",
            check("$name", "--btf $name")
        ),
        format!("{}; true", check(BTF, "--no-btf")),
        format!("{}; true", check(TRACEFS, "--tracefs")),
    ]
}

/// By what is missing, the lines that are not as in the whole check: once for each name offered, BTF, and tracefs.
pub(super) fn read(
    results: &Path,
    whole: &[Fact],
    offered: &BTreeSet<String>,
) -> Result<BTreeMap<String, Vec<Fact>>> {
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
    let lacking = |what: &&str| !without.contains_key(*what);
    let mut taken = offered.iter().map(String::as_str).chain([BTF, TRACEFS]);
    if let Some(what) = taken.find(lacking) {
        anyhow::bail!("there is no check without {what}");
    }
    Ok(without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_was_not_made_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let offered = BTreeSet::from(["a_hook".to_owned()]);
        let read = || {
            let without = read(folder.path(), &[], &offered);
            let names = without.map(|without| without.into_keys().collect::<Vec<_>>());
            names.map_err(|error| error.to_string())
        };
        let write = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        let lacking = |what| Err(format!("there is no check without {what}"));
        assert_eq!(read(), lacking("a_hook"));
        write("without-a_hook.json");
        assert_eq!(read(), lacking("BTF"));
        write("without-BTF.json");
        assert_eq!(read(), lacking("tracefs"));
        write("without-tracefs.json");
        let all = ["BTF", "a_hook", "tracefs"].map(str::to_owned).to_vec();
        assert_eq!(read(), Ok(all));
    }
}
