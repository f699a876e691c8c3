//! Files that only their owner may read: they hold facts of users' traffic.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Creates or empties a file with mode 0600.
///
/// A symbolic link is refused: why502 often runs as root, and the folder may be another user's.
pub fn create_private(path: &Path) -> anyhow::Result<File> {
    let context = || format!("create {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => anyhow::anyhow!("it is a symbolic link; name its target instead"),
            _ => error.into(),
        })
        .with_context(context)?;
    // An existing file keeps its mode when opened.
    if file.metadata().with_context(context)?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))
            .with_context(context)?;
    }
    Ok(file)
}

/// A file that has its name only once it is whole; until then it is beside it, under another name.
///
/// What the name stood for before is kept until then, and for good when the work is given up.
#[derive(Debug)]
pub(super) struct NewFile {
    file: File,
    path: PathBuf,
    unfinished: PathBuf,
}

impl NewFile {
    /// Refuses now what could not be given its name later.
    pub(super) fn create(path: &Path) -> anyhow::Result<NewFile> {
        let context = || format!("create {}", path.display());
        match path.symlink_metadata() {
            Ok(old) if old.is_symlink() => {
                bail!(
                    "{}: it is a symbolic link; name its target instead",
                    context()
                )
            }
            // A device or a pipe would be replaced, not written to.
            Ok(old) if !old.is_file() => {
                bail!("{}: it is there and is no regular file", context())
            }
            _ => {}
        }
        let Some(name) = path.file_name() else {
            bail!("{}: it names no file", context());
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.unfinished", std::process::id()));
        let unfinished = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .with_context(context)?;
        Ok(NewFile {
            file,
            path: path.to_owned(),
            unfinished,
        })
    }

    /// The name that it will have.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        std::fs::rename(&self.unfinished, &self.path)
            .with_context(|| format!("create {}", self.path.display()))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Nothing is there any more once it has its name.
        let _ = std::fs::remove_file(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_has_its_name_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        std::fs::write(&path, "old").unwrap();
        drop(NewFile::create(&path).unwrap());
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_new_file_cannot_replace_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("l");
        std::os::unix::fs::symlink("target", &link).unwrap();
        for (path, part) in [
            (link.as_path(), "name its target"),
            (folder.path(), "no regular file"),
            (Path::new("/dev/null"), "no regular file"),
            (Path::new("/nonexistent/x.html"), "No such file"),
            (Path::new(".."), "no regular file"),
        ] {
            let error = format!("{:#}", NewFile::create(path).unwrap_err());
            assert!(error.contains(part), "{path:?}: {error}");
        }
    }

    #[test]
    fn files_are_private_even_when_they_existed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        create_private(&path).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        create_private(&path).unwrap();
        assert_eq!(mode(), 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_symbolic_link_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("l");
        std::os::unix::fs::symlink(folder.path().join("target"), &link).unwrap();
        let error = format!("{:#}", create_private(&link).unwrap_err());
        assert!(error.contains("name its target"), "{error}");
    }
}
