//! The attack corpus (`checks::attacks`) against the real gateway, and against what lacks its defences: a check that
//! finds nothing there would find nothing anywhere.

use std::collections::BTreeSet;

use checks::attacks::{Ending, Family, Finding};
use evaluation::attacks::try_all;

use crate::{
    careless,
    cast::{ATTACKER, TOKEN, cast},
    harness::Gateway,
    recorder::{Recorder, Request, answer},
    traefik::Configuration,
};

/// `/auth/verify` as user-service does it: one header, one scheme, one valid token.
fn auth(request: &Request) -> String {
    let headers = request
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let values: Vec<&str> = headers.map(|(_, value)| value).collect();
    let [value] = values.as_slice() else {
        return answer("401 Unauthorized", &[], "{}");
    };
    let right = value.split_once(' ').is_some_and(|(scheme, token)| {
        scheme.eq_ignore_ascii_case("bearer") && token.trim() == TOKEN
    });
    if right {
        let identity = [
            format!("X-User-Id: {ATTACKER}"),
            "X-User-Email: the-attacker@agora.example".to_owned(),
        ];
        answer("200 OK", &identity.each_ref().map(String::as_str), "")
    } else {
        answer("401 Unauthorized", &[], "{}")
    }
}

/// An auth service that reads claims and checks nothing.
fn gullible_auth(request: &Request) -> String {
    match request.headers().find_map(careless::claimed) {
        Some(id) => answer(
            "200 OK",
            &[
                &format!("X-User-Id: {id}"),
                "X-User-Email: whoever@example.org",
            ],
            "",
        ),
        None => answer("401 Unauthorized", &[], "{}"),
    }
}

/// A service as ours: it believes the two headers, once each, and shows an account to its owner.
fn service(request: &Request) -> String {
    let line = request.head.lines().next().unwrap_or_default();
    let path = line.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/auth/") {
        return answer("422 Unprocessable Content", &[], "{}");
    }
    let values = |wanted: &str| -> Vec<String> {
        let headers = request
            .headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        headers.map(|(_, value)| value.to_owned()).collect()
    };
    let (ids, emails) = (values("x-user-id"), values("x-user-email"));
    let ([id], [_]) = (ids.as_slice(), emails.as_slice()) else {
        return answer("401 Unauthorized", &[], "{}");
    };
    careless::account(path.split('?').next().unwrap_or_default(), id)
}

fn attacked(configuration: Configuration, auth: fn(&Request) -> String) -> Vec<Finding> {
    let services = [(); 3].map(|()| Recorder::start(service));
    let gateway = Gateway::start_before(configuration, Recorder::start(auth), services);
    try_all(gateway.web, &cast())
}

fn got_in(findings: &[Finding]) -> BTreeSet<Family> {
    let in_it = findings
        .iter()
        .filter(|finding| matches!(finding.ending, Ending::LetIn(_)));
    in_it.map(|finding| finding.family).collect()
}

#[test]
fn no_attack_gets_in_and_none_breaks_the_gateway() {
    let findings = attacked(Configuration::of_the_repository(), auth);
    assert!(findings.len() >= 60);
    let not_held = findings
        .iter()
        .filter(|finding| finding.ending != Ending::Held);
    let not_held: Vec<String> = not_held
        .map(|finding| {
            let (tries, statuses, ending) = (&finding.tries, &finding.statuses, &finding.ending);
            format!("{tries}: {statuses:?}, {ending:?}")
        })
        .collect();
    assert!(not_held.is_empty(), "{not_held:#?}");
}

#[test]
fn without_forward_auth_whoever_names_a_user_is_that_user() {
    let findings = attacked(
        Configuration::of_the_repository().without_forward_auth(),
        auth,
    );
    let families = got_in(&findings);
    for family in [Family::Identity, Family::Paths] {
        assert!(families.contains(&family), "{}", family.name());
    }
}

#[test]
fn an_auth_service_that_checks_no_signature_lets_forged_tokens_in() {
    let findings = attacked(Configuration::of_the_repository(), gullible_auth);
    assert_eq!(got_in(&findings), BTreeSet::from([Family::Tokens]));
}

#[test]
fn a_gateway_without_limits_lets_in_what_is_too_large() {
    let boundless = Configuration::of_the_repository()
        .replacing("maxHeaderBytes: 16384", "maxHeaderBytes: 1048576");
    assert!(got_in(&attacked(boundless, auth)).contains(&Family::Malformed));
}

#[test]
fn a_server_without_any_defence_falls_to_every_family() {
    let findings = try_all(careless::start(), &cast());
    assert_eq!(
        got_in(&findings),
        BTreeSet::from(Family::ALL),
        "{findings:#?}"
    );
}
