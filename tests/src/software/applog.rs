//! What an application says it did: JSON lines with the request's path and the monotonic time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// `loaded`, `listening`, `accepted`, `read`, `answered`, `closed`, `closed_unread`.
    pub what: String,
    pub path: Option<String>,
    /// Monotonic nanoseconds.
    pub t: u64,
    pub pid: u32,
    /// In `answered`: which part of the time the process was on a CPU.
    pub on_cpu: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct AppLog {
    file: PathBuf,
}

impl AppLog {
    pub fn new(file: &Path) -> AppLog {
        AppLog {
            file: file.to_owned(),
        }
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn lines(&self) -> Vec<Line> {
        std::fs::read_to_string(&self.file)
            .unwrap_or_default()
            .lines()
            // The last line may be half written.
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub fn count(&self, what: &str) -> usize {
        self.lines().iter().filter(|line| line.what == what).count()
    }

    /// Who read each request, and when.
    pub fn reads(&self) -> BTreeMap<String, Line> {
        self.lines()
            .into_iter()
            .filter(|line| line.what == "read")
            .filter_map(|line| Some((line.path.clone()?, line)))
            .collect()
    }

    pub fn answer(&self, path: &str) -> Option<Line> {
        self.lines()
            .into_iter()
            .find(|line| line.what == "answered" && line.path.as_deref() == Some(path))
    }

    pub fn has(&self, what: &str, path: &str) -> bool {
        self.lines()
            .iter()
            .any(|line| line.what == what && line.path.as_deref() == Some(path))
    }
}
