//! The socket at the path that the proxy calls takes datagrams.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use super::{By, Cause};
use crate::matrix::proxies::Target;

pub(super) const CAUSE: Cause = Cause {
    name: "unix_socket_wrong_type",
    by: By::Itself,
    unix: true,
    spares: &[],
    inject: |stage| {
        let to = stage.unix();
        let Target::Unix(path) = &to else {
            return Ok(());
        };
        let datagrams = UnixDatagram::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777))?;
        stage.front(&to)?;
        stage.fail("")?;
        stage.run.hold(datagrams);
        Ok(())
    },
};
