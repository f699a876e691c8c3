//! The socket at the path that the proxy calls lets in nobody but its owner, another user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use super::{By, Cause};
use crate::matrix::proxies::Target;

/// `daemon` on most systems: neither root nor what workers of proxies run as.
const OWNER: u32 = 1;

pub(super) const CAUSE: Cause = Cause {
    name: "unix_socket_denied",
    by: By::Itself,
    unix: true,
    spares: &[],
    inject: |stage| {
        let to = stage.unix();
        let Target::Unix(path) = &to else {
            return Ok(());
        };
        let listener = UnixListener::bind(path)?;
        chown(path, Some(OWNER), None)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))?;
        // Root passes over that.
        stage.confined = true;
        stage.front(&to)?;
        stage.fail("")?;
        stage.run.hold(listener);
        Ok(())
    },
};
