//! stub
use crate::evaluation::{conclusion::Conclusion, evidence::Evaluation};
/// stub
pub(crate) fn page(_evaluation: &Evaluation, _conclusion: &Conclusion) -> anyhow::Result<String> {
    Ok(String::new())
}
