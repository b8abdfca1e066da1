//! A conclusion as a report: a page, JUnit XML, Markdown; and two conclusions compared.
//!
//! Left out: judging ([`crate::conclusion`]), and the terminal's form (`xtask`).

pub mod charts;
pub mod compare;
pub mod html;
pub mod junit;
pub mod list;
pub mod markdown;
#[cfg(test)]
pub(crate) mod tests;
