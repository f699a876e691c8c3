//! Captures made by hand, and the verdicts that they give.

mod abandoned;
mod awaited;
mod beside;
mod build;
mod connects;
mod crowd;
mod excerpt;
mod hidden;
mod http2;
mod lessons;
mod losses;
mod messages;
mod opaque;
mod races;
mod rewritten;
mod roles;
mod sides;
mod snap;
mod spaces;
mod tcp;
mod unknown;
mod unread;
mod upgrades;
mod waits;
