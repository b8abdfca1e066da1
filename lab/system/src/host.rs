//! The machine that the engine runs on.
//!
//! Left out: whether it has what agora needs ([`crate::prerequisites`]).

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use anyhow::Context;
use records::evaluation::Machine;

use crate::engine::{self, docker};

/// A port of this machine's loopback that is free now: somebody else may take it before it is used.
///
/// # Errors
/// When none is free.
pub(crate) fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// What the engine's host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Processor cores.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: u64,
}

/// What the engine's host has.
///
/// # Errors
/// When the engine doesn't tell.
pub fn capacity() -> anyhow::Result<Capacity> {
    let info = docker(["info", "--format", "{{.NCPU}} {{.MemTotal}}"]).read()?;
    let (cores, memory) = info
        .trim()
        .split_once(' ')
        .with_context(|| format!("`docker info` said {info:?}"))?;
    Ok(Capacity {
        cores: cores.parse()?,
        memory_bytes: memory.parse()?,
    })
}

/// The machine, as runs and noise are told apart by it.
///
/// # Errors
/// When the engine doesn't tell.
pub fn machine() -> anyhow::Result<Machine> {
    let engine = version()?;
    let Capacity {
        cores,
        memory_bytes,
    } = capacity()?;
    Ok(Machine {
        cores,
        memory_bytes,
        engine,
    })
}

/// The engine's version; an error that says why when it doesn't answer.
pub fn version() -> anyhow::Result<String> {
    let version = docker(["version", "--format", "{{.Server.Version}}"]);
    let version = engine::answer(version.limit(Duration::from_secs(15)))?;
    Ok(version.trim().to_owned())
}
