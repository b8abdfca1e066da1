//! The two test users of the attacks, and the attacker's token.

use base::test_user::TestUser;
use checks::attacks::Cast;

const VICTIM: &str = "01938f70-0000-7aaa-8bbb-cccc00000001";
/// The attacker's id.
pub(crate) const ATTACKER: &str = "01938f70-0000-7aaa-8bbb-cccc00000002";
/// `{"alg":"HS256","typ":"JWT","kid":"1"}`, claims of the attacker's, and some signature.
pub(crate) const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6IjEifQ.\
                                eyJzdWIiOiIwMTkzOGY3MC0wMDAwLTdhYWEtOGJiYi1jY2NjMDAwMDAwMDIifQ.c2lnbmF0dXJl";

/// Both of them.
pub(crate) fn cast() -> Cast {
    let test_user = |id: &str, name: &str| TestUser {
        id: id.to_owned(),
        email: format!("{name}@agora.example"),
        token: TOKEN.to_owned(),
    };
    Cast {
        victim: test_user(VICTIM, "the-victim"),
        attacker: test_user(ATTACKER, "the-attacker"),
    }
}
