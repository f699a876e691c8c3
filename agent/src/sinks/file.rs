//! Files that only their owner may read: they hold facts of users' traffic.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::Context;

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

#[cfg(test)]
mod tests {
    use super::*;

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
