//! The repository's own files, as tests of several crates read them.
//!
//! Left out: a running system.

pub mod documents;
pub mod runbook;
pub mod schema;
pub mod small_repository;
pub mod sources;
