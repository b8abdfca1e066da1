//! The answers of trivial-service, and the evaluation of the benchmark's measurements (`benches/gateway`): pure functions.

mod comparison;

pub use crate::comparison::{ARMS, Arm, Comparison, REQUIRED_RATIO, Run, Spread};

/// An account as user-service serialises it, as text for `concat!`.
macro_rules! account {
    () => {
        concat!(
            r#"{"id":"01938f70-0000-7aaa-8bbb-cccc00000001","name":"Ada","#,
            r#""email":"bench-00000000@agora.example"}"#
        )
    };
}

/// The head fields of every answer of a service, so that the gateway has the same work as with a real one.
macro_rules! every_answer {
    () => {
        concat!(
            "HTTP/1.1 200 OK\r\n",
            "traceresponse: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
            "date: Thu, 26 Nov 2026 12:00:00 GMT\r\n"
        )
    };
}

/// The account of every user: the same length, in bytes, as the benchmark's account at user-service.
pub const ACCOUNT: &str = account!();

/// `/auth/verify`: the token is that account's.
const VERIFIED: &str = concat!(
    every_answer!(),
    "x-user-id: 01938f70-0000-7aaa-8bbb-cccc00000001\r\n",
    "x-user-email: bench-00000000@agora.example\r\n",
    "content-length: 0\r\n\r\n"
);

/// Every other route.
const FOUND: &str = concat!(
    every_answer!(),
    "content-type: application/json\r\ncontent-length: 97\r\n\r\n",
    account!()
);

/// The answer to a request with this request line.
pub fn answer_to(request_line: &[u8]) -> &'static [u8] {
    let target = request_line.split(|byte| *byte == b' ').nth(1);
    let answer = match target {
        Some(b"/auth/verify") => VERIFIED,
        _ => FOUND,
    };
    answer.as_bytes()
}

/// Whether this line ends a request's head.
pub fn ends_the_head(line: &[u8]) -> bool {
    line == b"\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_length_matches_its_content_length() {
        let (_, body) = FOUND.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, ACCOUNT);
        assert!(FOUND.contains(&format!("content-length: {}\r\n", body.len())));
    }

    #[test]
    fn a_token_check_is_answered_with_an_identity() {
        let answer = |line: &str| std::str::from_utf8(answer_to(line.as_bytes())).unwrap();
        assert!(answer("GET /auth/verify HTTP/1.1\r\n").contains("x-user-id: "));
        assert!(answer("GET /users/me HTTP/1.1\r\n").ends_with(ACCOUNT));
    }
}
