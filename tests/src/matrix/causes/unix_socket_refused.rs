//! The socket at the path that the proxy calls was left by a server that is gone.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::{By, Cause};
use crate::matrix::proxies::Target;

pub(super) const CAUSE: Cause = Cause {
    name: "unix_socket_refused",
    by: By::Itself,
    unix: true,
    spares: &[],
    inject: |stage| {
        let to = stage.unix();
        if let Target::Unix(path) = &to {
            drop(UnixListener::bind(path)?);
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777))?;
        }
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
