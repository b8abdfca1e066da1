//! A minimal HTTP client, because it shares the processor with the system that it measures.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use uuid::Uuid;

/// The product of the order with this number: any of the hundred products. Not in sequence: consumers with a hundred
/// prefetched messages each would then handle the same products side by side, and wait for each other's rows.
pub(crate) fn product(number: usize) -> i64 {
    // Knuth's multiplicative hash.
    let hash = (number as u32).wrapping_mul(2_654_435_761);
    1 + i64::from(hash >> 16) % 100
}

/// Places that many orders, one piece each, over this many connections; each must be answered with 202.
pub(crate) async fn place(at: SocketAddr, user: Uuid, connections: usize, orders: usize) {
    place_traced(at, user, connections, orders, |_| String::new()).await;
}

/// The same, each order with a header line of its own: `traceparent` returns it for the order's number, including its line
/// end.
pub(crate) async fn place_traced(
    at: SocketAddr,
    user: Uuid,
    connections: usize,
    orders: usize,
    traceparent: impl Fn(usize) -> String,
) {
    let next = AtomicUsize::new(0);
    let (next, traceparent) = (&next, &traceparent);
    join_all((0..connections).map(|_| async move {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = BufReader::new(stream);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= orders {
                return;
            }
            let request = format!(
                "POST /orders/?product_id={} HTTP/1.1\r\nHost: agora\r\nX-User-Id: {user}\r\n\
                 X-User-Email: ada@agora.example\r\n{}Content-Length: 0\r\n\r\n",
                product(number),
                traceparent(number)
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            skip_answer(&mut stream).await;
        }
    }))
    .await;
}

async fn skip_answer(stream: &mut BufReader<TcpStream>) {
    let (mut line, mut length) = (String::new(), 0);
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("HTTP/1.1 202"), "{line}");
    loop {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
}
