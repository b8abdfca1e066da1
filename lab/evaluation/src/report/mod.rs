//! A conclusion for its readers: a terminal, a browser, a CI system, a pull request. No form judges; all say what
//! [`super::conclusion`] found.

pub mod charts;
pub mod compare;
pub mod html;
pub mod junit;
pub mod list;
pub mod markdown;
pub mod numbers;
#[cfg(test)]
pub(crate) mod tests;
