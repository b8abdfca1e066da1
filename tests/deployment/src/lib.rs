//! What two descriptions of the system, `compose.yaml` and `deploy/kubernetes/base`, say about its parts, in a form that can be
//! compared: facts about each part, and who may reach whom.
//!
//! Both are read without Compose and kubectl, and by readers that refuse what they don't know: a field that nobody compares must
//! not look like one that agrees. Left out: the overlays, of which only kubectl makes manifests, and anything that runs.

pub mod compose;
pub mod facts;
mod files;
pub mod kubernetes;
pub mod reachability;
mod yaml;
