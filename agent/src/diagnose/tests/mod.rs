//! Rules against made-up cases, both ways: each fires on its facts, and on nothing less; when it is
//! settled; and that nothing is wrongly proven when facts are missing.

mod advice;
mod answers;
mod blanking;
mod build;
mod connects;
mod deaths;
mod no_attempt;
mod races;
mod runbooks;
mod waits;
