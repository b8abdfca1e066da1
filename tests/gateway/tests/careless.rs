//! A server without any defence, gateway and services in one: it believes every header in any spelling, reads tokens
//! without checking them, undoes every disguise of a path, obeys whoever names another method, knows no limit, and
//! sees a request's end where `Content-Length` says, whatever else the request says.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use crate::{cast::cast, client, recorder::answer};

/// Starts one; it serves until the process of the test ends.
pub(crate) fn start() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port");
    let address = listener.local_addr().expect("a listener has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(&stream?));
        }
    });
    address
}

fn serve(mut stream: &TcpStream) -> io::Result<()> {
    client::bound(stream)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !line.is_empty() {
                lines.push(line);
            } else if !lines.is_empty() {
                break;
            }
        }
        let headers: Vec<(&str, &str)> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let length = headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(0);
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
        let answer = respond(&lines[0], &headers);
        // It doesn't end the connection.
        stream.write_all(answer.replace("Connection: close\r\n", "").as_bytes())?;
    }
}

fn respond(line: &str, headers: &[(&str, &str)]) -> String {
    let target = line.split(' ').nth(1).unwrap_or_default();
    let target = target
        .to_lowercase()
        .replace("%2f", "/")
        .replace(['\\', ';'], "/");
    if target.contains("/verify") || target.contains("metrics") {
        return answer("200 OK", &[], "");
    }
    if target.starts_with("/auth/") && !target.contains("me") {
        return answer("422 Unprocessable Content", &[], "{}");
    }
    let identity = headers.iter().find_map(|(name, value)| {
        let name = name
            .to_lowercase()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        (name == "x-user-id").then(|| (*value).to_owned())
    });
    match identity.or_else(|| headers.iter().find_map(|header| claimed(*header))) {
        Some(id) => account("/users/me", &id),
        None => answer("401 Unauthorized", &[], "{}"),
    }
}

/// Whom a header's token is about, by its claims alone.
pub(crate) fn claimed((name, value): (&str, &str)) -> Option<String> {
    let token = value.split(' ').next_back()?;
    let claims = token.split('.').nth(1)?;
    if !name.eq_ignore_ascii_case("authorization") {
        return None;
    }
    let claims = decoded(claims)?;
    let (_, rest) = claims.split_once("\"sub\":\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// base64url, leniently.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes() {
        let digit = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a user sees at a path.
pub(crate) fn account(path: &str, id: &str) -> String {
    let cast = cast();
    let user = [&cast.victim, &cast.attacker]
        .into_iter()
        .find(|user| user.id == id);
    match (path, user) {
        ("/users/me", Some(user)) => answer(
            "200 OK",
            &[],
            &format!(r#"{{"id":"{id}","email":"{}"}}"#, user.email),
        ),
        ("/orders/", Some(_)) => answer("202 Accepted", &[], "{}"),
        (path, Some(_)) if path.ends_with("/purchases") => answer("403 Forbidden", &[], "{}"),
        (_, Some(_)) => answer("404 Not Found", &[], "{}"),
        (_, None) => answer("401 Unauthorized", &[], "{}"),
    }
}
