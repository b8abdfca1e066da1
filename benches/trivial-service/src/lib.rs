//! What trivial-service answers, and what is made of the benchmark's figures (`benches/gateway`): pure functions.

mod comparison;

pub use crate::comparison::{ARMS, Arm, BAR, Comparison, Run, Spread};

/// An account as user-service writes one, in a text that `concat!` takes.
macro_rules! account {
    () => {
        concat!(
            r#"{"id":"01938f70-0000-7aaa-8bbb-cccc00000001","name":"Ada","#,
            r#""email":"bench-00000000@agora.example"}"#
        )
    };
}

/// The head fields of every answer of a service: who takes them on has as much to do as with a real one's.
macro_rules! every_answer {
    () => {
        concat!(
            "HTTP/1.1 200 OK\r\n",
            "traceresponse: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
            "date: Thu, 26 Nov 2026 12:00:00 GMT\r\n"
        )
    };
}

/// The account that everybody has there: as long, in bytes, as the one that the benchmark has at user-service.
pub const ACCOUNT: &str = account!();

/// `/auth/verify`: it is the one above.
const VERIFIED: &str = concat!(
    every_answer!(),
    "x-user-id: 01938f70-0000-7aaa-8bbb-cccc00000001\r\n",
    "x-user-email: bench-00000000@agora.example\r\n",
    "content-length: 0\r\n\r\n"
);

/// Everything else.
const FOUND: &str = concat!(
    every_answer!(),
    "content-type: application/json\r\ncontent-length: 97\r\n\r\n",
    account!()
);

/// The answer to a request that begins with this line.
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
    fn an_answer_is_as_long_as_it_says() {
        let (_, body) = FOUND.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, ACCOUNT);
        assert!(FOUND.contains(&format!("content-length: {}\r\n", body.len())));
    }

    #[test]
    fn a_question_about_a_token_is_answered_with_an_identity() {
        let answer = |line: &str| std::str::from_utf8(answer_to(line.as_bytes())).unwrap();
        assert!(answer("GET /auth/verify HTTP/1.1\r\n").contains("x-user-id: "));
        assert!(answer("GET /users/me HTTP/1.1\r\n").ends_with(ACCOUNT));
    }
}
