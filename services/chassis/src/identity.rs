//! The user of a request, by the gateway's headers: `X-User-Id` and `X-User-Email`, nothing else.
//!
//! The gateway replaces both headers on protected routes after it had the token verified, and blanks them on public ones.
//! Here a request without them, or with more than one, is refused: a handler that extracts an [`Identity`] can't forget the
//! check.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use shared_events::UserId;

use crate::problem::Problem;

/// The header with the user's id.
pub const USER_ID_HEADER: &str = "x-user-id";
/// The header with the user's e-mail address.
pub const USER_EMAIL_HEADER: &str = "x-user-email";

/// The user that the gateway has authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Their id.
    pub user_id: UserId,
    /// Their e-mail address, as it is in the token.
    pub email: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(&parts.headers).ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "no-identity",
                "the request carries no identity from the gateway",
            )
        })
    }
}

fn read(headers: &HeaderMap) -> Option<Identity> {
    let user_id = single(headers, USER_ID_HEADER)?.parse().ok()?;
    let email = single(headers, USER_EMAIL_HEADER)?;
    Some(Identity {
        user_id,
        email: email.to_owned(),
    })
}

/// The header's value, if it is there once and not blank. Of two values two readers could use different ones.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ID: &str = "01938f70-0000-7aaa-8bbb-ccccdddd0003";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn both_headers_once_make_an_identity() {
        let identity = read(&headers(&[
            ("x-user-id", ID),
            ("x-user-email", "a@b.example"),
        ]));
        assert_eq!(identity.unwrap().user_id.to_string(), ID);
    }

    #[test]
    fn a_missing_blank_doubled_or_malformed_header_makes_none() {
        for pairs in [
            &[][..],
            &[("x-user-id", ID)],
            &[("x-user-email", "a@b.example")],
            &[("x-user-id", ""), ("x-user-email", "a@b.example")],
            &[("x-user-id", ID), ("x-user-email", " ")],
            &[("x-user-id", "1"), ("x-user-email", "a@b.example")],
            &[
                ("x-user-id", ID),
                ("x-user-id", ID),
                ("x-user-email", "a@b.example"),
            ],
            &[("x_user_id", ID), ("x-user-email", "a@b.example")],
        ] {
            assert_eq!(read(&headers(pairs)), None, "{pairs:?}");
        }
    }
}
