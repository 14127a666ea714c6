//! The cables between the hosts.
//!
//! ```text
//! customer eth0 ---- cust0 gateway inet0 ---- eth0 internet
//!                          gateway filt0 ---- eth0 filter
//! ```
//!
//! With a narrow path on one side two routers stand there, and the link between them has the smaller MTU.
//! Neither end is next to it: both offer full segments, and only ICMP errors tell them.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::host::Host;
use super::{CUSTOMER_INTERFACE, FILTER_INTERFACE, INTERNET_INTERFACE};

const FULL: u32 = 1500;

/// Of the customer's routes through a second gateway.
const BESIDE_TABLE: u32 = 100;

/// One path through the lab, from an end host to the gateway.
pub(super) struct Path<'a> {
    pub(super) end: &'a Host,
    pub(super) routers: &'a [Host],
    pub(super) gateway: &'a Host,
    pub(super) gateway_interface: &'static str,
    pub(super) narrow_mtu: u32,
    /// Third hexadecimal digit and second decimal octet of the end's network: 1 for 10.1.0.0/16 and fd01::/32.
    pub(super) network: u8,
}

impl Path<'_> {
    /// Lays the cables and gives the addresses and routes.
    pub(super) fn lay(&self) -> Result<()> {
        let Self { end, gateway, network: n, .. } = self;
        let (first_hop, hop_interface) = match self.routers {
            [] => (*gateway, self.gateway_interface),
            [near, far] => {
                self.lay_routers(near, far)?;
                (near, "down0")
            }
            _ => anyhow::bail!("a narrow path has two routers"),
        };
        cable(first_hop, hop_interface, end, "eth0")?;
        ip(
            first_hop,
            &[
                format!("addr add 10.{n}.0.1/16 dev {hop_interface}"),
                format!("addr add fd0{n}::1/32 dev {hop_interface}"),
            ],
        )?;
        ip(
            end,
            &[
                format!("addr add 10.{n}.0.2/16 dev eth0"),
                format!("addr add fd0{n}::2/32 dev eth0"),
                format!("route add default via 10.{n}.0.1"),
                format!("route add default via fd0{n}::1"),
            ],
        )
    }

    /// near --(narrow)-- far ---- gateway, on transfer networks 10.1n.x and fd1n:x.
    fn lay_routers(&self, near: &Host, far: &Host) -> Result<()> {
        let Self { gateway, gateway_interface: interface, network: n, .. } = self;
        cable_of(near, "up0", far, "down0", self.narrow_mtu)?;
        cable(far, "up0", gateway, interface)?;
        ip(
            near,
            &[
                format!("addr add 10.1{n}.1.2/24 dev up0"),
                format!("addr add fd1{n}:1::2/64 dev up0"),
                format!("route add default via 10.1{n}.1.1"),
                format!("route add default via fd1{n}:1::1"),
            ],
        )?;
        ip(
            far,
            &[
                format!("addr add 10.1{n}.1.1/24 dev down0"),
                format!("addr add fd1{n}:1::1/64 dev down0"),
                format!("addr add 10.1{n}.2.2/24 dev up0"),
                format!("addr add fd1{n}:2::2/64 dev up0"),
                format!("route add 10.{n}.0.0/16 via 10.1{n}.1.2"),
                format!("route add fd0{n}::/32 via fd1{n}:1::2"),
                format!("route add default via 10.1{n}.2.1"),
                format!("route add default via fd1{n}:2::1"),
            ],
        )?;
        ip(
            gateway,
            &[
                format!("addr add 10.1{n}.2.1/24 dev {interface}"),
                format!("addr add fd1{n}:2::1/64 dev {interface}"),
                format!("route add 10.{n}.0.0/16 via 10.1{n}.2.2"),
                format!("route add fd0{n}::/32 via fd1{n}:2::2"),
            ],
        )
    }
}

/// A second gateway's cables, on transfer networks 10.4.n.x: the customer's addresses of `prefix` go through it both ways.
pub(super) fn lay_beside(gateway: &Host, ends: [&Host; 3], prefix: &str) -> Result<()> {
    let interfaces = [CUSTOMER_INTERFACE, INTERNET_INTERFACE, FILTER_INTERFACE];
    for ((n, interface), end) in (1..).zip(interfaces).zip(ends) {
        cable(gateway, interface, end, "eth1")?;
        ip(
            gateway,
            &[
                format!("addr add 10.4.{n}.1/24 dev {interface}"),
                format!("route add 10.{n}.0.0/16 via 10.4.{n}.2"),
            ],
        )?;
        ip(end, &[format!("addr add 10.4.{n}.2/24 dev eth1")])?;
    }
    let [customer, internet, _] = ends;
    ip(
        customer,
        &[
            format!("rule add from {prefix} lookup {BESIDE_TABLE}"),
            format!("route add default via 10.4.1.1 table {BESIDE_TABLE}"),
        ],
    )?;
    ip(internet, &[format!("route add {prefix} via 10.4.2.1")])
}

/// The gateway's and the routers' job.
pub(super) fn forward(host: &Host) -> Result<()> {
    // From inside: which network's settings these files show depends on who opens them.
    host.sh("echo 1 >/proc/sys/net/ipv4/ip_forward && echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        .map(|_| ())
}

/// Runs `ip` with one command a line, in the host's network.
pub fn ip(host: &Host, lines: &[String]) -> Result<()> {
    use std::io::Write;
    use std::process::Stdio;
    // Only the network is entered: `netns PID` in a line counts processes as the machine does.
    let output = host.in_network(|| {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start ip")?;
        let mut input = child.stdin.take().context("ip's standard input")?;
        input.write_all(lines.join("\n").as_bytes())?;
        drop(input);
        Ok(child.wait_with_output()?)
    })?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip on {} refused:\n{}\n{errors}", host.name(), lines.join("\n"));
    Ok(())
}

/// A cable between two hosts, plugged in.
pub fn cable(a: &Host, a_interface: &str, b: &Host, b_interface: &str) -> Result<()> {
    cable_of(a, a_interface, b, b_interface, FULL)
}

fn cable_of(a: &Host, a_interface: &str, b: &Host, b_interface: &str, mtu: u32) -> Result<()> {
    let peer = b.pid();
    ip(
        a,
        &[
            format!(
                "link add {a_interface} mtu {mtu} type veth peer name {b_interface} mtu {mtu} netns {peer}"
            ),
            format!("link set {a_interface} up"),
        ],
    )?;
    ip(b, &[format!("link set {b_interface} up")])
}
