//! A conclusion as a report: a page, JUnit XML, Markdown; two conclusions compared, and all of them over time.
//!
//! Left out: judging ([`crate::conclusion`]), and the terminal's form (`xtask`).

pub mod charts;
pub mod compare;
mod forest;
pub mod history;
pub mod html;
pub mod junit;
pub mod list;
pub mod markdown;
mod runs;
mod scale;
mod template;
#[cfg(test)]
pub(crate) mod tests;
