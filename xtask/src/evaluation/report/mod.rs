//! A conclusion for its readers: a terminal, a browser, a CI system, a pull request. No form judges; all say what
//! [`super::conclusion`] found.

pub(crate) mod charts;
pub(crate) mod compare;
pub(crate) mod html;
pub(crate) mod junit;
pub(crate) mod list;
pub(crate) mod markdown;
pub(crate) mod numbers;
#[cfg(test)]
pub(crate) mod schema_check;
pub(crate) mod terminal;
#[cfg(test)]
pub(crate) mod tests;
