//! A TCP connection that a test can cut.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

/// A proxy in front of a server. When cut, it closes every connection and refuses new ones.
pub struct Cable {
    addr: SocketAddr,
    whole: watch::Sender<bool>,
}

impl Cable {
    /// A cable to the server of `url`; not cut.
    pub async fn to(url: &str) -> Self {
        let server = Url::parse(url).expect("a URL");
        let host = server.host_str().expect("a host").to_owned();
        let port = server.port().expect("a port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound address");
        let (whole, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut state = state.clone();
                let host = host.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(client, &host, port) => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { addr, whole }
    }

    /// The same URL through the cable.
    pub fn url(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("a URL");
        url.set_ip_host(self.addr.ip()).expect("a URL with a host");
        url.set_port(Some(self.addr.port()))
            .expect("a URL with a port");
        url.into()
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Accepts connections again.
    pub fn repair(&self) {
        self.whole.send_replace(true);
    }
}

async fn carry(mut client: TcpStream, host: &str, port: u16) {
    if let Ok(mut server) = TcpStream::connect((host, port)).await {
        // Either side may close the connection at any time; the other one then notices.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
