//! What the gateway promises to the services behind it: who a request is from, what is routed, what is
//! refused. It runs the real Traefik with the configuration in `observability/traefik`, in which only the
//! addresses are changed. The services are recorders inside the test, because what counts is the bytes that
//! reach them. Where something must *not* arrive, a control takes the defence out of the configuration and
//! sees it arrive.
//!
//! Left out: what the services do with it (their own black-box tests), the way through the whole system
//! (`smoke`), and HTTP/2. Traefik shares this machine's network, so the engine has to run on it and not in a
//! virtual machine.

mod answers;
mod authentication;
mod careless;
mod cast;
mod client;
mod corpus;
mod documents;
mod forgeries;
mod harness;
mod identity;
mod limits;
mod recorder;
mod routing;
mod timeouts;
mod traefik;

/// A client who is known.
const ALICE: &str = "Authorization: Bearer alice";
/// Another one.
const BOB: &str = "Authorization: Bearer bob";
/// A client whom the auth service lets pass without naming an identity.
const NOBODY: &str = "Authorization: Bearer nobody";
/// A client for whom the auth service's answer is longer than the gateway takes.
const VERBOSE: &str = "Authorization: Bearer verbose";
