//! Ports of pods on this machine's loopback, by `kubectl port-forward`: each is there from its first use until this process ends.
//!
//! Left out: the gateway's port on the nodes of a local cluster, which carries load.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Mutex,
    time::Duration,
};

use base::outcome;

use super::{Target, unpoisoned};
use crate::{
    Part, host,
    process::{Background, tail},
    wait,
};

/// How long it may take until a forwarded port answers.
const OPEN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How much of what kubectl said an error repeats.
const LOG_LINES: usize = 5;

struct Forward {
    address: SocketAddr,
    program: Background,
}

/// Forwards by system, controller and port.
static FORWARDS: Mutex<BTreeMap<(String, String, u16), Forward>> = Mutex::new(BTreeMap::new());

/// The address of a port of one of the controller's pods, e.g. `statefulset/rabbitmq`. A forward whose pod is gone is made
/// again.
pub(super) fn address(
    target: &Target,
    controller: &str,
    part: Part,
    port: u16,
) -> anyhow::Result<String> {
    let key = (target.project.name.clone(), controller.to_owned(), port);
    let mut forwards = unpoisoned(&FORWARDS);
    let there = forwards.get(&key);
    if let Some(there) = there.filter(|there| there.program.is_running() && answers(there.address))
    {
        return Ok(there.address.to_string());
    }
    forwards.remove(&key);
    let forward = start(target, controller, part, port)?;
    let address = forward.address.to_string();
    forwards.insert(key, forward);
    Ok(address)
}

fn start(target: &Target, controller: &str, part: Part, port: u16) -> anyhow::Result<Forward> {
    // kubectl names the port that it took only in its output; this one is free now.
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, host::free_port()?));
    let ports = format!("{}:{port}", free.port());
    let log = target.log(&format!("port-forward-{part}-{port}"));
    let forward = ["port-forward", "--address=127.0.0.1", controller, &ports];
    let program = target.kubectl(forward).start(&log)?;
    let open = wait::until(OPEN_WITHIN, LOOK_INTERVAL, || {
        if answers(free) {
            return Ok(Some(()));
        }
        if program.is_running() {
            return Ok(None);
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(outcome::unavailable(
            format!(
                "port {port} of {part} can't be forwarded: {}",
                tail(said.trim(), LOG_LINES)
            ),
            "`cargo xtask status` shows whether it runs",
        ))
    })?;
    open.ok_or_else(|| {
        outcome::unavailable(
            format!("port {port} of {part} is not forwarded in time"),
            format!("read what kubectl said in {}", log.display()),
        )
    })?;
    Ok(Forward {
        address: free,
        program,
    })
}

/// Whether the pod answers: kubectl accepts a connection whether it is there or not. All ports that are forwarded speak HTTP.
fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let mut connection = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.write_all(b"HEAD / HTTP/1.0\r\n\r\n")?;
        connection.read_exact(&mut [0])
    };
    ask().is_ok()
}
