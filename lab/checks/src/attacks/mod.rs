//! Attacks on the gateway as data ([`corpus()`]): requests, byte for byte, and the judgement of their answers.
//!
//! `cargo xtask attack` and the experiment `forward_auth` send them to the running system; the gateway's tests send
//! them to a real Traefik in front of recorders and, to see the check fail, to a server without any defence.
//!
//! Left out: sending them, attacks on passwords and by load, HTTP/2 (not spoken without TLS), and TLS itself.

mod corpus;
mod tokens;

use std::io;

use base::test_user::TestUser;

pub use self::corpus::corpus;

/// The two accounts of an attack.
#[derive(Debug, Clone)]
pub struct Cast {
    /// The account that attacks try to reach.
    pub victim: TestUser,
    /// The account that attacks come from, with a valid token of its own.
    pub attacker: TestUser,
}

/// A kind of attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Forged, confused, expired and borrowed tokens.
    Tokens,
    /// Identity headers in every disguise.
    Identity,
    /// Paths that two readers read differently, and ones that aren't for clients.
    Paths,
    /// Methods that a check might not cover, and headers that change them.
    Methods,
    /// Requests that are too large or aren't HTTP.
    Malformed,
    /// Requests hidden in requests.
    Smuggling,
}

impl Family {
    /// Every family, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::Tokens,
        Self::Identity,
        Self::Paths,
        Self::Methods,
        Self::Malformed,
        Self::Smuggling,
    ];

    /// The family's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Identity => "identity headers",
            Self::Paths => "paths",
            Self::Methods => "methods",
            Self::Malformed => "malformed",
            Self::Smuggling => "smuggling",
        }
    }
}

/// One attack.
#[derive(Debug, Clone)]
pub struct Attack {
    /// The family that it belongs to.
    pub family: Family,
    /// What it tries, as a phrase; unique in the corpus.
    pub tries: String,
    /// The bytes that are written on a connection of its own.
    pub bytes: Vec<u8>,
    /// The only statuses that any answer on the connection may have. A connection that is closed without an answer is
    /// a refusal, too. A 2xx is among them only where the attacker's own token is valid, and may not show the victim.
    pub allowed: &'static [u16],
    /// How many requests `bytes` are by RFC 9112; one more answer means that a request was smuggled.
    pub answers: usize,
}

/// How an attack ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was refused, or did only what its sender may do.
    Held,
    /// It got in; with what showed that.
    LetIn(String),
    /// It broke the gateway or a service; the answer's 5xx.
    ServerError(u16),
    /// None of these: another status than expected, or no answer. With what happened.
    Unforeseen(String),
}

/// An attack and how it ended.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The attack's family.
    pub family: Family,
    /// What the attack tries: [`Attack::tries`].
    pub tries: String,
    /// Statuses of the answers, in their order; empty when the connection was closed without one.
    pub statuses: Vec<u16>,
    /// How it ended.
    pub ending: Ending,
}

impl Finding {
    /// Judges an attack by all bytes that the gateway sent back, or by why they couldn't be read.
    pub fn of(attack: &Attack, cast: &Cast, answers: io::Result<Vec<u8>>) -> Self {
        let (statuses, ending) = match answers {
            Ok(answers) => {
                let statuses = statuses(&answers);
                let ending = judge(attack, cast, &statuses, &answers);
                (statuses, ending)
            }
            Err(error) => (Vec::new(), Ending::Unforeseen(error.to_string())),
        };
        Self {
            family: attack.family,
            tries: attack.tries.clone(),
            statuses,
            ending,
        }
    }
}

/// How an attack ended, by its answers.
fn judge(attack: &Attack, cast: &Cast, statuses: &[u16], answers: &[u8]) -> Ending {
    let text = String::from_utf8_lossy(answers);
    if text.contains(&cast.victim.email) {
        return Ending::LetIn("the answer shows the victim's account".to_owned());
    }
    if statuses.len() > attack.answers {
        return Ending::LetIn(format!(
            "{} answers to {} request(s)",
            statuses.len(),
            attack.answers
        ));
    }
    for status in statuses {
        if attack.allowed.contains(status) {
            continue;
        }
        return match status {
            200..=299 => Ending::LetIn(format!("answered {status}")),
            500.. => Ending::ServerError(*status),
            _ => Ending::Unforeseen(format!("answered {status}")),
        };
    }
    Ending::Held
}

/// The statuses of the final answers in these bytes. Every status line counts, wherever it stands: no body of the shop
/// looks like one, and an answer in an unexpected place is what is looked for.
pub fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    let lines = text.match_indices("HTTP/1.").filter_map(|(at, _)| {
        let line = text[at..].lines().next()?;
        line.split(' ').nth(1)?.parse().ok()
    });
    // After 101 there is no more HTTP/1: it is as final as any.
    let last = |status: &u16| *status >= 200 || *status == 101;
    lines.filter(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_user(name: &str) -> TestUser {
        TestUser {
            id: format!("01938f70-0000-7aaa-8bbb-cccc{name:0>8}"),
            email: format!("{name}@example.org"),
            token: "e30.e30.c2ln".to_owned(),
        }
    }

    fn cast() -> Cast {
        Cast {
            victim: test_user("victim"),
            attacker: test_user("eve"),
        }
    }

    #[test]
    fn there_are_many_attacks_of_every_family_and_no_two_of_a_name() {
        let attacks = corpus(&cast());
        assert!(attacks.len() >= 60, "{}", attacks.len());
        for family in Family::ALL {
            let of_family = attacks.iter().filter(|attack| attack.family == family);
            assert!(of_family.count() >= 8, "{}", family.name());
        }
        let mut names: Vec<&str> = attacks.iter().map(|attack| attack.tries.as_str()).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn an_attack_never_writes_what_tells_that_it_got_in() {
        let cast = cast();
        for attack in corpus(&cast) {
            let text = String::from_utf8_lossy(&attack.bytes).into_owned();
            assert!(!text.contains(&cast.victim.email), "{}", attack.tries);
        }
    }

    #[test]
    fn who_got_in_is_seen_by_what_comes_back() {
        let attack = Attack {
            family: Family::Tokens,
            tries: "it".to_owned(),
            bytes: Vec::new(),
            allowed: &[200, 401],
            answers: 1,
        };
        let cast = cast();
        let judged =
            |statuses: &[u16], body: &str| judge(&attack, &cast, statuses, body.as_bytes());
        assert_eq!(judged(&[401], ""), Ending::Held);
        assert_eq!(judged(&[], ""), Ending::Held);
        assert_eq!(judged(&[200], "eve@example.org"), Ending::Held);
        assert!(matches!(
            judged(&[200], "victim@example.org"),
            Ending::LetIn(_)
        ));
        assert!(matches!(judged(&[401, 200], ""), Ending::LetIn(_)));
        assert!(matches!(judged(&[201], ""), Ending::LetIn(_)));
        assert_eq!(judged(&[502], ""), Ending::ServerError(502));
        assert!(matches!(judged(&[302], ""), Ending::Unforeseen(_)));
    }

    #[test]
    fn every_answer_is_seen_and_an_interim_one_is_none() {
        let answers = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}\
                        HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(statuses(answers), [401, 200]);
        assert_eq!(statuses(b""), [0; 0]);
        assert_eq!(statuses(b"HTTP/1.1 garbage\r\n"), [0; 0]);
    }
}
