//! There is no socket at the path that the proxy calls.

use super::{By, Cause};

pub(super) const CAUSE: Cause = Cause {
    name: "unix_socket_missing",
    by: By::Itself,
    unix: true,
    spares: &[],
    inject: |stage| {
        let to = stage.unix();
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
