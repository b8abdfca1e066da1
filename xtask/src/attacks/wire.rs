//! Bytes to and from the gateway: no HTTP library would send most attacks, or show all that comes back.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long the gateway may be silent before it has answered.
const SILENCE: Duration = Duration::from_secs(5);
/// How long after an answer another one may come: one to a request that was hidden.
const AFTERWARDS: Duration = Duration::from_millis(300);
const MOST_BYTES: usize = 1 << 20;

/// Writes an attack on a connection of its own and reads all that comes back, until the gateway closes the connection
/// or has said nothing for a while after an answer.
pub(super) fn converse(gateway: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&gateway, SILENCE)?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_read_timeout(Some(SILENCE))?;
    // A gateway that has refused a request may not read the rest of it; its answer counts.
    let written = stream.write_all(bytes);
    let mut answers = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answers),
            Ok(read) => answers.extend_from_slice(&buffer[..read]),
            Err(error) if timed_out(&error) && !statuses(&answers).is_empty() => {
                return Ok(answers);
            }
            Err(error) if timed_out(&error) => {
                written?;
                return Err(io::Error::other(format!(
                    "no answer within {} s",
                    SILENCE.as_secs()
                )));
            }
            // Closed with bytes of ours unread: what came before counts.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(answers),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if answers.len() > MOST_BYTES {
            return Err(io::Error::other("an answer without an end"));
        }
        if !statuses(&answers).is_empty() {
            stream.set_read_timeout(Some(AFTERWARDS))?;
        }
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The statuses of the final answers in what came back. Every status line is counted, wherever it stands: no body of
/// the shop's looks like one, and an answer that stands where none should is what is looked for.
pub(super) fn statuses(answers: &[u8]) -> Vec<u16> {
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

    #[test]
    fn every_answer_is_seen_and_an_interim_one_is_none() {
        let answers = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}\
                        HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(statuses(answers), [401, 200]);
        assert_eq!(statuses(b""), [0; 0]);
        assert_eq!(statuses(b"HTTP/1.1 garbage\r\n"), [0; 0]);
    }
}
