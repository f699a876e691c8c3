//! The configuration says that the proxy answers 503, whatever is asked.

use super::{By, Cause};
use crate::matrix::proxies::Own;

pub(super) const CAUSE: Cause = Cause {
    name: "proxy_config",
    by: By::Itself,
    unix: false,
    // Programs of the lab's own, which answer nothing by themselves.
    spares: &["go", "pingora"],
    inject: |stage| {
        stage.own = Some(Own::Answers);
        let (_, to) = stage.there();
        stage.front(&to)?;
        stage.fail("").map(drop)
    },
};
