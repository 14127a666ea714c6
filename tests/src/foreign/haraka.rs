//! Haraka as a filter node: its `xclient` plugin, a plugin that judges, and its `queue/discard`.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use super::PORT;
use crate::lab::{Family, Host, Process, paths};
use crate::smtp::Client;
use crate::wait::{PATIENCE, wait_until};

/// `queue/discard` is the only queue plugin, so nothing else can take a message.
const PLUGINS: &str = "xclient\njudge\nqueue/discard\n";

/// Relays for everybody who gets here: only the agents do. `DISCARD` is what `queue/discard` looks for, on both of
/// its hooks; were it not there, Haraka's own outbound queue would deliver.
const JUDGE: &str = "\
exports.hook_rcpt = (next, connection) => {
    connection.relaying = true
    const sender = connection.transaction.mail_from.user
    const about = `${connection.remote.ip} ${connection.hello.host}`
    if (sender === 'refused-at-rcpt') return next(DENY, `judge refuses ${about}`)
    if (sender === 'deferred-at-rcpt') return next(DENYSOFT, `judge defers ${about}`)
    next(OK)
}
exports.hook_data_post = (next, connection) => {
    connection.transaction.notes.discard = true
    const sender = connection.transaction.mail_from.user
    const about = `${connection.remote.ip} ${connection.hello.host}`
    if (sender === 'refused-at-end') return next(DENY, `judge refuses ${about}`)
    if (sender === 'deferred-at-end') return next(DENYSOFT, `judge defers ${about}`)
    next()
}
";

const DIRECTORY: &str = "/etc/haraka";

pub struct Haraka {
    process: Process,
}

impl Haraka {
    pub fn start(host: &Host) -> Result<Self> {
        let listen = Family::BOTH.map(|family| Self::address(family).to_string()).join(",");
        // Its own configuration, as `haraka -i` makes one, and over it what a node needs.
        let package = paths::packages("haraka")?.join("node_modules/Haraka");
        host.sh(&format!("mkdir -p {DIRECTORY} && cp -r {}/config {DIRECTORY}/", package.display()))?;
        for (file, content) in [
            ("config/plugins", PLUGINS.to_owned()),
            ("config/smtp.ini", format!("listen={listen}\nnodes=0\n")),
            ("config/me", "filter.provider.test\n".into()),
            ("config/xclient.hosts", Family::BOTH.map(|family| format!("{}\n", family.proxy())).concat()),
            ("plugins/judge.js", JUDGE.into()),
        ] {
            host.write(&format!("{DIRECTORY}/{file}"), content)?;
        }
        let mut command = Command::new("node");
        command.arg(package.join("bin/haraka"));
        command.args(["-c", DIRECTORY]);
        let mut process = host.spawn("haraka", command)?;
        wait_until("Haraka's banner", PATIENCE, || {
            ensure!(process.exited()?.is_none(), "Haraka ended:\n{}", process.output());
            let address = Self::address(Family::V4);
            Ok(Client::connect(host, address).and_then(|mut client| client.expect(220)).is_ok())
        })?;
        Ok(Self { process })
    }

    pub fn address(family: Family) -> SocketAddr {
        SocketAddr::new(family.filter_node(0), PORT)
    }

    pub fn log(&self) -> String {
        self.process.output()
    }
}
