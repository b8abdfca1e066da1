//! trivial-service: answers every request at once with success. It replaces user-service, for the gateway's token checks
//! and for the forwarded requests, so that a benchmark measures the gateway alone.
//!
//! Plain threads and fixed bytes: no work. Left out: every part of HTTP that Traefik doesn't send, above all bodies.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use trivial_service::{answer_to, ends_the_head};

/// The services' HTTP port.
const PORT: u16 = 8000;
/// The gateway keeps a hundred idle connections, and opens as many more as it has concurrent requests.
const STACK_BYTES: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // The gateway reopens a broken connection.
                let _ = serve(&stream);
            })?;
    }
    Ok(())
}

fn serve(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let (mut request_line, mut line) = (Vec::new(), Vec::new());
    loop {
        request_line.clear();
        if reader.read_until(b'\n', &mut request_line)? == 0 {
            return Ok(());
        }
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if ends_the_head(&line) {
                break;
            }
        }
        stream.write_all(answer_to(&request_line))?;
    }
}
