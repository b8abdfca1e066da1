//! Raw bytes to and from the gateway, as no HTTP library sends most attacks or returns all answers.
//!
//! Left out: what is sent, and the judgement of what is returned (`checks::attacks`).

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

/// Writes bytes on a connection of its own and reads everything that is sent back, until the gateway closes the
/// connection or is silent for a while after an answer.
pub fn converse(
    gateway: SocketAddr,
    bytes: &[u8],
    has_answer: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
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
            Err(error) if timed_out(&error) && has_answer(&answers) => {
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
        if has_answer(&answers) {
            stream.set_read_timeout(Some(AFTERWARDS))?;
        }
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
