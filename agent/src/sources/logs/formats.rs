//! Which formats access lines may have: given by a person, or written in the configurations that the nginx
//! which runs here was started with.
//!
//! A configuration counts for the logs of its own nginx alone: one in a container says nothing of how another's
//! lines are to be read.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::Template;
use super::find;
use crate::sources::process::{self, LogFormat};

/// The formats of all logs that are followed.
pub struct Formats {
    /// Any log may have these.
    common: Arc<[Template]>,
    /// By process: what its own logs may have. `None`: a person has said which formats there are.
    own: Option<HashMap<u32, Arc<[Template]>>>,
}

impl Formats {
    /// These and no others.
    pub fn given(templates: Arc<[Template]>) -> Formats {
        Formats {
            common: templates,
            own: None,
        }
    }

    /// These, and what configurations of processes say.
    pub fn found(common: Arc<[Template]>) -> Formats {
        Formats {
            common,
            own: Some(HashMap::new()),
        }
    }

    /// Those that are known without a configuration, what this host's default one says, and the processes'.
    pub fn of_host(pids: &[u32]) -> Formats {
        let mut all = read(Path::new(process::NGINX_CONFIG)).unwrap_or_default();
        all.extend(Template::known());
        let mut formats = Formats::found(all.into());
        formats.know(pids);
        formats
    }

    /// Looks at processes that are new, and forgets those that are not among these.
    pub fn know(&mut self, pids: &[u32]) {
        self.know_by(pids, process::nginx_master, process::nginx_formats_of);
    }

    fn know_by(
        &mut self,
        pids: &[u32],
        master: impl Fn(u32) -> Option<u32>,
        formats: impl Fn(u32) -> Vec<LogFormat>,
    ) {
        let Some(own) = &mut self.own else { return };
        own.retain(|pid, _| pids.contains(pid));
        // Of a master with many workers once; after a reload, which gives it others, anew.
        let mut read: HashMap<u32, Arc<[Template]>> = HashMap::new();
        for &pid in pids {
            if own.contains_key(&pid) {
                continue;
            }
            let templates = match master(pid) {
                None => Arc::clone(&self.common),
                Some(master) => {
                    let read = read.entry(master);
                    let read = read.or_insert_with(|| with(formats(master), &self.common));
                    Arc::clone(read)
                }
            };
            own.insert(pid, templates);
        }
    }

    /// These processes, by the formats that their logs may have.
    pub fn groups(&self, pids: &[u32]) -> Vec<(Arc<[Template]>, Vec<u32>)> {
        let mut groups: Vec<(Arc<[Template]>, Vec<u32>)> = Vec::new();
        for &pid in pids {
            let templates = self.of(pid);
            match groups.iter_mut().find(|(known, _)| *known == templates) {
                Some((_, pids)) => pids.push(pid),
                None => groups.push((templates, vec![pid])),
            }
        }
        groups
    }

    /// What the logs of this process may have.
    pub fn of(&self, pid: u32) -> Arc<[Template]> {
        let own = self.own.as_ref().and_then(|own| own.get(&pid));
        Arc::clone(own.unwrap_or(&self.common))
    }

    /// What a log may have whose writer is not known: also what the processes' configurations say that
    /// share this one's root.
    pub fn of_named(&self) -> Arc<[Template]> {
        self.of_named_by(find::shares_root)
    }

    fn of_named_by(&self, shares_root: impl Fn(u32) -> bool) -> Arc<[Template]> {
        let own = self.own.iter().flatten();
        // In an order of their own, not the map's.
        let pids: BTreeSet<u32> = own.map(|(pid, _)| *pid).collect();
        let mut all = self.common.to_vec();
        for pid in pids.into_iter().filter(|pid| shares_root(*pid)) {
            let templates = self.of(pid);
            let new = templates.iter().filter(|one| !self.common.contains(one));
            for one in new {
                if !all.contains(one) {
                    all.push(one.clone());
                }
            }
        }
        match all.len() == self.common.len() {
            true => Arc::clone(&self.common),
            false => all.into(),
        }
    }
}

/// The formats that a configuration of nginx names; `None` if it cannot be read.
pub fn read(config: &Path) -> Option<Vec<Template>> {
    Some(templates(&process::nginx_log_formats(config)?).collect())
}

fn templates(formats: &[LogFormat]) -> impl Iterator<Item = Template> {
    let new = |f: &LogFormat| Template::new(&f.name, &f.format, &f.escape);
    formats.iter().filter_map(new)
}

/// First what a configuration says of itself. A line that names no client may be of several requests alike:
/// such a format has to be given by a person.
fn with(mut formats: Vec<LogFormat>, common: &Arc<[Template]>) -> Arc<[Template]> {
    formats.retain(|one| one.format.contains("$remote_addr"));
    let own = templates(&formats).filter(|one| !common.contains(one));
    let mut all: Vec<Template> = own.collect();
    if all.is_empty() {
        return Arc::clone(common);
    }
    all.extend(common.iter().cloned());
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats(name: &str) -> Vec<LogFormat> {
        vec![LogFormat {
            name: name.to_owned(),
            format: format!("{name} $remote_addr $msec $status"),
            escape: "default".to_owned(),
        }]
    }

    /// 10 and 11 are workers of 1, 20 is one of 2, 30 is no nginx.
    fn known(all: &mut Formats, pids: &[u32]) {
        let master = |pid| (pid < 30).then_some(pid / 10);
        all.know_by(pids, master, |master| formats(&format!("of{master}")));
    }

    fn names(templates: &[Template]) -> Vec<&str> {
        templates.iter().map(|t| t.name.as_str()).collect()
    }

    fn common() -> Arc<[Template]> {
        templates(&formats("common")).collect::<Vec<_>>().into()
    }

    #[test]
    fn each_nginx_has_the_formats_of_its_own_configuration_first() {
        let mut all = Formats::found(common());
        known(&mut all, &[10, 11, 20, 30]);
        assert_eq!(names(&all.of(10)), ["of1", "common"]);
        assert_eq!(names(&all.of(20)), ["of2", "common"]);
        assert_eq!(names(&all.of(30)), ["common"]);
        let groups = all.groups(&[10, 11, 20, 30]);
        let pids: Vec<_> = groups.into_iter().map(|(_, pids)| pids).collect();
        assert_eq!(pids, [vec![10, 11], vec![20], vec![30]]);
        // One whose lines name no client is not taken by itself.
        let mut nameless = Formats::found(common());
        let format = || LogFormat {
            format: "$msec $request $status".to_owned(),
            ..formats("nameless").remove(0)
        };
        nameless.know_by(&[10], |_| Some(1), |_| vec![format()]);
        assert_eq!(names(&nameless.of(10)), ["common"]);
        // One that is gone is forgotten: another may have its number.
        known(&mut all, &[11, 30]);
        assert_eq!(names(&all.of(20)), ["common"]);
    }

    #[test]
    fn a_log_that_a_person_names_may_be_any_that_shares_its_files() {
        let mut all = Formats::found(common());
        known(&mut all, &[20, 10, 30]);
        let here = |pid| pid != 20;
        assert_eq!(names(&all.of_named_by(here)), ["common", "of1"]);
        assert_eq!(names(&all.of_named_by(|_| false)), ["common"]);
    }

    #[test]
    fn what_a_person_gives_is_all_there_is() {
        let mut all = Formats::given(common());
        known(&mut all, &[10]);
        assert_eq!(names(&all.of(10)), ["common"]);
        assert_eq!(names(&all.of_named_by(|_| true)), ["common"]);
    }
}
