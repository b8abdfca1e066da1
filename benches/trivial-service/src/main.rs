//! trivial-service: says yes to whatever it is asked, at once. It stands where user-service is, for the gateway's
//! questions about tokens and for the requests that it lets pass, so that what a benchmark sees is the gateway's own.
//!
//! Plain threads and fixed bytes: nothing that costs anything. Left out: all of HTTP that Traefik doesn't send; bodies,
//! above all.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use trivial_service::{answer_to, ends_the_head};

/// Where the services serve HTTP, too.
const PORT: u16 = 8000;
/// The gateway keeps a hundred idle connections, and has as many more as it has requests.
const STACK_BYTES: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // A connection that breaks is the gateway's to make again.
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
