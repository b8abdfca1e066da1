//! Requests byte for byte as a test wrote them: no HTTP library would send most of them.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// The longest silence on a connection; a service that hangs is given up by the gateway after eleven.
const SILENCE: Duration = Duration::from_secs(20);

/// A request without a body. A header may be several lines, or nothing that HTTP allows.
pub(crate) fn request(method: &str, target: &str, headers: &[&str]) -> Vec<u8> {
    request_with_body(method, target, headers, b"")
}

/// A request with a body, whose length or encoding the headers have to say.
pub(crate) fn request_with_body(
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> Vec<u8> {
    let headers: String = headers.iter().map(|lines| format!("{lines}\r\n")).collect();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// Sends a request on a connection of its own and gives the status of the answer.
pub(crate) fn send(address: SocketAddr, request: &[u8]) -> io::Result<u16> {
    let (status_line, _) = exchange(address, request)?;
    let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("no HTTP answer but {status_line:?}")))
}

/// Sends a request on a connection of its own and gives the head of the answer, with its line ends.
pub(crate) fn head(address: SocketAddr, request: &[u8]) -> io::Result<String> {
    let (mut head, mut rest) = exchange(address, request)?;
    while !head.ends_with("\r\n\r\n") {
        if rest.read_line(&mut head)? == 0 {
            return Err(io::Error::other(format!("no whole head but {head:?}")));
        }
    }
    Ok(head)
}

/// Sends a request on a connection of its own and gives the body of the answer, which has to be text.
pub(crate) fn body(address: SocketAddr, request: &[u8]) -> io::Result<String> {
    let (_, mut rest) = exchange(address, request)?;
    let mut text = String::new();
    rest.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other(format!("no whole head but {text:?}")))
}

/// The first line of the answer, and what follows it.
fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<(String, impl BufRead)> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
    bound(&stream)?;
    // A gateway that has refused a request may not read the rest of it; its answer counts.
    let written = stream.write_all(request);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let read = reader.read_line(&mut line)?;
    match written {
        Err(error) if read == 0 => Err(error),
        _ => Ok((line, reader)),
    }
}

/// Ends every wait on this connection after [`SILENCE`].
pub(crate) fn bound(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}
