//! Captures made by hand, and the verdicts that they give.

mod build;
mod races;
mod sides;
mod tcp;
