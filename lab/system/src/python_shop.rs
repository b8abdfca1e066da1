//! The shop that agora began as (`examples/python-shop`), to compare agora with it: made, started behind either gateway.
//!
//! Left out: what is measured (`benches/comparison`), and taking it down ([`crate::take_down`]).

use std::{path::PathBuf, time::Duration};

use base::{outcome, progress::Step};

use crate::{
    compose::Compose,
    health,
    members::{self, Member},
    process::Call,
    project::{Project, Settings},
};

const BUILT_WITHIN: Duration = Duration::from_secs(20 * 60);
const HEALTHY_WITHIN: Duration = Duration::from_secs(120);
/// As in agora's compose.yaml: each check starts a process in a container.
const HEALTH_INTERVAL: &str = "15s";
/// The images that both systems run.
const SHARED_IMAGES: [&str; 3] = [
    "AGORA_IMAGE_TRAEFIK",
    "AGORA_IMAGE_POSTGRES",
    "AGORA_IMAGE_RABBITMQ",
];
/// Published on free ports.
const PORTS: [&str; 3] = [
    "SHOP_HTTP_PORT",
    "SHOP_DASHBOARD_PORT",
    "SHOP_RABBITMQ_UI_PORT",
];

/// What its gateway is configured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// Its own few lines.
    Plain,
    /// agora's files.
    Agoras,
}

/// A shop that can be started.
#[derive(Debug)]
pub struct PythonShop {
    project: Project,
    settings: Settings,
    compose: Compose,
    log: PathBuf,
}

impl PythonShop {
    /// Makes its image where that is missing. It gets agora's third-party images: that system was started before.
    ///
    /// # Errors
    /// When agora was never started, or the image can't be built.
    pub fn provide(agora: &Project, step: &Step) -> anyhow::Result<Self> {
        let compose = Compose::find_or_fetch(agora, step)?;
        let (project, settings) = (agora.python_shop(), agora.settings()?);
        let mut build = Call::new("bash")
            .args([project.root.join("build.sh")])
            .env("AGORA_COMPOSE", compose.command_line())
            .limit(BUILT_WITHIN);
        for image in SHARED_IMAGES {
            build = build.env(image, settings.require(image)?);
        }
        build.logged(&agora.log("python-shop-image"), |line| step.update(line))?;
        let free = "0".to_owned();
        let cpuset = settings
            .require("AGORA_CPUSET")
            .unwrap_or_default()
            .to_owned();
        let ports = PORTS.iter().map(|port| (*port, &free));
        let rarely = HEALTH_INTERVAL.to_owned();
        let others = [("AGORA_CPUSET", &cpuset), ("SHOP_HEALTH_INTERVAL", &rarely)];
        let settings = project.settings()?.with(ports.chain(others));
        Ok(Self {
            project,
            settings,
            compose,
            log: agora.log("python-shop"),
        })
    }

    /// Starts it and waits until all is healthy.
    ///
    /// # Errors
    /// When it isn't in time.
    pub fn start(&self, gateway: Gateway, step: &Step) -> anyhow::Result<Vec<Member>> {
        let project = match gateway {
            Gateway::Plain => self.project.clone(),
            Gateway::Agoras => self
                .project
                .clone()
                .with_compose_file("compose.agora-gateway.yaml"),
        };
        self.compose
            .up(&project, &self.settings, [])
            .logged(&self.log, |line| step.update(line))?;
        let look = || members::all(&self.project);
        let members = health::wait(HEALTHY_WITHIN, look, health::one_ended)?;
        match members.iter().find(|member| !member.is_healthy()) {
            Some(sick) => Err(outcome::failed(
                format!("the Python shop's {} is {}", sick.service, sick.condition()),
                "`docker compose logs` in examples/python-shop shows more",
            )),
            None => Ok(members),
        }
    }
}
